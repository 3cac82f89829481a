"""What is read of a source before it is believed to have the content of a blob."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.cancel import CancelToken
from agent.transfer.proof import MAX_WINDOWS, TRIES, WHOLE_BYTES, WINDOW_BYTES, shows, windows
from agent.transfer.source import RangesIgnored, Sink
from modelcache.manifest import ManifestFile
from modelcache.sources.errors import NotFound, SourceError, Unreachable

SIZE = 3 * WHOLE_BYTES


@given(size=st.integers(1, 2**44), seed=st.integers())
def test_windows_lie_in_the_file_one_in_each_section(size: int, seed: int) -> None:
    chosen = windows(size, random.Random(seed).randrange)
    assert len(chosen) == (1 if size <= WHOLE_BYTES else min(MAX_WINDOWS, -(-size // WHOLE_BYTES)))
    assert chosen == sorted(chosen)
    for number, (start, end) in enumerate(chosen):
        assert 0 <= start < end <= size
        if size > WHOLE_BYTES:
            assert end - start == WINDOW_BYTES
            low, high = size * number // len(chosen), size * (number + 1) // len(chosen)
            assert low - WINDOW_BYTES <= start < high


@pytest.mark.parametrize("byte", [0, 1, WHOLE_BYTES, SIZE // 2, SIZE - WINDOW_BYTES, SIZE - 1])
def test_no_byte_is_safe_from_being_chosen(byte: int) -> None:
    def lands_on(byte: int) -> bool:
        """Whether some choice of the place in its section reads the byte."""
        for start in (byte, max(0, byte - WINDOW_BYTES + 1), byte - byte % (SIZE // 3)):
            for window in windows(SIZE, lambda count, start=start: start % (SIZE // 3) % count):  # type: ignore[misc]  # bound now
                if window.start <= byte < window.end:
                    return True
        return False

    assert lands_on(byte)


class Memory:
    """A PieceSource that has `data`, and does before each read what the test says."""

    def __init__(self, data: bytes, *troubles: Exception, portion: int = 10_000) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []
        self._troubles = list(troubles)
        self._portion = portion

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        self.asked.append((sink.position, sink.end))
        if self._troubles:
            raise self._troubles.pop(0)
        while sink.position < sink.end:
            space = sink.space()[: self._portion]
            part = self.data[sink.position : sink.position + len(space)]
            space[: len(part)] = part
            sink.filled(len(part))

    def forget(self, file: ManifestFile) -> None:
        raise AssertionError("nothing was sent that could be forgotten")


def judge(source: Memory, blob: Path, waits: list[SourceError] | None = None) -> bool | None:
    return shows(
        source,
        ManifestFile(path="a", size=blob.stat().st_size),
        blob,
        below=random.Random(1).randrange,
        wait=lambda error, failures: (waits if waits is not None else []).append(error),
        cancel=CancelToken(),
    )


@pytest.fixture
def data() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture
def blob(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "blob").write_bytes(data)
    return tmp_path / "blob"


def test_who_has_the_content_shows_it_with_little(blob: Path, data: bytes) -> None:
    source = Memory(data)
    assert judge(source, blob) is True
    assert sum(end - start for start, end in source.asked) == 3 * WINDOW_BYTES


def test_who_lacks_the_end_of_a_small_file_fails(tmp_path: Path) -> None:
    small = random.Random(3).randbytes(WHOLE_BYTES)
    (tmp_path / "small").write_bytes(small)
    assert judge(Memory(small), tmp_path / "small") is True
    assert judge(Memory(small[:-1] + bytes([small[-1] ^ 1])), tmp_path / "small") is False


def test_who_has_other_content_fails(blob: Path) -> None:
    assert judge(Memory(random.Random(8).randbytes(SIZE)), blob) is False


def test_a_blob_that_is_shorter_than_it_should_be_shows_nothing(blob: Path, data: bytes) -> None:
    with blob.open("r+b") as file:
        file.truncate(1000)
    source = Memory(data)
    verdict = shows(
        source,
        ManifestFile(path="a", size=SIZE),
        blob,
        below=lambda n: n - 1,
        wait=lambda *_: None,
        cancel=CancelToken(),
    )
    assert verdict is False


def test_what_passes_is_waited_out_but_not_for_ever(blob: Path, data: bytes) -> None:
    waits: list[SourceError] = []
    away = [Unreachable("away")] * (TRIES - 1)
    assert judge(Memory(data, *away), blob, waits) is True
    assert waits == away
    assert judge(Memory(data, *away, Unreachable("still")), blob) is None
    assert judge(Memory(data, NotFound("not on this node")), blob, waits) is None
    assert waits == away, "what waiting does not mend is not waited out"


def test_a_source_without_ranges_can_show_nothing_by_parts(blob: Path, data: bytes) -> None:
    assert judge(Memory(data, RangesIgnored()), blob) is None
