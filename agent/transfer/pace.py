"""Which transfer is so much slower than the others that a new connection is worth more than patience.

A connection can be bad for hours without being dead: a lossy path behind one of many load-balanced links, a CDN edge
that is overloaded. The others, from the same origin at the same time, are the measure. Absolute limits would be wrong: on
a slow line all are slow, and reconnecting would only make it slower.
"""

from __future__ import annotations

import itertools
import statistics
import threading
from collections import deque
from collections.abc import Sequence

from agent.transfer.clock import Clock

WINDOW_SECONDS = 10.0
"""A transfer is judged by its last ten seconds, and so reconnects at most that often."""
FRACTION = 0.125
"""Slower than an eighth of the median of the others is a laggard: normal connections differ by factors of two or three."""
ENOUGH_OTHERS = 3
MEMORY_SECONDS = 60.0
MEMORY_COUNT = 32


def is_laggard(own: float, others: Sequence[float]) -> bool:
    """Whether a transfer of `own` bytes/s is far slower than the `others`."""
    return len(others) >= ENOUGH_OTHERS and own < FRACTION * statistics.median(others)


class PaceBoard:
    """Recent rates of transfers from one origin."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rates: deque[tuple[float, int, float]] = deque(maxlen=MEMORY_COUNT)
        self._numbers = itertools.count()

    def start(self) -> Pacer:
        """Begins to measure one transfer."""
        return Pacer(self, self._clock, next(self._numbers))

    def observe(self, who: int, rate: float) -> None:
        """Remembers a rate in bytes/s."""
        with self._lock:
            self._rates.append((self._clock.monotonic(), who, rate))

    def others(self, who: int) -> list[float]:
        """Rates that transfers other than `who` had lately."""
        oldest = self._clock.monotonic() - MEMORY_SECONDS
        with self._lock:
            return [rate for when, other, rate in self._rates if other != who and when >= oldest]


class Pacer:
    """Measures one transfer."""

    def __init__(self, board: PaceBoard, clock: Clock, number: int) -> None:
        self._board = board
        self._number = number
        self._clock = clock
        self._since = clock.monotonic()
        self._bytes = 0

    def advance(self, count: int) -> bool:
        """Accounts for `count` bytes; True when the transfer should be given up for a new connection."""
        self._bytes += count
        elapsed = self._clock.monotonic() - self._since
        if elapsed < WINDOW_SECONDS:
            return False
        rate = self._close(elapsed)
        return is_laggard(rate, self._board.others(self._number))

    def finish(self) -> None:
        """The transfer ended well: what it did in its last, shorter window counts for the others."""
        elapsed = self._clock.monotonic() - self._since
        if elapsed > 0 and self._bytes:
            self._close(elapsed)

    def _close(self, elapsed: float) -> float:
        rate = self._bytes / elapsed
        self._board.observe(self._number, rate)
        self._since, self._bytes = self._clock.monotonic(), 0
        return rate
