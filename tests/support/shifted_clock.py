"""The event loop's clock with a lead that a test gives it: real time goes on, and long waits are skipped.

For tests in which real servers take part, so that time cannot stand still, but nobody wants to wait for timeouts.
"""

import asyncio
from collections.abc import Callable

from modelcache.kube.clock import Clock


class _Timer:
    def __init__(self, clock: "ShiftedClock", due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self._clock = clock
        self._callback = callback
        self._handle = self._schedule()

    def _schedule(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, self.due - self._clock.now()), self._fire)

    def reschedule(self) -> None:
        self._handle.cancel()
        self._handle = self._schedule()

    def _fire(self) -> None:
        self._clock.timers.discard(self)
        self._callback()

    def cancel(self) -> None:
        self._handle.cancel()
        self._clock.timers.discard(self)


class ShiftedClock:
    """`advance(seconds)` makes everything that waits on this clock that much earlier."""

    def __init__(self) -> None:
        self._lead = 0.0
        self.timers: set[_Timer] = set()

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self._lead

    def call_later(self, seconds: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(self, self.now() + seconds, callback)
        self.timers.add(timer)
        return timer

    async def sleep(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if done.done() else done.set_result(None))
        try:
            await done
        finally:
            timer.cancel()

    def advance(self, seconds: float) -> None:
        """Skip so much time; timers that became due fire soon, in the event loop."""
        self._lead += seconds
        for timer in list(self.timers):
            timer.reschedule()


_CHECK: type[Clock] = ShiftedClock
