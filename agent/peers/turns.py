"""How many pieces one agent of a swarm reads from the origin at a time.

Alone, several connections get more out of an origin than one. In a swarm the agents together are the several connections,
and a piece that is read alone is finished, and can be passed on, in a fraction of the time: so each agent reads fewer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.peers.tuning import SwarmTuning
from agent.transfer.cancel import CancelToken


def turns(agents: int, connections: int, tuning: SwarmTuning) -> int:
    """How many pieces each of `agents` reads at a time, when alone it would read `connections`."""
    return max(1, min(connections, -(-tuning.readers // agents)))


class Turns:
    """A semaphore whose size may change, in the order of arrival. Thread-safe.

    Whoever gives a turn back wakes the next in line and nobody else: with small files turns change hands hundreds of times a
    second, and there are as many in line as a download has workers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._waiting: list[_Waiter] = []

    @contextmanager
    def turn(self, limit: int, cancel: CancelToken) -> Iterator[None]:
        """Holds one of `limit` turns. Raises Cancelled while it waits."""
        me = _Waiter(limit, threading.Event())
        with self._lock:
            self._waiting.append(me)
            self._admit()
        try:
            with cancel.on_cancel(me.awake.set):
                me.awake.wait()
                cancel.check()
            yield
        finally:
            with self._lock:
                if me in self._waiting:
                    self._waiting.remove(me)
                else:
                    self._active -= 1
                self._admit()

    def _admit(self) -> None:
        while self._waiting and self._active < self._waiting[0].limit:
            self._active += 1
            self._waiting.pop(0).awake.set()


@dataclass(frozen=True, eq=False)
class _Waiter:
    limit: int
    awake: threading.Event
