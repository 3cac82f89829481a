"""Watches over what is published: whether it is still what it was, and whether the cache is still there at all.

Four looks, each for what the others cannot see, and each harmless to repeat:

    at once       a change somewhere in the tree (inotify): a quick check of what may be concerned
    every 5 min   a quick check of everything: events can be lost
    every week    a scrub: everything is read, by content, with a bandwidth limit, when the disk has nothing better to do
    every 5 s     the root itself: deleted, unmounted, read-only

None of them changes anything that is published. What is found goes to the workers (`agent.models.Models.doubt`), who take
the label away, mend and fetch what is bad (`agent.plan`), and put it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from agent.idle import become_idle
from agent.store import Problem, Store, StoreError, StoreUnusable
from agent.store.scrub import Key, Schedule
from agent.store.watching import Touched, TreeWatch
from agent.threads import in_thread
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import SystemClock
from agent.transfer.limiter import TokenBucket
from agent.wakeup import Wakeup
from modelcache.kube.clock import Clock

_log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.2
"""From the first event to the look: changes come in bursts."""
PATROL_SECONDS = 300.0
"""Between two looks at everything; 20,000 files take a fraction of a second."""
VITALS_SECONDS = 5.0
SCRUB_FIRST_SECONDS = 60.0
"""After the start: an agent that was just restarted has better things to do."""
SCRUB_LOOK_SECONDS = 3600.0
"""The longest wait until it is computed anew what is due: the wall clock may be set meanwhile."""

Doubts = Mapping[Key, Sequence[Problem]]
"""What is wrong, by snapshot; with no problems: reading has shown that something is."""


class ScrubSettings(NamedTuple):
    """Everything is read once in `interval` seconds, at most `bandwidth` bytes per second. 0 seconds: never."""

    interval: float
    bandwidth: float


class Round(NamedTuple):
    """How far the scrub is: the part of all contents that needs no reading now, and since when all of them were read."""

    ratio: float | None = None
    complete_since: float | None = None


class SelfCheck:
    """Run every one of `parts()` in a task. The callbacks are called in their event loop."""

    def __init__(
        self,
        store: Store,
        scrub: ScrubSettings,
        *,
        doubt: Callable[[Doubts], None],
        withdraw: Callable[[], Awaitable[None]],
        scrubbed: Callable[[int], None],
        begin: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`doubt` is told what is not as it was. `withdraw` takes all labels away, before the agent ends without a cache.

        `scrubbed` is told how many bytes were read, from other threads. `begin` returns when there is time for all this:
        an agent that has just been started labels its node first.
        """
        self._store = store
        self._scrub_settings = scrub
        self._doubt = doubt
        self._withdraw = withdraw
        self._scrubbed = scrubbed
        self._begin = begin
        self._clock = clock
        self._limiter = TokenBucket(scrub.bandwidth, SystemClock())
        self._touched: set[Touched] = set()
        self._lock = threading.Lock()
        self._noticed = Wakeup(clock)
        self._alarm = Wakeup(clock)
        self.watching = asyncio.Event()
        """Set once changes are noticed by themselves."""
        self.round = Round()

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run side by side, for ever. Raise StoreUnusable when the root is not there any more."""
        parts = [self._watch(), self._forever(self._patrol, PATROL_SECONDS, PATROL_SECONDS), self._guard()]
        if self._scrub_settings.interval:
            parts.append(self._forever(self._scrub, SCRUB_FIRST_SECONDS, SCRUB_LOOK_SECONDS))
        return parts

    async def _forever(self, look: Callable[[], Awaitable[float | None]], first: float, pause: float) -> None:
        """Looks again and again, also after a failure; `look` may say in how many seconds it is needed next."""
        wait = first
        while True:
            await self._clock.sleep(wait)
            sooner = await self._guarded(look)
            wait = min(pause, sooner) if sooner is not None else pause

    async def _guarded(self, look: Callable[[], Awaitable[float | None]]) -> float | None:
        try:
            return await look()
        except (StoreError, OSError) as error:
            _log.warning("a check of the cache could not be made, it is repeated later: %s", error)
            return None

    # At once

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()

        def noticed(touched: Touched) -> None:
            with self._lock:
                self._touched.add(touched)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
                loop.call_soon_threadsafe(self._noticed.set)

        await self._begin()
        watch = TreeWatch(self._store.paths, noticed)
        try:
            await in_thread(watch.start)
        except OSError as error:
            _log.warning(
                "changes in the cache are only noticed every %.0f s: %s; raise the limits in /proc/sys/fs/inotify",
                PATROL_SECONDS,
                error,
            )
        else:
            noticed(Touched())  # whatever has changed since the look at start
            self.watching.set()
        try:
            while True:
                await self._noticed.wait()
                await self._clock.sleep(SETTLE_SECONDS)
                self._noticed.clear()
                with self._lock:
                    touched, self._touched = self._touched, set()
                self._alarm.set()
                await self._guarded(partial(self._look_at, touched))
        finally:
            watch.close()

    async def _look_at(self, touched: Collection[Touched]) -> None:
        """A quick check of what may be concerned by changes."""
        if Touched() in touched:
            await self._patrol()
            return
        stop = threading.Event()
        await self._tell(*await in_thread(lambda: _look(self._store, touched, stop), stop.set))

    # From time to time

    async def _patrol(self) -> None:
        """A quick check of everything."""
        stop = threading.Event()
        await self._tell(*await in_thread(lambda: _look_at_all(self._store, stop), stop.set))

    async def _tell(self, doubts: Doubts, suspects: Sequence[str]) -> None:
        """Passes on what a quick check has found; `suspects` are contents about which only reading tells more."""
        if doubts:
            self._doubt(doubts)
        for sha256 in suspects:
            await self._read(sha256)

    async def _scrub(self) -> float | None:
        """Reads what is due; the seconds until there is more."""
        plan = await self._plan()
        if plan.due:
            _log.info("%d of %d contents have to be read again", len(plan.due), plan.total)
        for done, sha256 in enumerate(plan.due, 1):
            await self._read(sha256)
            self.round = self.round._replace(ratio=(plan.total - len(plan.due) + done) / plan.total)
        return (await self._plan()).wait if plan.due else plan.wait

    async def _plan(self) -> Schedule:
        plan = await in_thread(lambda: self._store.patrol.schedule(self._scrub_settings.interval))
        self.round = Round((plan.total - len(plan.due)) / plan.total if plan.total else None, plan.oldest)
        return plan

    async def _read(self, sha256: str) -> None:
        cancel = CancelToken()

        def paid(count: int) -> None:
            self._scrubbed(count)
            self._limiter.pay(count, cancel)

        def work() -> list[Key]:
            become_idle()
            return self._store.patrol.scrub(sha256, paid)

        damaged = await in_thread(work, cancel.cancel)
        if damaged:
            _log.warning("the content %s is damaged; it is published as part of %d revisions", sha256, len(damaged))
            self._doubt(dict.fromkeys(damaged, ()))

    # The root itself

    async def _guard(self) -> None:
        hindered = ""
        while True:
            self._alarm.clear()
            found = await in_thread(self._store.vitals)
            if found.lost:
                _log.error("%s", found.lost)
                await self._withdraw()
                raise StoreUnusable(found.lost)
            if found.hindered != hindered:
                hindered = found.hindered
                _log.log(
                    logging.ERROR if hindered else logging.INFO, "%s", hindered or "the cache can be written again"
                )
            await self._alarm.wait(VITALS_SECONDS)


def _look(
    store: Store, touched: Iterable[Touched], stop: threading.Event
) -> tuple[dict[Key, Sequence[Problem]], list[str]]:
    keys = {key for each in touched for key in store.patrol.concerned(each)}
    contents = {each.sha256 for each in touched if each.sha256 and store.blob(each.sha256) is not None}
    # A blob that was merely deleted gets its name back before anybody looks at what is made from it.
    suspects = sorted(sha256 for sha256 in contents if not store.relink(sha256))
    doubts = _doubts(store, sorted(keys), stop)
    known = {problem.sha256 for problems in doubts.values() for problem in problems}
    return doubts, [sha256 for sha256 in suspects if sha256 not in known]


def _look_at_all(store: Store, stop: threading.Event) -> tuple[dict[Key, Sequence[Problem]], list[str]]:
    altered = [Touched(sha256) for sha256 in store.patrol.altered_blobs()]
    doubts, suspects = _look(store, altered, stop)
    rest = [row.key for row in store.published() if row.key not in doubts]
    return doubts | _doubts(store, rest, stop), suspects


def _doubts(store: Store, keys: Iterable[Key], stop: threading.Event) -> dict[Key, Sequence[Problem]]:
    found: dict[Key, Sequence[Problem]] = {}
    for key in keys:
        if stop.is_set():
            break
        problems = store.patrol.look(key)
        if problems:
            found[key] = problems
    return found
