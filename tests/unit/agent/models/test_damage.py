"""Content that is lost or damaged, with a controller and without one."""

from __future__ import annotations

import asyncio

from agent.store import Policy, StoreIOError
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import (
    PHASE_PENDING,
    PHASE_READY,
)
from tests.support.controller import wish
from tests.support.memory_cache import MemoryCache
from tests.support.node_models import KEY, NEW, OLD, Harness, manifest, running


async def test_damage_at_start_costs_the_label_and_is_mended_from_what_is_there() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    cache.damage(*KEY, manifest(), lost=False)
    node = Harness(cache)
    assert node.labels.wanted == {}
    first = node.report()
    assert first is not None
    assert (first.phase, first.problem.reason) == (PHASE_PENDING, "FilesChanged")
    async with running(node):
        await node.until_phase(PHASE_READY)
        assert node.done() == ["restore"]
        assert node.labels.shown == {KEY: NEW}
        assert node.fetcher.begun == []


async def test_lost_content_is_fetched_again_once_the_controller_wants_it() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    cache.damage(*KEY, manifest(), lost=True)
    async with running(Harness(cache)) as node:
        cache.failures["restore"] = []
        await node.until_problem("FilesChanged")
        assert node.fetcher.begun == []
        node.want(wish(*KEY, manifest()))
        await node.until_phase(PHASE_READY)
        assert node.done() == ["restore", "downloaded", "restore"]
        assert node.labels.shown == {KEY: NEW}


async def test_without_a_controller_lost_content_comes_from_a_source_that_wants_no_secret() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD), policy=Policy(keyless=True))
    cache.put(*KEY, manifest(NEW), policy=Policy(keyless=True))
    cache.damage(*KEY, manifest(NEW), lost=True)
    async with running(Harness(cache)) as node:
        await node.until_problem("FilesChanged")
        assert (node.labels.shown, node.fetcher.begun) == ({}, [])
        node.models.manage_alone()
        await node.until(lambda: node.labels.shown == {KEY: NEW})
        assert node.done() == ["restore", "downloaded", "restore"], (
            "the other revision stays: nobody has said otherwise"
        )
        assert [fetch.credential for fetch in node.fetcher.begun] == [None]
        wanted = wish(*KEY, manifest())
        wanted.keyless = True
        node.want(wanted)
        await node.until_phase(PHASE_READY)
        await node.until(lambda: node.done()[3:] == ["remove_snapshot"])
        assert node.labels.log == [{KEY: NEW}], "nothing is fetched, withdrawn or labelled twice"
        assert len(node.fetcher.begun) == 1


async def test_without_a_controller_nobody_asks_a_source_that_wants_a_secret_nor_after_one_has_spoken() -> None:
    cache, other = MemoryCache(), ObjectKey("team-b", "llama")
    cache.put(*other, manifest(), policy=Policy(keyless=True))
    cache.put(*KEY, manifest())
    cache.damage(*KEY, manifest(), lost=True)
    async with running(Harness(cache)) as node:
        node.models.manage_alone()
        await node.until(lambda: cache.log == [("restore", *KEY, NEW)])
        for _ in range(20):
            await asyncio.sleep(0)
        assert (node.fetcher.begun, node.labels.shown) == ([], {other: NEW})
        node.want()
        node.models.manage_alone()
        await node.until_gone(other)


async def test_content_that_vanishes_before_it_is_published_is_fetched_again() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest()))
        fetch = await node.download(0)
        node.cache.failures["publish"] = [StoreIOError("broken", 5)]
        fetch.finish()
        await node.until_problem("StorageError")
        await node.clock.until_waiting()
        node.clock.advance(60)
        (await node.download(1)).finish()
        await node.until_phase(PHASE_READY)
