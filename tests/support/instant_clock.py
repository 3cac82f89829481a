"""A clock for `agent.transfer` on which waiting takes no time: it remembers what was waited for and jumps ahead."""

import threading

from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock


class InstantClock:
    """Thread-safe. `waits` holds the seconds of every wait, in order; `tick` seconds pass with every look at the clock."""

    def __init__(self, unix: float = 1_800_000_000.0, tick: float = 0.0) -> None:
        self._tick = tick
        self._lock = threading.Lock()
        self._now = 0.0
        self._unix = unix
        self.waits: list[float] = []

    def monotonic(self) -> float:
        with self._lock:
            self._now += self._tick
            return self._now

    def unix(self) -> float:
        with self._lock:
            return self._unix + self._now

    def wait(self, seconds: float, cancel: CancelToken) -> None:
        cancel.check()
        with self._lock:
            self.waits.append(seconds)
            self._now += seconds

    def advance(self, seconds: float) -> None:
        """Lets time pass without anybody waiting for it."""
        with self._lock:
            self._now += seconds


_CHECK: type[Clock] = InstantClock
