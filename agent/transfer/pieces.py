"""Piece maths. A piece is a range of a file: all have the same size but for the last, which may be shorter."""

from __future__ import annotations

from typing import NamedTuple

PIECE_BYTES = 16 * 1024 * 1024
"""Large enough that a request costs nothing beside it, small enough that many agents can share one file (design, 5)."""


class Piece(NamedTuple):
    """Bytes `start` (inclusive) to `end` (exclusive) of a file. Never empty."""

    number: int
    start: int
    end: int


def piece_count(size: int, piece_bytes: int) -> int:
    """How many pieces a file of `size` bytes has; an empty file has none."""
    return -(-size // piece_bytes)


def piece_at(index: int, size: int, piece_bytes: int) -> Piece:
    """Piece `index` of a file of `size` bytes. Raises IndexError when the file has no such piece."""
    start = index * piece_bytes
    if index < 0 or start >= size:
        raise IndexError(f"a file of {size} bytes has no piece {index} of {piece_bytes} bytes")
    return Piece(index, start, min(start + piece_bytes, size))
