"""Cancelling blocking work in threads: a flag that can be waited on and that runs callbacks.

A thread that blocks in `recv` looks at no flag. So whoever blocks registers a callback that unblocks it (shuts the
socket down, wakes a condition) for as long as it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.transfer.errors import Cancelled


class CancelToken:
    """Set once, for good. A child is cancelled with its parent, but not the other way round."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Sets the token and runs the registered callbacks, once."""
        with self._lock:
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises Cancelled when the token is set."""
        if self._event.is_set():
            raise Cancelled("the download was cancelled")

    def wait(self, seconds: float) -> None:
        """Blocks for `seconds`. Raises Cancelled as soon as the token is set."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Runs `callback` when the token is set inside the block; at once when it already is. It must not block."""
        key = object()
        with self._lock:
            already = self._event.is_set()
            if not already:
                self._callbacks[key] = callback
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.pop(key, None)

    @contextmanager
    def child(self) -> Iterator[CancelToken]:
        """A token of its own for a part of the work, also cancelled when this one is."""
        token = CancelToken()
        with self.on_cancel(token.cancel):
            yield token
