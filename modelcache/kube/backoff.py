"""How long to wait after a failure.

Exponential with *full* jitter: a random time between zero and the exponential bound. It spreads a crowd of clients
that lost the same server best (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015); a hundred
agents coming back after an API server restart are such a crowd.
"""

from dataclasses import dataclass, field
from random import Random


def full_jitter(attempt: int, *, base: float, cap: float, rng: Random) -> float:
    """Seconds to wait after the `attempt`-th failure in a row (0 = first): uniform in [0, min(cap, base * 2^attempt)]."""
    # 2.0**64 seconds is longer than any cap; the bound keeps the power finite after weeks of failures.
    return rng.uniform(0.0, min(cap, base * 2.0 ** min(attempt, 64)))


@dataclass(slots=True)
class Backoff:
    """Failures in a row of one activity, and the wait that follows from them.

    A single success does not reset the count: a server that accepts a connection and drops it at once would be
    hammered. Only `reset_after` seconds without a failure do.
    """

    rng: Random
    base: float = 1.0
    cap: float = 30.0
    reset_after: float = 60.0
    failures: int = 0
    _last_failure: float | None = field(default=None, repr=False)

    def fail(self, now: float, at_least: float | None = None) -> float:
        """Note a failure at monotonic time `now`; seconds to wait, not less than `at_least` (a Retry-After)."""
        if self._last_failure is not None and now - self._last_failure > self.reset_after:
            self.failures = 0
        delay = full_jitter(self.failures, base=self.base, cap=self.cap, rng=self.rng)
        delay = max(delay, at_least or 0.0)
        self.failures += 1
        # The wait itself is no healthy period.
        self._last_failure = now + delay
        return delay
