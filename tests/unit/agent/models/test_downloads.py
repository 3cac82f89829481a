"""Downloads: how many at once, and what ends one that is under way."""

from __future__ import annotations

import asyncio

from agent.transfer import Waiting
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_PENDING,
    PHASE_READY,
)
from tests.support.controller import wish
from tests.support.memory_cache import MemoryCache
from tests.support.node_models import KEY, NEW, OLD, Harness, manifest, running


async def test_no_more_models_than_allowed_are_downloaded_at_once_and_the_first_comes_first() -> None:
    keys = [ObjectKey("a", name) for name in ("one", "two", "three", "four")]
    async with running(Harness(automatic=False, slots=2)) as node:
        node.know(manifest())
        for count in range(1, 5):
            node.want(*(wish(*key, manifest(), token=f"token-{key.name}") for key in keys[:count]))
            await node.until(
                lambda n=count: (
                    sum(r.phase == PHASE_PENDING for r in node.models.reports("", None)) == max(0, n - 2)  # type: ignore[misc]
                    and len(node.fetcher.begun) == min(n, 2)
                )
            )
            await node.until(lambda n=count: node.models._around.slots.waiting == max(0, n - 2))  # type: ignore[misc]
        for number in range(4):
            fetch = await node.download(number)
            assert fetch.credential is not None
            assert fetch.credential.values["token"] == f"token-{keys[number].name}"
            fetch.finish()
        for key in keys:
            await node.until_phase(PHASE_READY, key)


async def test_a_deletion_in_the_middle_of_a_download_stops_its_threads_first() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest()))
        fetch = await node.download(0)
        node.want()
        await node.until_gone()
        assert fetch.cancelled.is_set()
        assert fetch.ended.is_set()
        assert fetch.closed
        assert node.done() == ["remove_model"]
        assert (node.cache.blobs, node.cache.manifests) == (set(), {})


async def test_a_change_in_the_middle_of_a_download_goes_to_the_new_manifest() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest(OLD), manifest(NEW))
        node.want(wish(*KEY, manifest(OLD)))
        first = await node.download(0)
        node.want(wish(*KEY, manifest(NEW)))
        second = await node.download(1)
        assert first.ended.is_set()
        assert second.manifest.revision == NEW
        second.finish()
        ready = await node.until_phase(PHASE_READY)
        assert ready.current_revision == NEW
        assert [row.snapshot for row in node.cache.published()] == [NEW]


async def test_going_back_to_what_is_held_in_the_middle_of_a_download_stops_it() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache, automatic=False)) as node:
        node.know(manifest(NEW))
        node.want(wish(*KEY, manifest(NEW)))
        fetch = await node.download(0)
        node.want(wish(*KEY, manifest(OLD)))
        ready = await node.until_phase(PHASE_READY)
        assert (ready.current_revision, ready.bytes_done, ready.origin_bytes) == (OLD, 1010, 0)
        await node.until(lambda: fetch.closed)
        assert node.labels.log == []
        await node.until(lambda: cache.blobs == {file.sha256 for file in manifest(OLD).files})
        await node.until(lambda: set(cache.manifests) == {manifest(OLD).digest})


async def test_a_replayed_state_does_not_disturb_a_download() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest(), token="t"))
        fetch = await node.download(0)
        for _ in range(10):
            node.want(wish(*KEY, manifest(), token="t"))
            await asyncio.sleep(0)
        fetch.finish()
        await node.until_phase(PHASE_READY)
        assert not fetch.cancelled.is_set()
        assert len(node.fetcher.begun) == 1


async def test_a_download_that_gets_nothing_lets_others_go_first() -> None:
    stuck, other = ObjectKey("a", "stuck"), ObjectKey("b", "other")
    async with running(Harness(automatic=False, slots=1)) as node:
        node.know(manifest())
        node.want(wish(*stuck, manifest()))
        first = await node.download(0)
        first.now = first.now._replace(waiting=Waiting("Unreachable", "hub.example does not answer", 6000.0))
        told = await node.until_problem("Unreachable", stuck)
        assert told.phase == PHASE_DOWNLOADING
        assert told.problem.next_try.seconds == 6000
        node.want(wish(*stuck, manifest()), wish(*other, manifest()))
        await node.until(lambda: node.models._around.slots.waiting == 1)
        for _ in range(3):
            # One look that notes the standstill, others that find that it has lasted.
            await node.clock.until_waiting()
            node.clock.advance(20.0)
            await asyncio.sleep(0)
        second = await node.download(1)
        second.finish()
        await node.until_phase(PHASE_READY, other)
        (await node.download(2)).finish()
        await node.until_phase(PHASE_READY, stuck)


async def test_the_end_of_the_process_ends_all_downloads() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest()), wish("b", "other", manifest()))
        fetches = [await node.download(0), await node.download(1)]
    assert all(fetch.ended.is_set() for fetch in fetches)
    assert node.done() == []
