"""A sink in front of another one."""

from __future__ import annotations

from collections.abc import Callable

from agent.transfer.source import Sink


class CountingSink:
    """A Sink that tells how much goes into it."""

    def __init__(self, sink: Sink, count: Callable[[int], None]) -> None:
        self._sink = sink
        self._count = count

    @property
    def start(self) -> int:
        """See Sink."""
        return self._sink.start

    @property
    def end(self) -> int:
        """See Sink."""
        return self._sink.end

    @property
    def position(self) -> int:
        """See Sink."""
        return self._sink.position

    def space(self) -> memoryview:
        """See Sink."""
        return self._sink.space()

    def filled(self, count: int) -> None:
        """See Sink."""
        self._count(count)
        self._sink.filled(count)

    def share(self, descriptor: int) -> bool:
        """See Sink."""
        before = self._sink.position
        shared = self._sink.share(descriptor)
        if shared:
            self._count(self._sink.position - before)
        return shared

    def restart(self) -> None:
        """See Sink."""
        self._sink.restart()

    def expect(self, digest: bytes) -> None:
        """See Sink."""
        self._sink.expect(digest)
