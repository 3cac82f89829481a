"""The seam between a download and wherever its bytes come from: the origin, a directory, later the other agents.

A `PieceSource` pushes the bytes of a range into a `Sink`, from `sink.position` on, and returns when the sink is full. It may
fail at any point with a retryable `SourceError`: what the sink has got stays, and the next source, which may be another one
(see `Router`), goes on from there. A source that finds out that it sent something wrong calls `sink.restart`.

The sink hands out its own buffer to be filled, so that bytes go from the socket to the file without a copy in between.
"""

from __future__ import annotations

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
        """What was sent for `file` was wrong: drop what is known about where it is read."""
        ...


class Router(Protocol):
    """Chooses who is asked for a piece. Used by several threads at once."""

    def choose(self, file: ManifestFile, piece: int, failures: int) -> PieceSource:
        """The source of piece number `piece`, after so many attempts in a row that brought nothing."""
        ...

    def distrust(self, file: ManifestFile) -> None:
        """All pieces of `file` are there and it is not what the manifest says. It will be fetched once more."""
        ...


class OriginRouter:
    """Asks one source for everything."""

    def __init__(self, origin: PieceSource) -> None:
        self._origin = origin

    def choose(self, file: ManifestFile, piece: int, failures: int) -> PieceSource:
        """See Router."""
        return self._origin

    def distrust(self, file: ManifestFile) -> None:
        """See Router."""
        self._origin.forget(file)
