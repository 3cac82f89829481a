"""Single flight: content that several downloads of one agent want is fetched by one of them.

The others wait. When the one gives up, the next tries with its own credential: that one tenant may not read a file says
nothing about another. A download may fly under several keys at once (see `agent.transfer.items.flight_keys`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class Flights:
    """Who is fetching what, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[Callable[[], None], ...]] = {}

    def claim(self, keys: Sequence[str], released: Callable[[], None]) -> bool:
        """True: the caller fetches what has these keys and must `release` them.

        False: somebody else has one of them, and the caller none; `released` is called when that one is free.
        """
        with self._lock:
            taken = next((key for key in keys if key in self._waiting), None)
            if taken is None:
                self._waiting |= dict.fromkeys(keys, ())
                return True
            self._waiting[taken] += (released,)
            return False

    def release(self, keys: Sequence[str]) -> None:
        """The holder is done with these, one way or the other."""
        with self._lock:
            callbacks = [callback for key in keys for callback in self._waiting.pop(key, ())]
        for callback in callbacks:
            callback()
