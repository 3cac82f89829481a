import contextlib
import ctypes
import errno
import os
from pathlib import Path

import pytest
import xxhash

from agent.transfer import partial as module
from agent.transfer.partial import PartialFile, allocate

PIECE = 1000
SIZE = 4500
BOOT = b"b" * 16
CONTENT = bytes(range(256)) * 18


def make(directory: Path, size: int = SIZE, boot: bytes = BOOT) -> PartialFile:
    file = PartialFile(directory / "key", size, PIECE, boot)
    file.prepare()
    return file


def fill(file: PartialFile, *pieces: int) -> None:
    file.open()
    for index in pieces:
        piece = file.piece(index)
        data = CONTENT[piece.start : piece.end]
        file.write(piece.start, memoryview(data))
        file.finish(index, xxhash.xxh3_128_digest(data))


def test_finished_pieces_are_there_for_the_next_process(tmp_path: Path) -> None:
    file = make(tmp_path)
    assert file.missing() == [0, 1, 2, 3, 4]
    fill(file, 0, 3, 4)
    # Not closed: a killed process closes nothing.
    later = make(tmp_path)
    assert later.missing() == [1, 2]
    assert later.finished_bytes() == 2500
    assert later.unproven(3) == xxhash.xxh3_128_digest(CONTENT[3000:4000])
    assert later.unproven(1) is None
    later.open()
    buffer = memoryview(bytearray(1000))
    assert later.read(3000, buffer) == 1000
    assert bytes(buffer) == CONTENT[3000:4000]
    file.close()
    later.close()


def test_after_a_power_failure_only_flushed_pieces_count(tmp_path: Path) -> None:
    file = make(tmp_path)
    fill(file, 0, 1)
    file.flush()
    fill(file, 2)
    file.close()
    assert make(tmp_path, boot=b"n" * 16).missing() == [2, 3, 4]
    assert make(tmp_path).missing() == [3, 4]


def test_data_is_synced_before_the_journal_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(tmp_path)
    fill(file, 0)
    seen: list[tuple[str, list[int]]] = []

    def spy(descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((name, make(tmp_path, boot=b"n" * 16).missing()))

    monkeypatch.setattr(os, "fdatasync", spy)
    file.flush()
    file.close()
    assert seen == [("data", [0, 1, 2, 3, 4]), ("journal", [1, 2, 3, 4])]


def test_a_piece_that_is_taken_back_is_missing_for_the_next_process_too(tmp_path: Path) -> None:
    file = make(tmp_path)
    fill(file, 0, 1)
    file.flush()
    file.take_back([0])
    file.close()
    assert make(tmp_path).missing() == [0, 2, 3, 4]


def test_everything_can_be_taken_back(tmp_path: Path) -> None:
    file = make(tmp_path)
    fill(file, 0, 1, 2, 3, 4)
    file.flush()
    file.take_back(range(5))
    assert file.missing() == [0, 1, 2, 3, 4]
    file.close()
    assert make(tmp_path).missing() == [0, 1, 2, 3, 4]


def test_a_journal_without_its_data_is_not_believed(tmp_path: Path) -> None:
    file = make(tmp_path)
    fill(file, 0, 1)
    file.flush()
    file.close()
    file.data.unlink()
    assert make(tmp_path).missing() == [0, 1, 2, 3, 4]


def test_nothing_is_written_outside_of_the_file(tmp_path: Path) -> None:
    file = make(tmp_path)
    file.open()
    for offset, length in [(-1, 1), (SIZE, 1), (SIZE - 1, 2)]:
        with pytest.raises(ValueError, match="do not belong"):
            file.write(offset, memoryview(bytes(length)))
    file.close()
    assert file.data.stat().st_size == SIZE


def test_a_file_of_one_piece_has_no_journal(tmp_path: Path) -> None:
    file = make(tmp_path, size=10)
    fill(file, 0)
    file.flush()
    file.close()
    assert os.listdir(tmp_path) == ["key"]
    assert (tmp_path / "key").read_bytes() == CONTENT[:10]
    assert make(tmp_path, size=10).missing() == [0]


def test_room_is_taken_before_anything_is_written(tmp_path: Path) -> None:
    file = make(tmp_path, size=10_000_000)
    assert file.data.stat().st_size == 10_000_000
    assert file.allocated_bytes() >= 10_000_000


def test_without_fallocate_the_file_is_sparse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def fallocate(self, *arguments: object) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(module, "_LIBC", Libc())
    file = make(tmp_path, size=10_000_000)
    assert file.data.stat().st_size == 10_000_000
    assert file.allocated_bytes() == 0


def test_too_long_data_from_an_older_start_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100)
    descriptor = os.open(path, os.O_RDWR)
    try:
        allocate(descriptor, 60)
    finally:
        os.close(descriptor)
    assert path.stat().st_size == 60


def test_no_file_stays_open_after_prepare_and_close(tmp_path: Path) -> None:
    def opened() -> list[str]:
        """Of this test: what earlier ones have left open may be closed at any moment."""
        found = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the one that listed them
                found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return [path for path in found if path.startswith(str(tmp_path))]

    file = make(tmp_path)
    file.open()
    file.open()
    assert opened()
    file.close()
    file.close()
    assert opened() == []


def test_what_is_left_of_a_longer_small_file_does_not_stay_behind_it(tmp_path: Path) -> None:
    fill(make(tmp_path, size=900), 0)
    fill(make(tmp_path, size=10), 0)
    assert (tmp_path / "key").read_bytes() == CONTENT[:10]


@pytest.mark.parametrize(("before", "after"), [(10, SIZE), (SIZE, 10)])
def test_a_partial_of_another_kind_is_begun_anew(tmp_path: Path, before: int, after: int) -> None:
    fill(make(tmp_path, size=before), 0)
    file = make(tmp_path, size=after)
    fill(file, 0)
    assert file.missing() == list(range(1, file.pieces))
