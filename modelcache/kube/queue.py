"""Keys that need attention, each worked on by one worker at a time.

The middle of every controller: informers put in the key of whatever changed, workers take a key out and look at the
whole state of the world for it. Since the key says only *where* to look, any number of additions before the look
collapse into one, and an addition during the look means one more look afterwards.

    add(k)           look at k now                       many adds before the look: one look
    add_after(k, s)  look at k in s seconds              the earliest wish wins, `add` is earlier than all of them
    retry(k)         look again after a failure          exponential backoff with full jitter, per key
    forget(k)        the last look went well             the next failure starts with a short wait again

Two promises, held by property tests: after `add(k)` a look at k starts later than the add; two looks at one k never
overlap. Pending keys are dropped at shutdown, because whoever starts next lists everything anyway.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from random import Random
from typing import Generic, TypeVar

from modelcache.kube.backoff import full_jitter
from modelcache.kube.clock import Clock, LoopClock, Timer
from modelcache.kube.errors import KubeError

_log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
Handler = Callable[[K], Awaitable[float | None]]
"""Work on one key. Returns in how many seconds to look again at the latest, None for "when something changes"."""


class QueueClosed(Exception):
    """`get` after `shutdown`."""


class WorkQueue(Generic[K]):
    """Coalescing queue with delays and backoff, for one event loop. `base` and `cap` (seconds) shape the backoff."""

    def __init__(
        self,
        name: str = "queue",
        *,
        base: float = 0.5,
        cap: float = 300.0,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._name = name
        self._base = base
        self._cap = cap
        self._clock = clock or LoopClock()
        self._rng = rng or Random()  # noqa: S311  # jitter, not cryptography
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()  # the keys in _ready
        self._processing: set[K] = set()
        self._again: set[K] = set()  # added while being processed
        self._delayed: dict[K, tuple[float, Timer]] = {}
        self._failures: dict[K, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def depth(self) -> int:
        """Keys that could be worked on now but are not yet."""
        return len(self._ready) + len(self._again)

    @property
    def delayed(self) -> int:
        """Keys whose time has not come."""
        return len(self._delayed)

    @property
    def processing(self) -> int:
        """Keys being worked on."""
        return len(self._processing)

    @property
    def closed(self) -> bool:
        """Whether `shutdown` has been called."""
        return self._closed

    def failures(self, key: K) -> int:
        """How often `retry` was called for `key` since the last `forget`."""
        return self._failures.get(key, 0)

    def due_in(self, key: K) -> float | None:
        """Seconds until a delayed key becomes ready, None if it is not delayed."""
        delayed = self._delayed.get(key)
        return None if delayed is None else max(0.0, delayed[0] - self._clock.now())

    # -- putting in ----------------------------------------------------------------------------------------------

    def add(self, key: K) -> None:
        """Look at `key` as soon as a worker is free. Does nothing after `shutdown`."""
        if self._closed:
            return
        self._cancel_delay(key)
        if key in self._processing:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake_one()

    def add_after(self, key: K, seconds: float) -> None:
        """Look at `key` in `seconds`, unless it is to be looked at earlier anyway."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        if key in self._waiting or key in self._again:
            return
        due = self._clock.now() + seconds
        delayed = self._delayed.get(key)
        if delayed is not None and delayed[0] <= due:
            return
        self._cancel_delay(key)
        self._delayed[key] = (due, self._clock.call_later(seconds, lambda: self._ripen(key)))

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Look at `key` again after a wait that grows with each failure; the wait in seconds, not below `at_least`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = max(at_least, full_jitter(failures, base=self._base, cap=self._cap, rng=self._rng))
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The failures of `key` are history."""
        self._failures.pop(key, None)

    # -- taking out ----------------------------------------------------------------------------------------------

    async def get(self) -> K:
        """The next key; whoever takes it must call `done`. Raises QueueClosed after `shutdown`."""
        while not self._ready and not self._closed:
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake_one()  # we were woken for a key and cannot take it any more
                raise
            finally:
                if getter in self._getters:
                    self._getters.remove(getter)
        if self._closed:
            raise QueueClosed(f"queue {self._name} has been shut down")
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """The look at `key` is over; if it was added meanwhile, it is ready again."""
        self._processing.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def run(self, handler: Handler[K], workers: int = 1) -> None:
        """Work with `workers` tasks until `shutdown`, then finish what is being worked on and return.

        A handler that raises is logged and its key retried with backoff (with KubeError: not before `retry_after`); a
        handler that returns seconds is called again after them. Cancelling `run` cancels the handlers.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._work(handler), name=f"{self._name}-{number}")

    def shutdown(self) -> None:
        """Accept and hand out no more keys. Idempotent."""
        self._closed = True
        for _, timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        self._ready.clear()
        self._waiting.clear()
        self._again.clear()
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)

    async def _work(self, handler: Handler[K]) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                key = await self.get()
            except QueueClosed:
                return
            try:
                again = await handler(key)
            except KubeError as error:
                # The expected kind of trouble: one line, no traceback.
                delay = self.retry(key, error.retry_after or 0.0)
                _log.warning("%s: %s: next try in %.1f s: %s", self._name, key, delay, error)
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                # Somebody cancelled what the handler was waiting for, not this worker.
                _log.warning("%s: %s: cancelled, next try in %.1f s", self._name, key, self.retry(key))
            except Exception:  # noqa: BLE001  # the worker outlives every mistake in a handler
                delay = self.retry(key)
                _log.exception("%s: %s: failed, next try in %.1f s", self._name, key, delay)
            else:
                self.forget(key)
                if again is not None:
                    self.add_after(key, again)
            finally:
                self.done(key)
            # A handler that waits for nothing would otherwise keep everybody else from running while keys are due.
            await asyncio.sleep(0)

    # -- below the surface ---------------------------------------------------------------------------------------

    def _ripen(self, key: K) -> None:
        self._delayed.pop(key, None)
        self.add(key)

    def _cancel_delay(self, key: K) -> None:
        delayed = self._delayed.pop(key, None)
        if delayed is not None:
            delayed[1].cancel()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
