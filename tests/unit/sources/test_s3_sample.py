"""Which objects of a bucket are asked about."""

from hypothesis import given
from hypothesis import strategies as st

from modelcache.sources.base import SourceFile
from modelcache.sources.s3_client import SAMPLE, sample


@given(st.integers(0, 100), st.sets(st.integers(0, 99)))
def test_a_sample_is_spread_and_has_all_that_is_announced(count: int, announced: set[int]) -> None:
    files = [SourceFile(path=f"{number:03d}", size=1) for number in range(count)]
    wanted = {f"{number:03d}" for number in announced if number < count}
    first, rest = sample(files, wanted)
    assert first.keys() | rest.keys() == {file.path for file in files}
    assert not first.keys() & rest.keys()
    assert wanted <= first.keys()
    assert len(first) - len(wanted) <= SAMPLE
    assert count == 0 or first
