"""Checksums that object stores publish beside, or instead of, a sha256: how they are written down, and computed in passing.

A manifest holds one as text, `<algorithm>:<hex>` for the checksum of the whole object, `<algorithm>/<part bytes>:<hex>` for a
*composite* one: the checksum of the checksums of its parts, which is what S3 keeps for most multipart uploads. The sizes of
the parts belong to it, because nobody can compute it without them.

Algorithms are those of S3 ("Checking object integrity"): CRC32, CRC32C, CRC64NVME, SHA1 and SHA256. A CRC finds accidents, not
forgery; the sha256 of every file is computed in any case, and becomes the file's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

_TEXT = re.compile(r"([a-z0-9]+)(?:/([1-9][0-9]{0,15}))?:([0-9a-f]{8,64})")

_CRC_MODELS = {"crc32": ("CRC32", 8), "crc32c": ("CRC32C", 8), "crc64nvme": ("CRC64-NVME", 16)}
"""Name in `anycrc`, hex digits."""
_HASHES = {"sha1": 40, "sha256": 64}

ALGORITHMS = (*_CRC_MODELS, *_HASHES)
"""Names as S3 writes them, in lower case."""


class Running(Protocol):
    """A checksum under way."""

    def update(self, data: memoryview) -> None:
        """Add the next bytes."""
        ...

    def copy(self) -> Running:
        """The state so far, to come back to."""
        ...

    def hexdigest(self) -> str:
        """The checksum of everything that was added."""
        ...


class Checksum(NamedTuple):
    """One published checksum. `part_bytes` is the size of every part but the last, 0 for one of the whole object."""

    algorithm: str
    value: str
    """Lower-case hex."""
    part_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    @property
    def kind(self) -> str:
        """What was computed, without the result."""
        return f"{self.algorithm}/{self.part_bytes}" if self.part_bytes else self.algorithm

    @staticmethod
    def parse(text: str) -> Checksum:
        """The checksum in `text`. Raises ValueError with the reason."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:80]!r} is not <algorithm>:<hex> or <algorithm>/<part bytes>:<hex>")
        algorithm, part_bytes, value = match[1], int(match[2] or 0), match[3]
        digits = _HASHES.get(algorithm) or _CRC_MODELS.get(algorithm, ("", 0))[1]
        if not digits:
            raise ValueError(f"{algorithm!r} is none of {', '.join(ALGORITHMS)}")
        if len(value) != digits:
            raise ValueError(f"{text[:80]!r} has {len(value)} hex digits instead of {digits}")
        return Checksum(algorithm, value, part_bytes)

    def begin(self) -> Running:
        """Start to compute the same kind over other bytes."""
        start = _starter(self.algorithm)
        return _Composite(start, self.part_bytes) if self.part_bytes else start()


class _Crc:
    """A CRC by `anycrc`. Its `calc` takes the result so far as its second argument."""

    def __init__(self, model: Any, digits: int) -> None:
        self._model = model
        self._digits = digits
        self._value: int | None = None

    def update(self, data: memoryview) -> None:
        if len(data):
            self._value = self._model.calc(data, self._value)

    def copy(self) -> _Crc:
        other = _Crc(self._model, self._digits)
        other._value = self._value
        return other

    def hexdigest(self) -> str:
        value = self._value if self._value is not None else 0  # of all three, the CRC of nothing is 0
        return format(value, f"0{self._digits}x")


class _Composite:
    """The checksum of the binary checksums of consecutive parts."""

    def __init__(self, start: Callable[[], Running], part_bytes: int) -> None:
        self._start = start
        self._part_bytes = part_bytes
        self._whole = start()
        self._part = start()
        self._room = part_bytes

    def update(self, data: memoryview) -> None:
        while len(data):
            count = min(len(data), self._room)
            self._part.update(data[:count])
            self._room -= count
            data = data[count:]
            if not self._room:
                self._whole.update(memoryview(bytes.fromhex(self._part.hexdigest())))
                self._part, self._room = self._start(), self._part_bytes

    def copy(self) -> _Composite:
        other = _Composite(self._start, self._part_bytes)
        other._whole, other._part, other._room = self._whole.copy(), self._part.copy(), self._room
        return other

    def hexdigest(self) -> str:
        whole = self._whole.copy()
        if self._room != self._part_bytes:
            whole.update(memoryview(bytes.fromhex(self._part.hexdigest())))
        return whole.hexdigest()


@cache
def _starter(algorithm: str) -> Callable[[], Running]:
    if algorithm == "sha256":
        return hashlib.sha256
    if algorithm == "sha1":
        # Not for security: S3 offers it as a checksum.
        return lambda: hashlib.sha1(usedforsecurity=False)
    # Only where an object has such a checksum.
    import anycrc

    name, digits = _CRC_MODELS[algorithm]
    model = anycrc.Model(name)
    return lambda: _Crc(model, digits)
