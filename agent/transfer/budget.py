"""How many requests an origin gets from this node at a time, over all downloads, and when it gets none.

Two limits per origin (scheme, host, port):

- at most `limit` requests are under way;
- after an answer that asks for patience (429, 503) there are none at all until the time it named, or until a backoff that
  doubles with every such answer. One download that is told to wait makes all others wait too: the origin counts addresses,
  not downloads.

The first limit blocks. The second raises, with the time of the next try, so that all waiting for time happens in one
place (the worker), where it is visible in the progress and can be cancelled.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.transfer import backoff
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock
from modelcache.sources.errors import RateLimited, Unreachable


@dataclass
class _Origin:
    free: threading.Condition = field(default_factory=threading.Condition)
    active: int = 0
    rejections: int = 0
    paused_until: float = 0.0
    reason: str = ""


class OriginBudget:
    """Shared by everything on the node that talks to origins."""

    def __init__(self, limit: int, clock: Clock, rng: random.Random, base: float, cap: float) -> None:
        self._limit = limit
        self._clock = clock
        self._rng = rng
        self._base = base
        self._cap = cap
        self._lock = threading.Lock()
        self._origins: dict[str, _Origin] = {}

    @contextmanager
    def request(self, origin: str, cancel: CancelToken) -> Iterator[None]:
        """Holds one of the origin's places. Blocks for a free one.

        Raises RateLimited with `retry_after` when the origin wants no requests now, and Cancelled.
        """
        state = self._state(origin)
        with cancel.on_cancel(lambda: _wake(state)), state.free:
            while True:
                cancel.check()
                left = state.paused_until - self._clock.monotonic()
                if left > 0:
                    raise RateLimited(state.reason, retry_after=left)
                if state.active < self._limit:
                    break
                state.free.wait()
            state.active += 1
        try:
            yield
        finally:
            with state.free:
                state.active -= 1
                state.free.notify()

    def accepted(self, origin: str) -> None:
        """The origin answered normally: the next rejection starts the backoff anew."""
        self._state(origin).rejections = 0

    def rejected(self, origin: str, reason: str, asked: float | None, *, busy: bool) -> Unreachable:
        """The origin wants fewer requests: nobody sends any for `asked` seconds, or else for a growing time.

        Returns the error to raise: RateLimited when the origin counts requests (429), Unreachable when it is `busy` (503).
        """
        state = self._state(origin)
        with state.free:
            wait = backoff.delay(asked, state.rejections, self._base, self._cap, self._rng)
            state.rejections += 1
            state.reason = reason
            state.paused_until = max(state.paused_until, self._clock.monotonic() + wait)
            state.free.notify_all()
        return Unreachable(reason, retry_after=wait) if busy else RateLimited(reason, retry_after=wait)

    def _state(self, origin: str) -> _Origin:
        with self._lock:
            return self._origins.setdefault(origin, _Origin())


def _wake(state: _Origin) -> None:
    with state.free:
        state.free.notify_all()
