"""How long a server asks us to wait: one reading of `Retry-After` for who lists and for who reads."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. Who asks for more than a day is not believed: the figure is input, and may be nonsense."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def retry_after(value: str | None, now: float, longest: float = LONGEST_RETRY_AFTER) -> float | None:
    """Seconds to wait according to a `Retry-After` header: seconds or an HTTP date (RFC 9110, 10.2.3); None if unusable.

    `now` is in Unix seconds. The answer is between 0 and `longest`.
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), longest)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, moment.timestamp() - now), longest)
