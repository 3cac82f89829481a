"""How fast a download is: a rate that a person can read, from byte counts at irregular times. Pure but for its memory."""

from __future__ import annotations

import math

SMOOTHING_SECONDS = 5.0
"""Time constant: a change of speed shows to 63 % after this long."""
MIN_INTERVAL = 0.2
"""Seconds; counts closer together than this say more about the scheduler than about the network."""


class RateMeter:
    """Exponentially smoothed bytes per second. The weight of the past depends on the time between two counts."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._count = 0
        self._rate: float | None = None

    def sample(self, now: float, count: int) -> int:
        """Take the total count of bytes at monotonic time `now`; bytes per second. A smaller count starts anew."""
        if self._at is None or count < self._count:
            self._at, self._count, self._rate = now, count, None
            return 0
        elapsed = now - self._at
        if elapsed >= MIN_INTERVAL:
            speed = (count - self._count) / elapsed
            weight = 1.0 - math.exp(-elapsed / SMOOTHING_SECONDS)
            self._rate = speed if self._rate is None else self._rate + weight * (speed - self._rate)
            self._at, self._count = now, count
        return round(self._rate or 0.0)
