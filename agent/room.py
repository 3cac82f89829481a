"""Room on the disk: made when a download needs it, kept free between the watermarks, and found again when it appears.

A download that does not fit is refused before its first byte (`agent.transfer.space`). Then whatever nothing wants may go,
least recently used first (`agent.store.eviction`): if that is enough it goes and the download begins, if not nothing goes in
vain, and the refusal tells all three figures. Such a model is not left to its backoff: as soon as there is room, because
somebody removed a model, a pod ended or a file system was grown, it goes on.

Nothing goes before the controller has looked who uses what (`agent.questions`), however much room is lacking and however long
nothing has wanted it: without a controller nothing is evicted. Then a download waits, or somebody else who writes to the disk
fills it and the kubelet acts; a service that loses its model would be worse. Content that was never published, or is not any
more, is no pod's, and goes without asking (`Models.sweep`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from agent.questions import Questions
from agent.store import PublishedSnapshot, StoreError
from agent.store.eviction import NOTHING, Eviction, Key, Revision, evict, evictable, just
from agent.threads import in_thread
from agent.transfer.errors import InsufficientStorage
from modelcache.kube.clock import Clock

_log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks whether there is room for what was refused, and whether the disk fills up."""
ANSWER_SECONDS = 10.0
"""For the controller to say who uses what. It asks the API server, at most once a second for each node."""

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


class Unconfirmed(Exception):
    """Something could go, but the controller has not said that no pod uses it."""

    def __init__(self) -> None:
        super().__init__("the controller has not confirmed that no pod uses it, or cannot be reached")


class Room:
    """The room of one node. Called in the event loop."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        evicted: Callable[[int, str], None] = lambda count, cause: None,
        questions: Questions | None = None,
    ) -> None:
        """`evicted` is told for each revision the bytes that its going freed, and the cause in a word."""
        self._storage = storage
        self._clock = clock
        self._evicted = evicted
        self._questions = questions or Questions(clock)
        self._evicting = asyncio.Lock()
        self._kept: Callable[[PublishedSnapshot], str] = lambda row: "nobody has said yet what is wanted"
        self._drop: Callable[[Iterable[Key]], Awaitable[None]] | None = None
        self._refused: Callable[[], Iterable[Refused]] = list

    def attach(
        self,
        *,
        kept: Callable[[PublishedSnapshot], str],
        drop: Callable[[Iterable[Key]], Awaitable[None]],
        refused: Callable[[], Iterable[Refused]],
    ) -> None:
        """`kept`: why a snapshot has to stay, empty when it may go. `drop` removes snapshots and what only they need.

        Each of the keys that `drop` gets may go at the moment when it is taken from the iterable, and perhaps not later.
        """
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
                more, withheld = error.needs - error.free, ""
                try:
                    if could >= more and (await self._evict(partial(evict, need=more), "space")).victims:
                        continue
                except Unconfirmed as unconfirmed:
                    withheld = str(unconfirmed)
                raise InsufficientStorage(
                    error.facts, needs=error.needs, free=error.free, evictable=could, withheld=withheld
                ) from error

    async def revisions(self) -> list[Revision]:
        """Everything published, each with the reason why it has to stay, if there is one. Raises StoreError."""
        return (await self._look())[0]

    async def _look(self) -> tuple[list[Revision], dict[Key, PublishedSnapshot]]:
        found = await in_thread(self._storage.snapshots)
        revisions = [Revision(row.key, row.last_used, blobs, self._kept(row)) for row, blobs in found]
        return revisions, {row.key: row for row, _ in found}

    async def excess(self) -> Eviction:
        """What has to go now because the cache is above its high watermark. Raises StoreError."""
        need = await in_thread(self._storage.excess)
        return evict(await self.revisions(), need) if need > 0 else Eviction()

    async def evict(self, keys: Iterable[Key]) -> Eviction:
        """Let these go, but for those that have to stay. Raises Unconfirmed, StoreError."""
        wanted = set(keys)
        return await self._evict(lambda revisions: just(revisions, wanted), "command")

    async def run(self) -> None:
        """Look after the room until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                need = await in_thread(self._storage.excess)
                if need > 0 and self._can_ask():
                    await self._evict(partial(evict, need=need), "watermark")
                await self._let_retry()
            except Unconfirmed:
                _log.debug("nothing is evicted: the controller does not answer")
            except (StoreError, OSError) as error:
                _log.warning("no room could be made: %s", error)

    async def _let_retry(self) -> None:
        refused = list(self._refused())
        if not refused:
            return
        room = await in_thread(self._storage.usable)
        if self._can_ask():
            room += evictable(await self.revisions())
        for download in refused:
            if download.needs <= room:
                download.retry()

    def _can_ask(self) -> bool:
        return self._questions.reachable or not self._questions.needed

    async def _evict(self, choose: Callable[[Sequence[Revision]], Eviction], cause: str) -> Eviction:
        """Let go what is chosen among everything published. Raises Unconfirmed, StoreError."""
        if self._drop is None or not choose(await self.revisions()).victims:
            return NOTHING
        if not await self._questions.confirm(ANSWER_SECONDS):
            raise Unconfirmed
        async with self._evicting:
            # Once more, with what is known now.
            revisions, rows = await self._look()
            gone: list[Key] = []

            def going() -> Iterator[Key]:
                for key in choose(revisions).victims:
                    # Looked at right before it goes: the one before it took its time.
                    if not self._kept(rows[key]):
                        _log.info("evicts revision %s", key[2], extra={"model": f"{key[0]}/{key[1]}"})
                        gone.append(key)
                        yield key

            await self._drop(going())
        eviction = just(revisions, gone)
        for number, _ in enumerate(eviction.victims):
            # Content is shared: only together do they free a certain number of bytes.
            self._evicted(eviction.bytes if number == 0 else 0, cause)
        return eviction
