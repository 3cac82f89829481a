"""The seam between a download and wherever its bytes come from: the origin, a directory, later the other agents.

A `PieceSource` pushes the bytes of a range into a `Sink`, from `sink.position` on, and returns when the sink is full. It may
fail at any point with a retryable `SourceError`: what the sink has got stays, and the next source, which may be another one
(see `Router`), goes on from there. A source that finds out that it sent something wrong calls `sink.restart`.

The sink hands out its own buffer to be filled, so that bytes go from the socket to the file without a copy in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.transfer.cancel import CancelToken
from modelcache.manifest import ManifestFile


class RangesIgnored(Exception):
    """The source can only send a whole file, from its beginning."""


class Sink(Protocol):
    """What a source fills: a range of one file. Bytes go in strictly in order, and never beyond `end`."""

    @property
    def start(self) -> int:
        """First byte of the range."""
        ...

    @property
    def end(self) -> int:
        """One after the last byte of the range."""
        ...

    @property
    def position(self) -> int:
        """The next byte that is wanted; `end` when there is nothing left to do."""
        ...

    def space(self) -> memoryview:
        """Where to put the next bytes. Never empty while position < end."""
        ...

    def filled(self, count: int) -> None:
        """The first `count` bytes of `space()` are there."""
        ...

    def restart(self) -> None:
        """Forgets everything: position = start."""
        ...


class PieceSource(Protocol):
    """Somewhere to read files of a manifest from. Used by several threads at once."""

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        """Fills `sink` with the bytes of `file`.

        Raises SourceError (retryable ones are tried again), RangesIgnored when only the whole file can be had and the
        sink is not the whole file, and Cancelled.
        """
        ...

    def forget(self, file: ManifestFile) -> None:
        """What this source sent for `file` was wrong: drop what is cached about where it is read."""
        ...


Router = Callable[[ManifestFile, int, int], PieceSource]
"""Chooses the source of a piece: (file, number of the piece, number of failed attempts so far) -> source."""
