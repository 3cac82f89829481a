"""The piece journal: which pieces of a file under way are on the disk, so that a restart does not fetch them again.

A journal may forget, but it must never claim a piece that is not there. Two claims of different strength make that
possible without an `fsync` for each piece:

    WRITTEN   the bytes were handed to the kernel. Holds while this kernel runs: a killed process loses nothing that it
              has written. The journal's header names the boot; after another boot such claims are void.
    DURABLE   appended only after `fdatasync` of the data, and synced itself. Holds after a power failure too.

So WRITTEN is appended at once, without any sync, when a piece is complete: `kill -9` costs at most the pieces that
were arriving. DURABLE follows in groups, a few seconds apart: whatever was completed during one sync is covered by the
next (group commit). Not without a pause: the kernel writes back by itself, and writers of a file wait while it is synced,
so that syncing again and again makes the whole download as slow as the disk.

Every claim carries the xxh3-128 of its piece. On resume the pieces are read once anyway (for the sha256 of the file) and
compared with it, so even a disk that lied about `fdatasync` costs a piece, not a model.

Format, little-endian; every record carries a check over itself and its position, so that a torn or stray write is noticed.
The reader stops at the first record that is not perfect::

    header, 64 bytes    magic "DMCJRNL1", size of the file u64, bytes of a piece u32, 12 zero bytes, boot id 16 bytes,
                        xxh3-128 of the 48 bytes before
    record, 32 bytes    kind u8 (1 WRITTEN, 2 DURABLE), 3 zero bytes, number of the piece u32, xxh3-128 of the piece,
                        xxh3-64 of the 24 bytes before, seeded with the number of the record
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import xxhash

from agent.transfer.pieces import piece_count

_HEADER = struct.Struct("<8sQI12x16s")
_RECORD = struct.Struct("<B3xI16s")
_CHECK = struct.Struct("<Q")
_MAGIC = b"DMCJRNL1"
HEADER_BYTES = _HEADER.size + 16
RECORD_BYTES = _RECORD.size + _CHECK.size
DIGEST_BYTES = 16
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Strength(IntEnum):
    """What a claim survives."""

    WRITTEN = 1
    DURABLE = 2


class Claim(NamedTuple):
    """That a piece is on the disk, with the xxh3-128 of its content (16 bytes)."""

    strength: Strength
    digest: bytes


def boot_id() -> bytes:
    """16 bytes that differ after every boot of this machine (random(4))."""
    try:
        return uuid.UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        # Unknown: claims must not outlive this process.
        return uuid.uuid4().bytes


def encode_header(size: int, piece_bytes: int, boot: bytes) -> bytes:
    """The head of a journal."""
    head = _HEADER.pack(_MAGIC, size, piece_bytes, boot)
    return head + xxhash.xxh3_128_digest(head)


def encode_record(number: int, index: int, claim: Claim) -> bytes:
    """Record `number` (from 0) of a journal: the claim on piece `index`."""
    body = _RECORD.pack(claim.strength, index, claim.digest)
    return body + _CHECK.pack(xxhash.xxh3_64_intdigest(body, seed=number))


def decode(data: bytes, size: int, piece_bytes: int, boot: bytes) -> dict[int, Claim]:
    """The claims that hold now, by piece; nothing when the journal is of another file, piece size or format."""
    if data[:HEADER_BYTES] in (b"", b"\0"):
        return {}
    head = data[:HEADER_BYTES]
    if len(head) < HEADER_BYTES or head[_HEADER.size :] != xxhash.xxh3_128_digest(head[: _HEADER.size]):
        return {}
    magic, its_size, its_piece_bytes, its_boot = _HEADER.unpack(head[: _HEADER.size])
    if (magic, its_size, its_piece_bytes) != (_MAGIC, size, piece_bytes):
        return {}
    count = piece_count(size, piece_bytes)
    claims: dict[int, Claim] = {}
    for number, offset in enumerate(range(HEADER_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES)):
        record = data[offset : offset + RECORD_BYTES]
        kind, index, digest = _RECORD.unpack(record[: _RECORD.size])
        (check,) = _CHECK.unpack(record[_RECORD.size :])
        if check != xxhash.xxh3_64_intdigest(record[: _RECORD.size], seed=number):
            break
        if kind not in (Strength.WRITTEN, Strength.DURABLE) or index >= count:
            break
        if kind == Strength.DURABLE or its_boot == boot:
            claims[index] = Claim(Strength(kind), digest)
    return claims


class Journal:
    """An open journal. Not thread-safe: its owner (`agent.transfer.partial`) has the lock."""

    def __init__(self, path: Path, size: int, piece_bytes: int, boot: bytes) -> None:
        self._path = path
        self._size = size
        self._piece_bytes = piece_bytes
        self._boot = boot
        self._descriptor = -1
        self._records = 0

    def load(self) -> dict[int, Claim]:
        """The claims on disk that hold now."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        return decode(data, self._size, self._piece_bytes, self._boot)

    def start(self, claims: Mapping[int, Claim]) -> None:
        """Replaces the journal by a new one with exactly `claims`, atomically, and opens it for appending.

        At every start and whenever a claim has to be taken back: that removes torn tails, and claims of another boot.
        """
        self.close()
        temporary = self._path.with_name(self._path.name + ".new")
        records = [encode_record(number, index, claim) for number, (index, claim) in enumerate(claims.items())]
        data = encode_header(self._size, self._piece_bytes, self._boot) + b"".join(records)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(descriptor, data)
            # Crash after the rename: the name must not lead to an empty journal where there was a full one.
            os.fsync(descriptor)
            temporary.rename(self._path)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._records = len(records)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Crash later: appended records must not go into a file that has no name.
            os.fsync(directory)
        finally:
            os.close(directory)

    def append(self, claims: Mapping[int, Claim]) -> None:
        """Adds claims. The data of DURABLE ones has to be synced before."""
        records = [
            encode_record(number, index, claim) for number, (index, claim) in enumerate(claims.items(), self._records)
        ]
        _write(self._descriptor, b"".join(records))
        self._records += len(records)

    def sync(self) -> None:
        """Makes what was appended survive a power failure."""
        # Crash after this: the claims hold. Crash before: they are missing, which only costs their pieces.
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Closes the file; it stays on disk."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
