"""Single flight: content that several downloads of one agent want is fetched by one of them.

The others wait. When the one gives up, the next tries with its own credential: that one tenant may not read a file says
nothing about another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Flights:
    """Who is fetching what, by partial key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Callable[[], None]]] = {}

    def claim(self, key: str, released: Callable[[], None]) -> bool:
        """True: the caller fetches `key` and must `release` it. False: somebody else does; `released` is called after."""
        with self._lock:
            if key not in self._waiting:
                self._waiting[key] = []
                return True
            self._waiting[key].append(released)
            return False

    def release(self, key: str) -> None:
        """The holder is done with `key`, one way or the other."""
        with self._lock:
            callbacks = self._waiting.pop(key, [])
        for callback in callbacks:
            callback()
