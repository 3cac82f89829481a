"""One file under way: `partial/<key>/data` and `partial/<key>/journal`; just `partial/<key>` if it has only one piece.

A file of one piece needs no journal: it is complete or it is not, and its content is checked by digest. Without a directory
for each, 2,000 small files cost half of the file system's work.

States of a piece: missing -> written (claimed in the journal, WRITTEN) -> durable (DURABLE). Pieces taken over from an
earlier run are `unproven` until their xxh3-128 was compared; whoever reads the file for its sha256 does that on the way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Collection
from pathlib import Path

from agent.store.durable import remove_tree
from agent.transfer.journal import Claim, Journal, Strength
from agent.transfer.pieces import Piece, piece_at, piece_count
from agent.transfer.reflink import clone_range

WRITE_BYTES = 256 * 1024
"""At once. ext4 makes folios as large as the writes, and the larger they are, the more often a virtual machine has to take
their memory from its host anew (see `benchmarks.memory`): 2 GiB took 2.6 s of CPU time, and 3.0 s with 1 MiB."""


class PartialFile:
    """Thread-safe. Data is written to disjoint ranges by several threads at once."""

    def __init__(self, path: Path, size: int, piece_bytes: int, boot: bytes) -> None:
        self.path = path
        self.size = size
        self.piece_bytes = piece_bytes
        self.pieces = piece_count(size, piece_bytes)
        self.data = path / "data" if self.pieces > 1 else path
        self._journal = Journal(path / "journal", size, piece_bytes, boot) if self.pieces > 1 else None
        self._descriptor = -1
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._writing = threading.Lock()
        self._claims: dict[int, Claim] = {}
        self._unproven: set[int] = set()

    def prepare(self) -> None:
        """Creates or takes over what is on the disk and gives the file its room. Raises OSError (ENOSPC).

        Afterwards `finished` knows the pieces of an earlier run. No file stays open.
        """
        if self.path.is_dir() != (self._journal is not None):
            remove_tree(self.path)  # begun with another size of pieces
        if self._journal is None:
            return
        self.path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The data file gets its size before there is a journal. Without it the journal speaks of other data.
            claims = self._journal.load() if os.fstat(descriptor).st_size == self.size else {}
            allocate(descriptor, self.size)
        finally:
            os.close(descriptor)
        self._claims = claims
        self._unproven = set(claims)

    def allocated_bytes(self) -> int:
        """Bytes of the disk that the data file has."""
        try:
            return self.data.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def open(self) -> None:
        """Opens the files for work. Idempotent."""
        with self._lock:
            if self._descriptor >= 0:
                return
            self._descriptor = os.open(self.data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if self._journal is not None:
                self._journal.start(self._claims)
            else:
                # What is left of an earlier run may be longer, if that believed in another size.
                os.ftruncate(self._descriptor, 0)
                if self.size > WRITE_BYTES:
                    # Writing into blocks that are there costs ext4 a third less CPU time than promising them write by write
                    # (200 files of 10 MiB: 0.35 s instead of 0.55). For what is written at once it makes no difference.
                    allocate(self._descriptor, self.size)

    def close(self) -> None:
        """Closes the files; they stay on the disk. Idempotent."""
        with self._flushing, self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            if self._journal is not None:
                self._journal.close()

    def take_back(self, indices: Collection[int]) -> None:
        """Takes back the claims on pieces: they are to be fetched again."""
        with self._flushing, self._lock:
            for index in indices:
                self._claims.pop(index, None)
                self._unproven.discard(index)
            if self._journal is not None:
                self._journal.start(self._claims)
            else:
                os.ftruncate(self._descriptor, 0)

    def discard(self) -> None:
        """Closes and removes everything. Raises OSError."""
        self.close()
        remove_tree(self.path)

    def piece(self, index: int) -> Piece:
        """Piece number `index`."""
        return piece_at(index, self.size, self.piece_bytes)

    def finished(self, index: int) -> bool:
        """Whether the bytes of a piece are in the file."""
        return index in self._claims

    def missing(self) -> list[int]:
        """The pieces that have to be fetched, ascending."""
        with self._lock:
            return [index for index in range(self.pieces) if index not in self._claims]

    def finished_bytes(self) -> int:
        """Bytes of all finished pieces together."""
        with self._lock:
            pieces = [self.piece(index) for index in self._claims]
        return sum(piece.end - piece.start for piece in pieces)

    def proven_digest(self, index: int) -> bytes | None:
        """The xxh3-128 of a piece whose bytes are in the file for sure: fetched by this process, or read by it since."""
        with self._lock:
            claim = self._claims.get(index)
            return claim.digest if claim is not None and index not in self._unproven else None

    def unproven(self, index: int) -> bytes | None:
        """The digest that a piece of an earlier run has to have; None when there is nothing to prove."""
        with self._lock:
            return self._claims[index].digest if index in self._unproven else None

    def proven(self, index: int) -> None:
        """A piece of an earlier run was read and is right."""
        with self._lock:
            self._unproven.discard(index)

    def piece_digest(self, index: int) -> bytes:
        """The xxh3-128 of a finished piece. Raises KeyError for one that is not."""
        with self._lock:
            return self._claims[index].digest

    def piece_digests(self) -> bytes:
        """The xxh3-128 of all pieces one after the other. All have to be finished."""
        return b"".join(map(self.piece_digest, range(self.pieces)))

    def write(self, offset: int, data: memoryview) -> None:
        """Writes bytes at `offset`. Raises OSError; ValueError for bytes that are not part of the file."""
        if offset < 0 or offset + len(data) > self.size:
            raise ValueError(f"{len(data)} bytes at {offset} do not belong to a file of {self.size} bytes")
        # One at a time, as the kernel does it anyway (the lock of the inode): but whoever waits there spins, and took an eighth
        # of the agent's CPU time from the digests (2 GiB, four connections, two cores).
        with self._writing:
            while data:
                count = os.pwrite(self._descriptor, data[:WRITE_BYTES], offset)
                data, offset = data[count:], offset + count

    def clone(self, source: int, piece: Piece) -> bool:
        """Lets a piece share the bytes that an open file has at the same place, where that is possible; whether it was."""
        return clone_range(source, self._descriptor, piece.start, piece.end - piece.start)

    def read(self, offset: int, buffer: memoryview) -> int:
        """Reads at `offset` into `buffer`; how many bytes were read. From the page cache, if it was written just now."""
        return os.preadv(self._descriptor, [buffer], offset)

    def finish(self, index: int, digest: bytes) -> None:
        """All bytes of a piece are written; `digest` is the xxh3-128 of them."""
        claim = Claim(Strength.WRITTEN, digest)
        with self._lock:
            self._claims[index] = claim
            if self._journal is not None:
                self._journal.append({index: claim})
        # Afterwards: it may wait for room in the queue of the disk, and until there is a claim a kill costs the piece.
        piece = self.piece(index)
        start_writeback(self._descriptor, piece.start, piece.end - piece.start)

    def flush(self) -> None:
        """Makes the claims of all pieces finished so far durable."""
        with self._flushing:
            with self._lock:
                if self._descriptor < 0 or self._journal is None:
                    return
                volatile = {i: claim for i, claim in self._claims.items() if claim.strength is Strength.WRITTEN}
            if not volatile:
                return
            # Crash after the records below: the bytes that they speak of have to be on the disk. Pieces that are
            # finished during this call wait for the next one.
            os.fdatasync(self._descriptor)
            durable = {index: Claim(Strength.DURABLE, claim.digest) for index, claim in volatile.items()}
            with self._lock:
                self._claims.update(durable)
                self._journal.append(durable)
            self._journal.sync()


def allocate(descriptor: int, size: int) -> None:
    """Gives a file its size and, where the file system can, its blocks. Raises OSError (ENOSPC) when there is no room.

    fallocate(2) through ctypes, because `os.posix_fallocate` is the C library's: on a file system without support glibc
    writes a byte into every block instead, which takes minutes for a large model.
    """
    if os.fstat(descriptor).st_size > size:
        os.ftruncate(descriptor, size)
    if _LIBC.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    os.ftruncate(descriptor, size)


def start_writeback(descriptor: int, offset: int, count: int) -> None:
    """Lets the kernel begin to write these bytes to the disk, without waiting for it.

    By itself it would begin when 10 % of the memory are dirty or after 30 s, and the sync before a blob is committed would
    find everything still to do: an eighth to a quarter of the time that a file of 2 GiB took. Advice: an error (a file system
    that cannot do it) changes nothing, since durability only ever comes from fsync.
    """
    _LIBC.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


_SYNC_FILE_RANGE_WRITE = 2
"""sync_file_range(2), <linux/fs.h>."""
_LIBC = ctypes.CDLL(None, use_errno=True)
