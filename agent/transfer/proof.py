"""Shows that a source has the content that a blob has, without reading all of it.

A digest can be listed by somebody who has never seen the content; an answer to "what is in these bytes?" cannot. So parts of
the file that nobody can foresee are read from the source and compared with the blob: all of it up to WHOLE_BYTES, else a
window in each of a number of equal sections, at a random place in it.

Somebody who lacks a share of the file passes a window with the probability of what he has, so one who has three quarters of a
large file passes with 1 : 10,000, and one who has nine tenths (a fine-tuned copy of a model in which most tensors were
left alone) with 1 : 29. He has one try on each node (`agent.store.admission`). More windows would cost an honest tenant
what the sharing saves: a request takes about as long as a few MiB.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent.store.errors import io_errors
from agent.transfer.cancel import CancelToken
from agent.transfer.source import PieceSource, RangesIgnored
from modelcache.manifest import ManifestFile
from modelcache.sources.errors import SourceError

WINDOW_BYTES = 64 * 1024
WHOLE_BYTES = 4 * 1024 * 1024
"""A file up to this size is read as a whole; larger ones have a window for each so many bytes ..."""
MAX_WINDOWS = 32
"""... up to this number."""
TRIES = 3
"""For each window, at a source that asks for patience or cannot be reached."""


class Window(NamedTuple):
    """The bytes from `start` to `end` (exclusive) of a file."""

    start: int
    end: int


def windows(size: int, below: Callable[[int], int]) -> list[Window]:
    """What to read of a file of `size` bytes, ascending. `below(n)` is a number from 0 to n - 1 that nobody can foresee.

    Every byte may be chosen. Sections instead of free choice: what somebody lacks cannot fall between the windows by chance,
    and the probability to pass is never higher (the product of what he has of each section, at most the power of the mean).
    """
    if size <= WHOLE_BYTES:
        return [Window(0, size)]
    count = min(MAX_WINDOWS, -(-size // WHOLE_BYTES))
    edges = [size * number // count for number in range(count + 1)]
    starts = [min(low + below(high - low), size - WINDOW_BYTES) for low, high in itertools.pairwise(edges)]
    return [Window(start, start + WINDOW_BYTES) for start in starts]


class _Differs(Exception):
    """The source sent something else than the blob has."""


class _Comparing:
    """A Sink that compares what arrives with a file instead of keeping it."""

    def __init__(self, descriptor: int, path: Path, window: Window, read: Callable[[int], None]) -> None:
        self.start, self.end = window
        self.position = self.start
        self._descriptor = descriptor
        self._path = path
        self._read = read
        self._buffer = memoryview(bytearray(min(WINDOW_BYTES, self.end - self.start)))

    def space(self) -> memoryview:
        """See Sink."""
        return self._buffer[: min(len(self._buffer), self.end - self.position)]

    def filled(self, count: int) -> None:
        """See Sink. Raises _Differs, StoreIOError."""
        self._read(count)
        with io_errors("read", self._path):
            expected = os.pread(self._descriptor, count, self.position)
        if expected != self._buffer[:count]:
            raise _Differs
        self.position += count

    def share(self, descriptor: int) -> bool:
        """See Sink: nothing is kept that could be shared."""
        return False

    def restart(self) -> None:
        """See Sink."""
        self.position = self.start

    def expect(self, digest: bytes) -> None:
        """See Sink: the bytes themselves are compared."""


def shows(
    source: PieceSource,
    file: ManifestFile,
    blob: Path,
    *,
    below: Callable[[int], int],
    wait: Callable[[SourceError, int], None],
    read: Callable[[int], None] = lambda count: None,
    cancel: CancelToken,
) -> bool | None:
    """Whether `source` has the content of `blob` for `file`; None when that cannot be found out (now, or by parts).

    An error of the source is no verdict, and not the end either: this node may be unable to reach a source from which others
    of the same model give it the content (a claim that is mounted elsewhere). The download meets the error again if it
    matters. `wait(error, failures)` is called before one is tried again, `read` with the bytes that came.

    Raises StoreIOError, Cancelled.
    """
    with io_errors("open", blob):
        descriptor = os.open(blob, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for window in windows(file.size, below):
            _read(source, file, _Comparing(descriptor, blob, window, read), wait, cancel)
    except _Differs:
        return False
    except (RangesIgnored, SourceError):
        return None
    finally:
        os.close(descriptor)
    return True


def _read(
    source: PieceSource,
    file: ManifestFile,
    sink: _Comparing,
    wait: Callable[[SourceError, int], None],
    cancel: CancelToken,
) -> None:
    for failures in range(TRIES - 1):
        try:
            return source.read(file, sink, cancel)
        except SourceError as error:
            if not error.retryable:
                raise
            wait(error, failures)
    return source.read(file, sink, cancel)
