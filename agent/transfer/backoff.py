"""When to try again: when the server says (`modelcache.sources.patience`), or exponential backoff with full jitter.

Full jitter (a wait between 0 and the exponential bound) spreads the retries of many agents evenly, which plain
exponential backoff does not: they would all come back in step.
(M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
"""

from __future__ import annotations

import random

LONGEST_RETRY_AFTER = 3600.0
"""Seconds. An origin that asks for more is asked again after an hour: pods wait for the model."""


def full_jitter(attempt: int, base: float, cap: float, rng: random.Random) -> float:
    """Seconds to wait after failure number `attempt` (from 0): uniform between 0 and min(cap, base * 2**attempt)."""
    return rng.uniform(0.0, min(cap, base * 2.0 ** min(attempt, 32)))


def delay(asked: float | None, attempt: int, base: float, cap: float, rng: random.Random) -> float:
    """Seconds until the next try: what the server asked for and up to a tenth more, or else full jitter.

    Never less than asked: coming back early is how an address gets blocked.
    """
    if asked is None:
        return full_jitter(attempt, base, cap, rng)
    return asked + rng.uniform(0.0, min(0.1 * asked, cap))
