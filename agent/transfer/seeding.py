"""Begins a download with what is good in a damaged file, so that only the bad pieces are fetched.

The digests of its pieces say which are good. Each is read once, and copied while it is read: a piece is claimed only if
the very bytes that were written have its digest, so a disk that returns something else a moment later costs a piece and
proves nothing wrong. In the end the sha256 of the whole file decides, as for every download.

The damaged file itself is left alone: it is published, and somebody may be reading it. So the repair needs room for one more
copy of the file until it is in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import xxhash

from agent.store import Remains
from agent.store.errors import io_errors
from agent.transfer.partial import PartialFile
from agent.transfer.pieces import Piece

READ_BYTES = 1 << 20
_DIGEST_BYTES = 16  # xxh3-128


def seed(partial: PartialFile, remains: Remains, paid: Callable[[int], None]) -> None:
    """Copies the good pieces of `remains` that `partial`, which is open, does not have yet.

    `paid` is called with the bytes of each read: it may wait or raise. What cannot be read (a bad sector) is a bad piece.
    Raises StoreIOError when `partial` cannot be written.
    """
    if remains.piece_bytes != partial.piece_bytes or len(remains.digests) != partial.pieces * _DIGEST_BYTES:
        return  # kept by a version with other pieces
    try:
        source = os.open(remains.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        buffer = memoryview(bytearray(READ_BYTES))
        for index in partial.missing():
            expected = remains.digests[index * _DIGEST_BYTES :][:_DIGEST_BYTES]
            if _copy(source, partial, partial.piece(index), buffer, paid) == expected:
                with io_errors("write the journal of", partial.data):
                    partial.finish(index, expected)
    finally:
        os.close(source)


def _copy(
    source: int, partial: PartialFile, piece: Piece, buffer: memoryview, paid: Callable[[int], None]
) -> bytes | None:
    """Copies one piece; the digest of what was written, None where the source ends early or cannot be read."""
    digest = xxhash.xxh3_128()
    offset = piece.start
    while offset < piece.end:
        try:
            count = os.preadv(source, [buffer[: min(len(buffer), piece.end - offset)]], offset)
        except OSError:
            return None
        if count == 0:
            return None
        paid(count)
        with io_errors("write", partial.data):
            partial.write(offset, buffer[:count])
        digest.update(buffer[:count])
        offset += count
    return digest.digest()
