"""Waiting for "something changed, or this much time has passed", on a clock that tests can turn."""

from __future__ import annotations

import asyncio
from typing import Any

from modelcache.kube.clock import Clock


class Wakeup:
    """A flag that others set and one task waits for. Any number of `set` before the wait are one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter, or let its next wait return at once."""
        self._event.set()

    def clear(self) -> None:
        """Forget earlier calls of `set`. Call it before looking at the state that they announce, never after."""
        self._event.clear()

    async def wait(self, seconds: float | None = None) -> None:
        """Return when set, or after `seconds`. The flag stays as it is."""
        if self._event.is_set() or seconds is None:
            await self._event.wait()
            return
        expired = asyncio.Event()
        timer = self._clock.call_later(max(0.0, seconds), expired.set)
        waits = [asyncio.ensure_future(self._event.wait()), asyncio.ensure_future(expired.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for wait in waits:
                wait.cancel()

    async def wait_or(self, *tasks: asyncio.Task[Any] | None) -> None:
        """Return when set, or when one of the tasks has ended, and clear the flag."""
        change = asyncio.create_task(self.wait())
        try:
            pending = [change, *(task for task in tasks if task is not None)]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        self.clear()
