"""Where arriving bytes go: from a socket's buffer into the partial file, piece by piece, with their digests.

A sink covers a range of whole pieces: normally one, or all of them for a server that cannot send ranges. Pieces that are
there already are skipped: their bytes are read from the network (there is no other way then) and dropped.

The buffer is borrowed from a pool only while bytes flow, so memory grows with connections, not with downloads or files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import xxhash

from agent.store.errors import StoreIOError, io_errors
from agent.transfer.hashing import FileDigest
from agent.transfer.partial import PartialFile
from agent.transfer.source import PieceMismatch


class BufferPool:
    """Reused buffers of one size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer, used or new."""
        with self._lock:
            return self._free.pop() if self._free else memoryview(bytearray(self._size))

    def give_back(self, buffer: memoryview) -> None:
        """The buffer is not used any more."""
        with self._lock:
            self._free.append(buffer)


class PieceSink:
    """The pieces `first` to `last` (exclusive) of a partial file. Used by one thread at a time.

    `received(count)` is told about every byte that arrives (negative when bytes are thrown away), `finished(index)` about
    every piece. `digest`, for files of one piece, is fed as the bytes arrive, in order.
    """

    def __init__(
        self,
        partial: PartialFile,
        first: int,
        last: int,
        buffers: BufferPool,
        received: Callable[[int], None],
        finished: Callable[[int], None],
        digest: FileDigest | None = None,
    ) -> None:
        self.start = partial.piece(first).start
        self.end = partial.piece(last - 1).end
        self._partial = partial
        self._buffers = buffers
        self._buffer: memoryview | None = None
        self._received = received
        self._finished = finished
        self._empty_digest = digest
        self._cloned = False
        """Whether the bytes that come in are in the file already."""
        self._enter(self.start)

    def _enter(self, offset: int) -> None:
        """Begins the piece at `offset`, or the end."""
        self.position = offset
        self._flushed = offset
        self._piece_digest = xxhash.xxh3_128()
        self._expected: bytes | None = None
        if offset == self.start:
            self._digest = self._empty_digest.copy() if self._empty_digest is not None else None
        if offset < self.end:
            self._piece = self._partial.piece(offset // self._partial.piece_bytes)
            self._skip = self._partial.finished(self._piece.number)

    @property
    def digest(self) -> FileDigest | None:
        """The digest that was fed with everything up to `position`."""
        return self._digest

    def space(self) -> memoryview:
        """See Sink: the free part of the buffer, up to the end of the piece."""
        if self._buffer is None:
            self._buffer = self._buffers.take()
        used = self.position - self._flushed
        return self._buffer[used : min(len(self._buffer), self._piece.end - self._flushed)]

    def filled(self, count: int) -> None:
        """See Sink. Writes when the buffer is full or the piece complete. Raises StoreIOError, PieceMismatch."""
        if not 0 <= count <= self._piece.end - self.position:
            raise ValueError(f"{count} bytes at {self.position} are more than piece {self._piece.number} has left")
        self.position += count
        if not self._skip:
            self._received(count)
        full = self._buffer is not None and self.position - self._flushed == len(self._buffer)
        if full or self.position == self._piece.end:
            self.flush()
        if self.position == self._piece.end:
            if not self._skip:
                if self._expected not in (None, self._piece_digest.digest()):
                    self._received(self._piece.start - self.position)
                    self._enter(self._piece.start)
                    raise PieceMismatch
                with io_errors("write the journal of", self._partial.data):
                    self._partial.finish(self._piece.number, self._piece_digest.digest())
                self._finished(self._piece.number)
            self._enter(self._piece.end)

    def flush(self) -> None:
        """Writes what is in the buffer."""
        count = self.position - self._flushed
        if count == 0 or self._buffer is None:
            return
        data = self._buffer[:count]
        if not self._skip:
            if not self._cloned:
                # Not OSError: to a source that would look like trouble with its connection.
                with io_errors("write", self._partial.data):
                    self._partial.write(self._flushed, data)
            self._piece_digest.update(data)
            if self._digest is not None:
                self._digest.update(data)
        self._flushed = self.position

    def share(self, descriptor: int) -> bool:
        """See Sink. Digests are those of the partial file, whatever becomes of the other one. Raises StoreIOError."""
        end = self._piece.end
        if self._skip or self.position != self._piece.start or not self._partial.clone(descriptor, self._piece):
            return False
        self._cloned = True
        try:
            while self.position < end:
                with io_errors("read", self._partial.data):
                    count = self._partial.read(self.position, self.space())
                if count == 0:
                    raise StoreIOError(f"{self._partial.data} was cut off at byte {self.position} by somebody else")
                self.filled(count)
        finally:
            self._cloned = False
        return True

    def release(self) -> None:
        """Flushes and gives the buffer back: bytes stop flowing for now."""
        try:
            self.flush()
        finally:
            if self._buffer is not None:
                self._buffers.give_back(self._buffer)
                self._buffer = None

    def expect(self, digest: bytes) -> None:
        """See Sink."""
        self._expected = digest

    def restart(self) -> None:
        """See Sink. Pieces that were completed stay; a piece half done begins anew."""
        if not self._skip and self.position < self.end:
            self._received(self._piece.start - self.position)
        self._flushed = self.position
        self._enter(self.start)
