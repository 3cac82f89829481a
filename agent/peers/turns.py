"""How many pieces one agent of a swarm reads from the origin at a time.

Alone, several connections get more out of an origin than one. In a swarm the agents together are the several connections,
and a piece that is read alone is finished, and can be passed on, in a fraction of the time: so each agent reads fewer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agent.peers.tuning import SwarmTuning
from agent.transfer.cancel import CancelToken


def turns(agents: int, connections: int, tuning: SwarmTuning) -> int:
    """How many pieces each of `agents` reads at a time, when alone it would read `connections`."""
    return max(1, min(connections, -(-tuning.readers // agents)))


class Turns:
    """A semaphore whose size may change, in the order of arrival. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active = 0
        self._waiting: list[object] = []

    @contextmanager
    def turn(self, limit: int, cancel: CancelToken) -> Iterator[None]:
        """Holds one of `limit` turns. Raises Cancelled while it waits."""
        me = object()
        with cancel.on_cancel(self._wake), self._changed:
            self._waiting.append(me)
            try:
                while self._waiting[0] is not me or self._active >= limit:
                    cancel.check()
                    self._changed.wait()
                cancel.check()
                self._active += 1
            finally:
                self._waiting.remove(me)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
