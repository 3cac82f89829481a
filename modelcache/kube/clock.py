"""Time as a thing that is passed in, so that tests turn it by hand.

Only monotonic time: nothing in this package compares wall clocks of different machines. The one place that writes wall
time into objects (Lease, Event) takes it from its own `wall` argument.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that is still to come."""

    def cancel(self) -> None:
        """Never call it; harmless after it has been called."""


class Clock(Protocol):
    """Monotonic seconds, timers and sleep."""

    def now(self) -> float:
        """Monotonic seconds since some arbitrary moment."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, in the event loop, `seconds` from now."""

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` from now."""


class LoopClock:
    """The running event loop's own clock."""

    def now(self) -> float:
        """`loop.time()`, which is CLOCK_MONOTONIC."""
        return asyncio.get_running_loop().time()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """`loop.call_later`."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)
