"""How many models are downloaded at once, and whose turn it is.

First come, first served. A download that waits for its source keeps nobody else waiting for long: after a while without a
byte it gives its place up and queues again, behind everybody (`should_yield`); what it has fetched is kept on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE_SECONDS = 30.0
"""How long a download may hold a place in which it gets no bytes, while others queue."""


class Slots:
    """A counted set of places. `asyncio.Semaphore` serves its waiters in order; this adds knowing that there are some."""

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._waiting = 0
        self._taken = 0

    @property
    def waiting(self) -> int:
        """How many queue."""
        return self._waiting

    @property
    def taken(self) -> int:
        """How many places are in use."""
        return self._taken

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One place, when it is our turn."""
        self._waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._waiting -= 1
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._semaphore.release()


def should_yield(stuck_for: float, waiting: int) -> bool:
    """Whether a download that has received nothing for `stuck_for` seconds should queue again."""
    return waiting > 0 and stuck_for >= PATIENCE_SECONDS
