"""Time that only passes when a test says so, for everything that takes a `modelcache.kube.clock.Clock`."""

import asyncio
import heapq
from collections.abc import Callable

from modelcache.kube.clock import Clock
from tests.support.waiting import PATIENCE


class _Timer:
    def __init__(self, due: float, order: int, callback: Callable[[], None]) -> None:
        self.due = due
        self.order = order
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __lt__(self, other: "_Timer") -> bool:
        return (self.due, self.order) < (other.due, other.order)


class FakeClock:
    """Monotonic time turned by hand; timers fire in order, each at its own moment."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[_Timer] = []
        self._order = 0
        self._set = asyncio.Event()

    def now(self) -> float:
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> _Timer:
        self._order += 1
        timer = _Timer(self._now + seconds, self._order, callback)
        heapq.heappush(self._timers, timer)
        self._set.set()
        return timer

    async def sleep(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        self.call_later(seconds, lambda: None if done.done() else done.set_result(None))
        await done

    @property
    def pending(self) -> list[float]:
        """Seconds until each timer that is still to come, soonest first."""
        return sorted(timer.due - self._now for timer in self._timers if not timer.cancelled)

    async def until_waiting(self) -> None:
        """Return when something waits for this clock: whoever uses it has done all that can be done at this moment."""
        async with asyncio.timeout(PATIENCE):
            while not self.pending:
                self._set.clear()
                await self._set.wait()

    def advance(self, seconds: float) -> None:
        """Let time pass and call what became due."""
        end = self._now + seconds
        while self._timers and self._timers[0].due <= end:
            timer = heapq.heappop(self._timers)
            self._now = max(self._now, timer.due)
            if not timer.cancelled:
                timer.callback()
        self._now = end


_CHECK: type[Clock] = FakeClock
