"""When to try again: exponential backoff with full jitter, and what `Retry-After` says.

Full jitter (a wait between 0 and the exponential bound) spreads the retries of many agents evenly, which plain
exponential backoff does not: they would all come back in step.
(M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
"""

from __future__ import annotations

import random
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER = 3600.0
"""Seconds. A server that asks for more is asked again after an hour: the figure is input, and may be nonsense."""

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


def full_jitter(attempt: int, base: float, cap: float, rng: random.Random) -> float:
    """Seconds to wait after failure number `attempt` (from 0): uniform between 0 and min(cap, base * 2**attempt)."""
    return rng.uniform(0.0, min(cap, base * 2.0 ** min(attempt, 32)))


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait according to a `Retry-After` header: seconds or an HTTP date (RFC 9110, 10.2.3); None if unusable.

    `now` is in Unix seconds. The answer is between 0 and LONGEST_RETRY_AFTER.
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, moment.timestamp() - now), LONGEST_RETRY_AFTER)


def delay(asked: float | None, attempt: int, base: float, cap: float, rng: random.Random) -> float:
    """Seconds until the next try: what the server asked for and up to a tenth more, or else full jitter.

    Never less than asked: coming back early is how an address gets blocked.
    """
    if asked is None:
        return full_jitter(attempt, base, cap, rng)
    return asked + rng.uniform(0.0, min(0.1 * asked, cap))
