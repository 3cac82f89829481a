from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.hashing import FileDigest
from agent.transfer.partial import PartialFile
from agent.transfer.sink import BufferPool, PieceSink

PIECE = 100
CONTENT = bytes(range(250))


class Record:
    def __init__(self, directory: Path, size: int = len(CONTENT), buffer_bytes: int = 64) -> None:
        self.partial = PartialFile(directory / "key", size, PIECE, b"b" * 16)
        self.partial.prepare()
        self.partial.open()
        self.buffers = BufferPool(buffer_bytes)
        self.received = 0
        self.finished: list[int] = []

    def sink(self, first: int, last: int, digest: FileDigest | None = None) -> PieceSink:
        return PieceSink(self.partial, first, last, self.buffers, self._received, self.finished.append, digest)

    def _received(self, count: int) -> None:
        self.received += count

    def data(self) -> bytes:
        return self.partial.data.read_bytes()


def push(sink: PieceSink, most: int, until: int | None = None) -> None:
    """Fills a sink with the right bytes, `most` at a time."""
    end = sink.end if until is None else until
    while sink.position < end:
        space = sink.space()
        count = min(most, len(space), end - sink.position)
        assert count > 0
        space[:count] = CONTENT[sink.position : sink.position + count]
        sink.filled(count)


@settings(deadline=None, max_examples=40)
@given(portion=st.integers(1, 300), buffer_bytes=st.integers(1, 300), first=st.integers(0, 2), count=st.integers(1, 3))
def test_bytes_arrive_where_they_belong(
    tmp_path_factory: pytest.TempPathFactory, portion: int, buffer_bytes: int, first: int, count: int
) -> None:
    record = Record(tmp_path_factory.mktemp("sink"), buffer_bytes=buffer_bytes)
    last = min(3, first + count)
    sink = record.sink(first, last)
    push(sink, portion)
    sink.release()
    assert record.finished == list(range(first, last))
    assert record.received == sink.end - sink.start
    assert record.data()[sink.start : sink.end] == CONTENT[sink.start : sink.end]
    for index in range(first, last):
        piece = record.partial.piece(index)
        assert record.partial.unproven(index) is None
        assert record.partial.finished(index)
        assert record.partial.piece_digest(index) == xxhash.xxh3_128_digest(CONTENT[piece.start : piece.end])
    record.partial.close()


def test_half_a_piece_survives_giving_the_buffer_back(tmp_path: Path) -> None:
    record = Record(tmp_path)
    sink = record.sink(1, 2)
    push(sink, 7, until=130)
    sink.release()
    assert sink.position == 130
    assert record.data()[100:130] == CONTENT[100:130]
    push(sink, 7)
    assert record.finished == [1]
    assert record.partial.piece_digest(1) == xxhash.xxh3_128_digest(CONTENT[100:200])
    record.partial.close()


def test_restart_begins_the_piece_anew_and_takes_its_bytes_back(tmp_path: Path) -> None:
    record = Record(tmp_path, size=80)
    sink = record.sink(0, 1, FileDigest(80, git=False))
    space = sink.space()
    space[:30] = b"?" * 30
    sink.filled(30)
    sink.flush()
    sink.restart()
    assert (sink.position, record.received) == (0, 0)
    push(sink, 16)
    assert record.received == 80
    assert record.partial.piece_digests() == xxhash.xxh3_128_digest(CONTENT[:80])
    expected = FileDigest(80, git=False)
    expected.update(memoryview(CONTENT[:80]))
    assert sink.digest is not None
    assert sink.digest.result() == expected.result()
    record.partial.close()


def test_a_stream_skips_what_is_there(tmp_path: Path) -> None:
    record = Record(tmp_path)
    push(record.sink(1, 2), 50)
    record.received = 0
    record.finished.clear()
    stream = record.sink(0, 3)
    push(stream, 33, until=150)
    stream.restart()  # the connection broke; piece 0 stays
    assert record.received == 100
    push(stream, 33)
    assert record.finished == [0, 2]
    assert record.received == 150
    assert record.data() == CONTENT
    record.partial.close()


def test_more_bytes_than_asked_for_are_refused(tmp_path: Path) -> None:
    record = Record(tmp_path)
    sink = record.sink(2, 3)
    with pytest.raises(ValueError, match="more than piece 2"):
        sink.filled(51)
    record.partial.close()


def test_buffers_are_used_again() -> None:
    pool = BufferPool(10)
    first = pool.take()
    pool.give_back(first)
    assert pool.take() is first
    assert pool.take() is not first
