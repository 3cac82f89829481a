"""The seam between a download and wherever its bytes come from: the origin, a directory, later the other agents.

A `PieceSource` pushes the bytes of a range into a `Sink`, from `sink.position` on, and returns when the sink is full. It may
fail at any point with a retryable `SourceError`: what the sink has got stays, and the next source, which may be another one
(see `Overlay`), goes on from there. A source that finds out that it sent something wrong calls `sink.restart`.

The sink hands out its own buffer to be filled, so that bytes go from the socket to the file without a copy in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from agent.transfer.cancel import CancelToken
from agent.transfer.partial import PartialFile
from modelcache.manifest import ManifestFile


class RangesIgnored(Exception):
    """The source can only send a whole file, from its beginning."""


class PieceMismatch(Exception):
    """A piece is complete and is not what its sender said (see `Sink.expect`)."""


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

    def share(self, descriptor: int) -> bool:
        """Takes the piece that begins here from the same place of an open file, without a copy; whether that was possible.

        If so, it is checked like any other and `position` is at its end. If not, nothing has changed.
        """
        ...

    def restart(self) -> None:
        """Forgets everything: position = start."""
        ...

    def expect(self, digest: bytes) -> None:
        """The piece under way has to have this xxh3-128: `filled` raises PieceMismatch, and forgets it, if it has not."""
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
        """Drop what is known about where `file` is read: what was sent for it was wrong, or it is not needed any more."""
        ...


class Overlay(Protocol):
    """Others that take part in the download of one model: the seam for peers (`agent.peers`).

    Told about every file under way, so that it can be given to them as it arrives. Used by several threads at once.
    """

    @property
    def workers(self) -> int:
        """How many pieces to have under way at once; most of them wait for somebody."""
        ...

    def join(self, origin: PieceSource) -> PieceSource:
        """The source to read from instead of `origin`, which is one of those that it reads from."""
        ...

    def walk(self, pieces: Sequence[tuple[ManifestFile, int]]) -> Iterator[int]:
        """The order in which to set out for `pieces` (file, number): positions in the sequence, each once. Lazy."""
        ...

    def expecting(self, files: Sequence[ManifestFile], piece_bytes: int) -> AbstractContextManager[None]:
        """As long as this lasts, `files` are going to be fetched in pieces of this size, until `end` is called for each."""
        ...

    def begin(self, file: ManifestFile, partial: PartialFile) -> None:
        """`file` is being fetched into `partial`. May be called again for the same."""
        ...

    def arrived(self, file: ManifestFile) -> None:
        """A piece of `file` is finished."""
        ...

    def end(self, file: ManifestFile) -> None:
        """`file` is not being fetched any more: it is a blob, or the download ends."""
        ...

    def suspects(self, file: ManifestFile, cancel: CancelToken) -> Collection[int]:
        """`file` is complete and wrong: the pieces to fetch again, from other places. Empty: it has no idea (any more).

        May ask peers, and so block. Raises Cancelled.
        """
        ...


class Alone:
    """Nobody else takes part: everything comes from the origin, in the order of the plan."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def join(self, origin: PieceSource) -> PieceSource:
        """See Overlay."""
        return origin

    def walk(self, pieces: Sequence[tuple[ManifestFile, int]]) -> Iterator[int]:
        """See Overlay."""
        return iter(())

    def expecting(self, files: Sequence[ManifestFile], piece_bytes: int) -> AbstractContextManager[None]:
        """See Overlay."""
        return nullcontext()

    def begin(self, file: ManifestFile, partial: PartialFile) -> None:
        """See Overlay."""

    def arrived(self, file: ManifestFile) -> None:
        """See Overlay."""

    def end(self, file: ManifestFile) -> None:
        """See Overlay."""

    def suspects(self, file: ManifestFile, cancel: CancelToken) -> Collection[int]:
        """See Overlay."""
        return ()
