"""Before the content of a damaged snapshot is put right, the node's label goes: by then nobody is sent to it any more.

That is not waited for without end. A node that cannot reach the API server heals as well, and pods that read the files can
only gain from a repair: a new file takes the place of the old one by its name, and whoever has the old one open keeps it.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.wakeup import Wakeup
from modelcache.api.labels import revision_value
from modelcache.kube.clock import Clock

RETRACT_SECONDS = 10.0


class Retraction:
    """For one model. `shown` tells the value of its revision label that the API server has confirmed last, as in `View`."""

    def __init__(self, shown: Callable[[], str | None], clock: Clock) -> None:
        self._shown = shown
        self._clock = clock
        self._looks = Wakeup(clock)

    def look(self) -> None:
        """`shown` may tell something else now."""
        self._looks.set()

    async def confirmed(self, revision: str) -> bool:
        """Return when no label names `revision` any more; False when RETRACT_SECONDS have passed before."""
        until = self._clock.now() + RETRACT_SECONDS
        while True:
            self._looks.clear()
            if self._shown() != revision_value(revision):
                return True
            left = until - self._clock.now()
            if left <= 0:
                return False
            await self._looks.wait(left)
