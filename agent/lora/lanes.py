"""How many adapters are loaded at once on a node, without letting slow ones keep the others from their turn.

Loading reads files and copies to GPUs, so a node should not do too much of it at once. A plain limit would be a way for a few
hanging pods to stop all: so a request holds its place for `PATIENCE_SECONDS` only, and goes on without one afterwards. What
that adds is bounded by the number of requests that each pod may have under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelcache.kube.clock import Clock

PER_NODE = 10
"""As in the Dynamo operator (`modelendpoint/client.go`, MaxConcurrentOperations), there for all nodes together."""
PATIENCE_SECONDS = 1.0


class Lanes:
    """A counted set of places, each held for a limited time."""

    def __init__(self, clock: Clock, count: int = PER_NODE) -> None:
        self._clock = clock
        self._places = asyncio.Semaphore(count)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One place, when it is our turn."""
        await self._places.acquire()
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._places.release()

        timer = self._clock.call_later(PATIENCE_SECONDS, release)
        try:
            yield
        finally:
            timer.cancel()
            release()
