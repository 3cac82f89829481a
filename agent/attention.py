"""Standing by a download: looks at it now and then, counts what it moves, takes its place away when it blocks others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agent.counting import DownloadCount
from agent.ports import Fetch
from agent.slots import should_yield
from agent.surroundings import Surroundings
from agent.threads import in_thread
from agent.transfer import Progress
from agent.transfer.errors import Cancelled
from agent.wakeup import Wakeup

LOOK_SECONDS = 1.0
"""Between two looks at a running download."""


async def attend(
    fetch: Fetch,
    source: str,
    around: Surroundings,
    looked: Callable[[Fetch, Progress | None], None],
    say: Callable[[str], None],
) -> Mapping[str, str]:
    """Run a download from `source`; path -> sha256 of all files. Raises what `Fetch.run` raises.

    `looked` is called at every look with what there is to see, `say` with what is worth a line in the log.
    """
    clock = around.clock
    count = DownloadCount(around.metrics, source, clock)
    running = asyncio.create_task(in_thread(fetch.run, fetch.cancel))
    ended = Wakeup(clock)
    running.add_done_callback(lambda _: ended.set())
    moved, last = clock.now(), -1
    try:
        while not running.done():
            progress = fetch.progress()
            count.look(progress, len(fetch.peer_problems()))
            moment = progress.fetched_bytes + progress.verified_bytes if progress is not None else 0
            if moment != last or progress is None or progress.waiting is None:
                moved, last = clock.now(), moment
            elif should_yield(clock.now() - moved, around.slots.waiting):
                say(f"lets others go first: {progress.waiting.message}")
                fetch.cancel()
            looked(fetch, progress)
            await ended.wait(LOOK_SECONDS)
        looked(fetch, fetch.progress())
        error = running.exception()
        if not isinstance(error, Cancelled):
            count.end(fetch.progress(), len(fetch.peer_problems()), success=error is None)
        return running.result()
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait([running])
            count.look(fetch.progress(), len(fetch.peer_problems()))
