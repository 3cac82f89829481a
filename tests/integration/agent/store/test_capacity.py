"""A cache with a limit, through whatever happens to it: never above the limit, and nothing in use is removed.

The real store, ledger and eviction, on a small scale: models of a few blocks that share content at random.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

from agent.room import Refused, Room, Storage
from agent.store import Policy, PublishedSnapshot, Store, User
from agent.store.eviction import Key, Watermarks, excess
from agent.transfer.errors import InsufficientStorage
from agent.transfer.space import SpaceLedger, on_disk
from agent.users import Users, why_kept
from modelcache.kube.clock import LoopClock
from tests.support.caching import add_blob, digest, manifest
from tests.support.memory import memory_directory

BLOCK = 4096
LIMIT = 24 * BLOCK
SEQUENCES = 200
PIECES = [bytes([number]) * (BLOCK * (1 + number % 4) - number) for number in range(12)]


class SmallCache:
    """One store and what decides about its room, as the agent puts them together; time is the number of the step."""

    def __init__(self, root: Path) -> None:
        self.now = 1000.0
        self.store = Store.open(root, lambda: self.now)
        self.ledger = SpaceLedger(lambda: 2**40, 0, limit=lambda: LIMIT, occupied=self.store.census.occupied)
        self.leaving: set[str] = set()
        """Models whose DynamoModel is deleted and whose files are not dealt with yet, because pods use them."""
        self.pods: dict[str, User] = {}
        self.users = Users(LoopClock())
        self.users.take([])
        self.refusals = 0
        storage = Storage(
            self.store.census.snapshots,
            self.ledger.usable,
            lambda: excess(self.store.census.occupied(), LIMIT, 2**40, 0, Watermarks(0.75, 0.5)),
        )
        self.room = Room(storage, LoopClock())
        self.room.attach(kept=self.kept, drop=self.drop, refused=lambda: list[Refused]())

    def kept(self, row: PublishedSnapshot) -> str:
        return why_kept(row, None, heard=True, users=self.users, loaded=frozenset())

    async def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.store.remove_snapshot(*key, spare_current=True)
        self.store.collect_garbage()

    async def add(self, name: str, files: dict[str, bytes], policy: Policy) -> None:
        """A DynamoModel is created: download within the limit, publish, switch."""
        revision = digest(repr(sorted(files.items())).encode())[:40]
        complete = manifest(files, revision)

        async def download() -> None:
            # Evicting may have taken what was here a moment ago.
            needed = {digest(data): data for data in files.values() if not self.store.has_blob(digest(data))}
            with self.ledger.reserve(sum(on_disk(len(data)) for data in needed.values())) as reservation:
                for data in needed.values():
                    add_blob(self.store, data)
                    reservation.used(on_disk(len(data)))
                self.store.publish("team", name, complete, policy=policy)

        try:
            await self.room.within(download)
        except InsufficientStorage as error:
            self.refusals += 1
            enough = error.evictable is None or error.needs <= error.free + error.evictable
        else:
            self.store.set_current("team", name, revision)
            self.leaving.discard(name)
            enough = False
        assert not enough, "refused although there was room"

    def use(self, name: str) -> None:
        """A pod starts that uses a model."""
        pod = f"team/pod-{self.now}"
        self.pods[pod] = User(pod, pod, "mount", self.now, "team", name)
        self.tell()

    def end(self, rng: random.Random) -> None:
        """A pod ends."""
        if self.pods:
            del self.pods[rng.choice(sorted(self.pods))]
            self.tell()

    def tell(self) -> None:
        self.users.take(self.pods.values())
        self.store.usage.set_users(list(self.pods.values()))

    def clean_up(self) -> None:
        """What was deleted goes, or stays as cache, once no pod uses it."""
        for name in sorted(self.leaving):
            rows = [row for row in self.store.published() if row.name == name]
            if any(self.users.pods_of(row) for row in rows):
                continue
            self.leaving.discard(name)
            if all(row.policy.retain for row in rows):
                self.store.release("team", name)
            else:
                self.store.remove_model("team", name)
                self.store.collect_garbage()

    def check(self, needed: dict[Key, dict[str, str]]) -> None:
        """The limit holds for what really lies on the disk, and pods find what they have found before."""
        content = [self.store.paths.blob(sha256) for sha256 in self.store.census.blobs()]
        assert sum(path.stat().st_blocks * 512 for path in content) <= LIMIT
        assert self.store.census.occupied() <= LIMIT
        for (namespace, name, snapshot), files in needed.items():
            top = self.store.paths.snapshot(namespace, name, snapshot)
            assert {path.name: digest(path.read_bytes()) for path in top.iterdir()} == files

    def in_use(self) -> dict[Key, dict[str, str]]:
        """What pods need now: the files by name."""
        rows = [row for row in self.store.published() if self.users.pods_of(row)]
        return {row.key: self.content(row) for row in rows}

    def content(self, row: PublishedSnapshot) -> dict[str, str]:
        found = self.store.manifest(row.manifest_digest)
        assert found is not None
        return {file.path: str(file.sha256) for file in found.files}


async def one_life(rng: random.Random, root: Path) -> int:
    """One random sequence of events; how many downloads were refused."""
    cache = SmallCache(root)
    try:
        for _ in range(25):
            cache.now += 1.0
            needed = cache.in_use()
            name = f"model-{rng.randrange(6)}"
            event = rng.choice(["add", "add", "add", "use", "use", "end", "delete", "delete", "watermark", "evict"])
            if event == "add":
                files = {f"f{index}": rng.choice(PIECES) for index in range(rng.randrange(1, 5))}
                await cache.add(name, files, Policy(retain=rng.random() < 0.7, pinned=rng.random() < 0.1))
            elif event == "use" and any(row.name == name and row.current for row in cache.store.published()):
                cache.use(name)
            elif event == "end":
                cache.end(rng)
                needed = {key: files for key, files in needed.items() if key in cache.in_use()}
            elif event == "delete":
                cache.leaving.add(name)
            elif event == "watermark":
                before = cache.store.census.occupied()
                eviction = await cache.room.excess()
                await cache.drop(eviction.victims)
                assert cache.store.census.occupied() <= before - eviction.bytes
            elif event == "evict":
                await cache.room.evict([row.key for row in cache.store.published() if row.name == name])
            cache.clean_up()
            cache.check(needed)
    finally:
        cache.store.close()
    return cache.refusals


def test_the_limit_is_never_exceeded_and_nothing_in_use_is_removed() -> None:
    refusals = 0
    for seed in range(SEQUENCES):
        with memory_directory(Path("/tmp")) as directory:
            refusals += asyncio.run(one_life(random.Random(seed), directory / "cache"))
    assert refusals > SEQUENCES // 10, "the limit was never in the way: the test says nothing"
