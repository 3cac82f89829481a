"""Being slow on purpose: a limit on the bytes of all bodies together, and a delay before every answer."""

import threading
import time
from collections.abc import Callable

_LARGEST_STEP = 8 * 1024 * 1024
_SMALLEST_STEP = 16 * 1024
_STEP_SECONDS = 0.05


class Limits:
    """One limit for all connections: what a real origin's link is to its clients."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._next_free = 0.0
        self.bytes_per_second: float | None = None
        """None: as fast as it goes."""
        self.latency = 0.0
        """Seconds before an answer."""

    def step(self) -> int:
        """Return how many bytes to write between two calls of `wait_for`: about 50 ms worth."""
        if self.bytes_per_second is None:
            return _LARGEST_STEP
        return int(min(_LARGEST_STEP, max(_SMALLEST_STEP, self.bytes_per_second * _STEP_SECONDS)))

    def reserve(self, size: int) -> float:
        """Take the next `size` bytes of the limit; return in how many seconds they may be written."""
        if self.bytes_per_second is None:
            return 0.0
        with self._lock:
            now = self._clock()
            # A step's time is kept for a connection that was busy writing; more is not saved up, a link has no memory.
            self._next_free = max(self._next_free, now - _STEP_SECONDS) + size / self.bytes_per_second
            return max(0.0, self._next_free - now)

    def wait_for(self, size: int) -> None:
        """Return when `size` more bytes may be written."""
        delay = self.reserve(size)
        if delay > 0:
            self._stopped.wait(delay)

    def delay_answer(self) -> None:
        """Return after the latency."""
        if self.latency > 0:
            self._stopped.wait(self.latency)

    def stop(self) -> None:
        """Let go of everybody who waits; nobody waits from now on."""
        self._stopped.set()
