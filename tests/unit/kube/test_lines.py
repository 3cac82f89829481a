"""Lines out of chunks, whatever the cuts."""

from collections.abc import AsyncIterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube.lines import LineSplitter, split_lines

LINES = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"x")), max_size=8)


@settings(deadline=None)
@given(lines=LINES, cuts=st.lists(st.integers(0, 300), max_size=12), unfinished=st.binary(max_size=5))
def test_any_cut_gives_the_same_lines(lines: list[bytes], cuts: list[int], unfinished: bytes) -> None:
    unfinished = unfinished.replace(b"\n", b"x")
    data = b"".join(line + b"\n" for line in lines) + unfinished
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = LineSplitter()
    seen = [line for a, b in pairwise(borders) for line in splitter.feed(data[a:b])]
    assert seen == [line for line in lines if line.strip()]
    assert splitter.unfinished == bool(unfinished)


async def test_line_cut_off_by_the_end_is_no_line() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"a":1}\n{"b"'
        yield b":2}\n{"

    assert [line async for line in split_lines(chunks())] == [b'{"a":1}', b'{"b":2}']
