"""Room on the disk: made when a download needs it, kept free between the watermarks, and found again when it appears.

A download that does not fit is refused before its first byte (`agent.transfer.space`). Then whatever nothing wants may go,
least recently used first (`agent.store.eviction`): if that is enough it goes and the download begins, if not nothing goes in
vain, and the refusal tells all three figures. Such a model is not left to its backoff: as soon as there is room, because
somebody removed a model, a pod ended or a file system was grown, it goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from agent.store import PublishedSnapshot, StoreError
from agent.store.eviction import Eviction, Key, Revision, evict, evictable
from agent.threads import in_thread
from agent.transfer.errors import InsufficientStorage
from modelcache.kube.clock import Clock

_log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks whether there is room for what was refused, and whether the disk fills up."""

T = TypeVar("T")


class Storage(NamedTuple):
    """What there is, from the disk; all of it blocks, and raises StoreError or OSError.

    `snapshots`: everything published with the bytes of its content by digest. `usable`: bytes that a download may reserve.
    `excess`: bytes that have to go because the cache is above its high watermark.
    """

    snapshots: Callable[[], Sequence[tuple[PublishedSnapshot, dict[str, int]]]]
    usable: Callable[[], int]
    excess: Callable[[], int]


ENDLESS = Storage(list, lambda: 2**62, lambda: 0)


class Refused(NamedTuple):
    """A download that did not fit: bytes that it needs, and how to let it try again."""

    needs: int
    retry: Callable[[], None]


class Room:
    """The room of one node. Called in the event loop."""

    def __init__(
        self, storage: Storage, clock: Clock, evicted: Callable[[int, str], None] = lambda count, cause: None
    ) -> None:
        """`evicted` is told for each revision the bytes that its going freed, and the cause in a word."""
        self._storage = storage
        self._clock = clock
        self._evicted = evicted
        self._kept: Callable[[PublishedSnapshot], str] = lambda row: "nobody has said yet what is wanted"
        self._drop: Callable[[Sequence[Key]], Awaitable[None]] | None = None
        self._refused: Callable[[], Iterable[Refused]] = list

    def attach(
        self,
        *,
        kept: Callable[[PublishedSnapshot], str],
        drop: Callable[[Sequence[Key]], Awaitable[None]],
        refused: Callable[[], Iterable[Refused]],
    ) -> None:
        """`kept`: why a snapshot has to stay, empty when it may go. `drop` removes snapshots and what only they need."""
        self._kept, self._drop, self._refused = kept, drop, refused

    async def within(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives; where it lacks room, room is made and it is called again.

        Raises InsufficientStorage with all figures when evicting would not help, and what else `attempt` raises.
        """
        while True:
            try:
                return await attempt()
            except InsufficientStorage as error:
                revisions = await self.revisions()
                could = evictable(revisions)
                more = error.needs - error.free
                if could < more or not (await self._evict(evict(revisions, more), "space")).victims:
                    raise InsufficientStorage(
                        error.facts, needs=error.needs, free=error.free, evictable=could
                    ) from error

    async def revisions(self) -> list[Revision]:
        """Everything published, each with the reason why it has to stay, if there is one. Raises StoreError."""
        found = await in_thread(self._storage.snapshots)
        return [Revision(row.key, row.last_used, blobs, self._kept(row)) for row, blobs in found]

    async def excess(self) -> Eviction:
        """What has to go now because the cache is above its high watermark. Raises StoreError."""
        need = await in_thread(self._storage.excess)
        return evict(await self.revisions(), need) if need > 0 else Eviction()

    async def evict(self, keys: Iterable[Key]) -> Eviction:
        """Let these go, but for those that have to stay. Raises StoreError."""
        wanted = set(keys)
        chosen = [r if r.key in wanted else r._replace(kept="not asked for") for r in await self.revisions()]
        return await self._evict(Eviction(tuple(r.key for r in chosen if not r.kept), evictable(chosen)), "command")

    async def run(self) -> None:
        """Look after the room until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self._evict(await self.excess(), "watermark")
                await self._let_retry()
            except (StoreError, OSError) as error:
                _log.warning("no room could be made: %s", error)

    async def _let_retry(self) -> None:
        refused = list(self._refused())
        if not refused:
            return
        room = await in_thread(self._storage.usable) + evictable(await self.revisions())
        for download in refused:
            if download.needs <= room:
                download.retry()

    async def _evict(self, eviction: Eviction, cause: str) -> Eviction:
        if not eviction.victims or self._drop is None:
            return Eviction()
        for namespace, name, snapshot in eviction.victims:
            _log.info("evicts revision %s", snapshot, extra={"model": f"{namespace}/{name}"})
        await self._drop(eviction.victims)
        for number, _ in enumerate(eviction.victims):
            # Content is shared: only together do they free a certain number of bytes.
            self._evicted(eviction.bytes if number == 0 else 0, cause)
        return eviction
