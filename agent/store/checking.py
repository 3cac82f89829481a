"""Is what is published still what was published? A cheap look without reading, and a full one.

The quick check compares `lstat` with the index: a file that was truncated, replaced, rewritten, removed, made unreadable,
given away or turned into a symlink differs in size, inode, mtime, mode, owner or type. 20,000 files take a fraction of a
second, so an agent that restarts can keep its labels at once. What it cannot see is a disk that returns other bytes than
were written: that is what the deep check is for, which hashes every file again and names the damaged pieces where the piece
digests are known.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import xxhash

from agent.store.durable import files_below
from agent.store.rows import FileRow

READ_BYTES = 1 << 20
_XXH3_128_BYTES = 16
FILE_MODE = 0o444
_FILE = stat.S_IFREG | FILE_MODE
DIRECTORY_MODE = 0o755
"""Of everything published. Owned by the agent: an owner can make a file writable again."""


class ProblemKind(StrEnum):
    """What is wrong with one file."""

    MISSING = "missing"
    NOT_A_FILE = "not-a-file"
    CHANGED = "changed"
    """Size, mtime, inode, mode or owner differ from what they were: somebody touched it."""
    UNPROVEN = "unproven"
    """It looks as it should, but its content was found to be wrong, or nobody can say that it is right."""
    DAMAGED = "damaged"
    """The content does not have the digest that it must have."""
    UNEXPECTED = "unexpected"
    """A file that belongs to no manifest lies in a published directory."""
    UNREADABLE = "unreadable"


class Problem(NamedTuple):
    """One finding. `path` is absolute; `sha256` is what the content should be, empty for what should have none."""

    path: Path
    kind: ProblemKind
    detail: str
    sha256: str
    bad_pieces: tuple[int, ...] = ()


def compare(place: str | Path, row: FileRow, *, copy: bool = False) -> Problem | None:
    """The difference between a published file and its row in the index, without reading content.

    `copy`: it may be another inode with the same mtime, as in the hub view when no link was left. Takes plain strings
    because this is called for every file on the node at every start, and making Path objects costs as much as the look.
    """
    try:
        found = os.lstat(place)
    except FileNotFoundError:
        return Problem(Path(place), ProblemKind.MISSING, "the file is gone", row.sha256)
    except OSError as error:
        return Problem(Path(place), ProblemKind.UNREADABLE, error.strerror or str(error), row.sha256)
    if (
        found.st_mode == _FILE
        and (found.st_size, found.st_mtime_ns, found.st_uid) == (row.size, row.mtime_ns, os.geteuid())
        and (copy or found.st_ino == row.inode)
    ):
        return None
    if not stat.S_ISREG(found.st_mode):
        return Problem(Path(place), ProblemKind.NOT_A_FILE, "something else lies in its place", row.sha256)
    for what, expected, actual in (
        ("size", row.size, found.st_size),
        ("inode", row.inode, row.inode if copy else found.st_ino),
        ("mtime in ns", row.mtime_ns, found.st_mtime_ns),
        ("owner", os.geteuid(), found.st_uid),
    ):
        if expected != actual:
            detail = f"{what} is {actual}, was {expected}"
            return Problem(Path(place), ProblemKind.CHANGED, detail, row.sha256)
    detail = f"mode is {stat.S_IMODE(found.st_mode):04o}, was {FILE_MODE:04o}"
    return Problem(Path(place), ProblemKind.CHANGED, detail, row.sha256)


def compare_directory(place: str) -> Problem | None:
    """What keeps pods out of a directory, or lets others in. One that is missing shows in its files."""
    try:
        found = os.lstat(place)
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    if stat.S_IMODE(found.st_mode) != DIRECTORY_MODE:
        detail = f"mode is {stat.S_IMODE(found.st_mode):04o}, was {DIRECTORY_MODE:04o}"
    elif found.st_uid != os.geteuid():
        detail = f"owner is {found.st_uid}, was {os.geteuid()}"
    else:
        return None
    return Problem(Path(place), ProblemKind.CHANGED, detail, "")


def directories_of(paths: Iterable[str]) -> set[str]:
    """The directories in which relative `paths` lie, the empty path for the top among them."""
    found = {""}
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def take_ownership(place: Path, mode: int) -> None:
    """Gives a file or directory of ours its owner and mode back. Raises OSError."""
    found = os.lstat(place)
    if found.st_uid != os.geteuid():
        os.chown(place, os.geteuid(), os.getegid(), follow_symlinks=False)
    if stat.S_IMODE(found.st_mode) != mode:
        place.chmod(mode)


def judge(path: Path, row: FileRow, content: ContentDigest, pieces: bytes | None) -> Problem | None:
    """What is wrong with content that was read; `pieces` are the digests that its pieces should have, if known."""
    if content.sha256 == row.sha256:
        return None
    bad = differing_pieces(pieces, content.pieces) if pieces else ()
    detail = f"sha256 is {content.sha256}, must be {row.sha256}"
    return Problem(path, ProblemKind.DAMAGED, detail, row.sha256, bad)


def unexpected(directory: Path, expected: Iterable[str]) -> list[Problem]:
    """Files below `directory` that are not among the relative paths `expected`."""
    if not directory.is_dir() or directory.is_symlink():
        return []  # then the files that are expected are missing, which is found elsewhere
    known = set(expected)
    detail = "it belongs to no file of the manifest"
    return [
        Problem(directory / path, ProblemKind.UNEXPECTED, detail, "")
        for path in files_below(directory)
        if path not in known
    ]


class ContentDigest(NamedTuple):
    """What a file contains: its size, sha256, and the xxh3-128 of each piece one after the other."""

    size: int
    sha256: str
    pieces: bytes


def digest_file(path: Path, piece_bytes: int, paid: Callable[[int], None]) -> ContentDigest:
    """Reads a regular file once, in constant memory. `paid` is called with the bytes of every read: it may wait or raise."""
    whole = hashlib.sha256()
    pieces = bytearray()
    size = 0
    buffer = memoryview(bytearray(READ_BYTES))
    # O_NOFOLLOW: a symlink planted in the tree must not make the agent read something else.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        piece = xxhash.xxh3_128()
        left = piece_bytes
        while True:
            count = os.readv(descriptor, [buffer[: min(READ_BYTES, left)]])
            if count == 0:
                break
            paid(count)
            whole.update(buffer[:count])
            piece.update(buffer[:count])
            size += count
            left -= count
            if left == 0:
                pieces += piece.digest()
                piece.reset()
                left = piece_bytes
        if left < piece_bytes:
            pieces += piece.digest()
        # What was read only to be checked must not push what workers use out of memory; and the next check has to see
        # the disk, not the cache. (Pages that a process has mapped stay.)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return ContentDigest(size, whole.hexdigest(), bytes(pieces))


def damaged_pieces(
    path: Path, piece_bytes: int, expected: bytes, paid: Callable[[int], None], threads: int = 2
) -> tuple[int, ...]:
    """Numbers of the pieces of a regular file whose xxh3-128 is not the one in `expected`, missing and surplus ones too.

    Finds what a disk or a stray write does to a file ten times faster than its sha256 does; against somebody who chooses
    the damage only sha256 helps. Pieces are independent, so `threads` of them are read at a time: hashing from the cache
    of the CPU costs a third of reading from that of the disk, and one thread would do them one after the other. `paid` is
    called with the bytes of every read, from these threads: it may wait or raise. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        count = max(-(-size // piece_bytes), len(expected) // _XXH3_128_BYTES)
        numbers = iter(range(count))
        bad: list[int] = []

        def check() -> None:
            buffer = memoryview(bytearray(READ_BYTES // 2))
            for number in numbers:  # one iterator for all threads: each piece goes to one of them
                start = number * piece_bytes
                actual = _piece_digest(descriptor, start, start + piece_bytes, buffer, paid)
                if actual != expected[number * _XXH3_128_BYTES :][:_XXH3_128_BYTES]:
                    bad.append(number)

        with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
            for worker in [pool.submit(check) for _ in range(min(threads, count))]:
                worker.result()
    finally:
        os.close(descriptor)
    return tuple(sorted(bad))


def _piece_digest(
    descriptor: int, start: int, end: int, buffer: memoryview, paid: Callable[[int], None]
) -> bytes | None:
    """xxh3-128 of a range, or of what the file has of it; None when that is nothing."""
    digest = xxhash.xxh3_128()
    offset = start
    while offset < end:
        count = os.preadv(descriptor, [buffer[: min(len(buffer), end - offset)]], offset)
        if count == 0:
            break
        paid(count)
        digest.update(buffer[:count])
        offset += count
    return digest.digest() if offset > start else None


def differing_pieces(expected: bytes, actual: bytes) -> tuple[int, ...]:
    """Numbers of the pieces whose 16-byte digests differ between two concatenations, or that only one has."""
    count = max(len(expected), len(actual)) // 16
    return tuple(number for number in range(count) if expected[number * 16 :][:16] != actual[number * 16 :][:16])
