"""Bandwidth limit of a node: one token bucket that all transfers pay into after they have read.

Paying afterwards keeps it simple: the bucket may go into debt by what was read last, and whoever caused it waits the debt
off. Meanwhile the kernel's receive window fills up and TCP slows the sender down.
"""

from __future__ import annotations

import threading

from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock

BURST_SECONDS = 0.25
"""What an idle bucket saves up, in seconds of the rate."""


class TokenBucket:
    """At most `rate` bytes per second over any longer time; None = unlimited."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"a bandwidth limit of {rate} bytes per second would never end; leave it out for no limit")
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = (rate or 0.0) * BURST_SECONDS
        self._filled_at = clock.monotonic()

    def portion(self, most: int) -> int:
        """How much to read at once, at most `most` bytes: small enough that no single read exceeds the burst."""
        if self._rate is None:
            return most
        return max(1, min(most, int(self._rate * BURST_SECONDS)))

    def pay(self, count: int, cancel: CancelToken) -> None:
        """Accounts for `count` bytes and blocks until they are paid for. Raises Cancelled."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            self._tokens = min(self._rate * BURST_SECONDS, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            self._tokens -= count
            debt = -self._tokens
        if debt > 0:
            self._clock.wait(debt / self._rate, cancel)
