"""Saying once what happens a thousand times: what strangers send must not fill the log.

The first of its kind is logged at once; those that follow within `period` are only counted, and the next line that is
logged says how many they were. Kinds are told apart by a key; there are only so many of them (`capacity`), because a key
may come from outside as well, and what does not fit shares one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable


class LogLimit:
    """Logs to `logger`. Thread-safe; `now` is a monotonic clock in seconds."""

    def __init__(
        self, logger: logging.Logger, now: Callable[[], float], *, period: float = 60.0, capacity: int = 100
    ) -> None:
        self._logger = logger
        self._now = now
        self._period = period
        self._capacity = capacity
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}

    def warning(self, key: str, message: str, *arguments: object) -> None:
        """Log a warning of the kind `key`, unless one was logged a moment ago."""
        count = self._admit(key)
        if count is not None:
            more = f" (and {count} more of this kind before)" if count else ""
            self._logger.warning(message + "%s", *arguments, more)

    def _admit(self, key: str) -> int | None:
        """How many were swallowed since the last one; None to swallow this one, too."""
        now = self._now()
        with self._lock:
            if key not in self._seen and len(self._seen) >= self._capacity:
                self._seen = {k: v for k, v in self._seen.items() if now - v[0] < self._period}
                if len(self._seen) >= self._capacity:
                    key = ""
            last, count = self._seen.get(key, (None, 0))
            if last is not None and now - last < self._period:
                self._seen[key] = (last, count + 1)
                return None
            self._seen[key] = (now, 0)
            return count
