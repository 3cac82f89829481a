"""Room on the disk: made when it is needed, told when it cannot be, and noticed when it appears."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from agent.questions import Answer, Questions
from agent.room import Refused, Room, Storage, Unconfirmed
from agent.store import PublishedSnapshot
from agent.store.eviction import Key
from agent.transfer import InsufficientStorage
from tests.support.fake_clock import FakeClock
from tests.support.waiting import PATIENCE


def row(name: str, used: float) -> PublishedSnapshot:
    return PublishedSnapshot("team", name, "a" * 40, "d", "hf://x/y", 100, 1, 1.0, 1.0, False, None, last_used=used)


class Node:
    """A disk of 100 bytes on which each model takes 30."""

    def __init__(self, *models: str) -> None:
        self.models = {name: row(name, float(number)) for number, name in enumerate(models)}
        self.kept: dict[str, str] = {}
        self.dropped: list[str] = []
        self.excess = 0
        self.grown = 0
        self.refused: list[Refused] = []
        self.evicted: list[tuple[int, str]] = []
        self.clock = FakeClock()
        storage = Storage(
            lambda: [(each, {name: 30}) for name, each in self.models.items()], lambda: self.free, lambda: self.excess
        )
        self.connected = True
        self.questions = Questions(self.clock, reachable=lambda: self.connected)
        self.room = Room(storage, self.clock, lambda count, cause: self.evicted.append((count, cause)), self.questions)
        self.room.attach(kept=lambda each: self.kept.get(each.name, ""), drop=self.drop, refused=lambda: self.refused)

    @property
    def free(self) -> int:
        return 100 + self.grown - 30 * len(self.models)

    async def drop(self, keys: Iterable[Key]) -> None:
        for _, name, _ in keys:
            del self.models[name]
            self.dropped.append(name)

    async def download(self, needs: int) -> str:
        async def attempt() -> str:
            if needs > self.free:
                raise InsufficientStorage(f"{needs} and {self.free}", needs=needs, free=self.free)
            return "done"

        return await self.room.within(attempt)


async def test_what_was_used_least_recently_goes_for_a_download_and_no_more_than_that() -> None:
    node = Node("old", "middle", "new")
    assert await node.download(40) == "done"
    assert node.dropped == ["old"]
    assert node.evicted == [(30, "space")]


async def test_a_download_that_would_not_fit_anyway_costs_nothing_and_names_the_figures() -> None:
    node = Node("old", "middle", "new")
    node.kept["middle"] = "in use"
    with pytest.raises(InsufficientStorage, match=r"80 and 10; 60 could be freed") as raised:
        await node.download(80)
    assert (raised.value.needs, raised.value.free, raised.value.evictable) == (80, 10, 60)
    assert node.dropped == []


async def test_what_has_to_stay_is_not_evicted_on_request_either() -> None:
    node = Node("old", "new")
    node.kept["new"] = "wanted"
    eviction = await node.room.evict([each.key for each in node.models.values()])
    assert (node.dropped, eviction.bytes) == (["old"], 30)
    assert (await node.room.evict([("team", "absent", "a" * 40)])).victims == ()


async def test_what_turns_out_to_be_in_use_when_the_controller_looks_again_stays() -> None:
    node = Node("old", "middle", "new")
    node.questions.take(Answer(given=True))
    downloading = asyncio.create_task(node.download(40))
    await node.clock.until_waiting()
    assert node.dropped == []
    node.kept["old"] = "in use"
    node.questions.take(Answer(given=True, number=node.questions.sending()))
    assert await downloading == "done"
    assert node.dropped == ["middle"]


async def test_without_a_controller_nothing_is_evicted_and_the_refusal_says_so() -> None:
    node = Node("old", "middle", "new")
    node.questions.take(Answer(given=True))
    node.connected = False
    with pytest.raises(InsufficientStorage, match=r"90 could be freed .* has not confirmed that no pod uses it"):
        await node.download(40)
    with pytest.raises(Unconfirmed):
        await node.room.evict([each.key for each in node.models.values()])
    # Nor does it look as if there were room.
    tried = asyncio.Event()
    node.excess, node.refused = 20, [Refused(40, tried.set)]
    running = asyncio.create_task(node.room.run())
    await node.clock.until_waiting()
    node.clock.advance(5)
    await node.clock.until_waiting()
    assert (tried.is_set(), node.dropped) == (False, [])
    node.connected = True
    node.excess = 0
    node.clock.advance(5)
    async with asyncio.timeout(PATIENCE):
        await tried.wait()
    running.cancel()


async def test_what_comes_into_use_while_others_are_removed_stays() -> None:
    node = Node("old", "middle", "new")

    async def drop(keys: Iterable[Key]) -> None:
        for _, name, _ in keys:
            node.dropped.append(name)
            node.kept["middle"] = "in use"

    node.room.attach(kept=lambda each: node.kept.get(each.name, ""), drop=drop, refused=list)
    eviction = await node.room.evict([each.key for each in node.models.values()])
    assert node.dropped == ["old", "new"]
    assert eviction.bytes == 60


async def test_above_the_high_watermark_room_is_made_without_being_asked() -> None:
    node = Node("old", "new")
    node.excess = 20
    running = asyncio.create_task(node.room.run())
    await node.clock.until_waiting()
    node.clock.advance(5)
    await node.clock.until_waiting()
    running.cancel()
    assert node.dropped == ["old"]
    assert node.evicted == [(30, "watermark")]


async def test_a_refused_download_goes_on_as_soon_as_there_is_room() -> None:
    node = Node("one", "two", "three")
    node.kept = dict.fromkeys(node.models, "wanted")
    tried = asyncio.Event()
    node.refused = [Refused(40, tried.set)]
    running = asyncio.create_task(node.room.run())
    await node.clock.until_waiting()
    node.clock.advance(5)
    await node.clock.until_waiting()
    assert not tried.is_set()
    node.grown = 30
    node.clock.advance(5)
    async with asyncio.timeout(PATIENCE):
        await tried.wait()
    running.cancel()


async def test_a_refused_download_goes_on_when_what_was_used_is_used_no_more() -> None:
    node = Node("one", "two", "three")
    node.kept = dict.fromkeys(node.models, "in use")
    tried = asyncio.Event()
    node.refused = [Refused(40, tried.set)]
    running = asyncio.create_task(node.room.run())
    await node.clock.until_waiting()
    del node.kept["two"]
    node.clock.advance(5)
    async with asyncio.timeout(PATIENCE):
        await tried.wait()
    running.cancel()
    assert node.dropped == [], "the download itself makes the room that it needs"
