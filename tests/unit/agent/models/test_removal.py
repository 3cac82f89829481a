"""What is removed, what is not, and what comes back in the middle of it."""

from __future__ import annotations

import asyncio
import threading

from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import (
    PHASE_READY,
    PHASE_REMOVING,
)
from tests.support.controller import wish
from tests.support.memory_cache import MemoryCache
from tests.support.node_models import KEY, NEW, OLD, Harness, manifest, running


async def test_content_of_a_model_whose_manifest_is_not_known_yet_is_not_garbage() -> None:
    cache = MemoryCache()
    cache.blobs.add("left-by-a-former-process")
    async with running(Harness(cache)) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest()), wish("b", "unknown", manifest(OLD)))
        await node.until_phase(PHASE_READY)
        assert "left-by-a-former-process" in cache.blobs
        node.know(manifest(OLD))
        node.want(wish(*KEY, manifest()), wish("b", "unknown", manifest(OLD)))
        await node.until_phase(PHASE_READY, ObjectKey("b", "unknown"))
        await node.until(lambda: "left-by-a-former-process" not in cache.blobs)


async def test_a_removal_deletes_nothing_that_others_may_need() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    cache.blobs.add("left-by-a-former-process")
    async with running(Harness(cache)) as node:
        node.want(wish(*KEY, manifest(OLD)), wish("b", "unknown", manifest(NEW)))
        await node.until_problem("ManifestUnavailable", ObjectKey("b", "unknown"))
        node.want(wish("b", "unknown", manifest(NEW)))
        await node.until_gone()
        assert "remove_model" in node.done()
        assert "left-by-a-former-process" in cache.blobs


async def test_content_for_a_model_in_the_queue_is_not_garbage() -> None:
    cache = MemoryCache()
    weights = next(str(file.sha256) for file in manifest(NEW).files if file.path == "w.safetensors")
    cache.blobs |= {weights, "litter"}
    async with running(Harness(cache, automatic=False, slots=1)) as node:
        node.know(manifest(OLD), manifest(NEW))
        node.want(wish("a", "first", manifest(OLD)), wish("b", "queued", manifest(NEW)))
        await node.download(0)
        await node.until(lambda: "litter" not in cache.blobs)
        assert weights in cache.blobs
        assert manifest(NEW).digest in cache.manifests


async def test_a_model_wanted_again_while_it_is_being_removed_comes_back() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.know(manifest())
        await node.until_phase(PHASE_READY)
        node.labels.away = True
        node.want()
        await node.until_phase(PHASE_REMOVING)
        node.want(wish(*KEY, manifest()))
        node.labels.away = False
        node.labels.follow()
        await node.until_phase(PHASE_READY)
        assert "remove_model" not in node.done()
        node.want()
        await node.until(lambda: "remove_model" in node.done())
        node.want(wish(*KEY, manifest()))
        await node.until_phase(PHASE_READY)
        assert node.labels.shown == {KEY: NEW}
        node.want()
        await node.until_gone()
        assert node.cache.published() == []


async def test_what_is_being_removed_is_never_announced_again() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    cache.gates["remove_model"] = gate = threading.Event()
    async with running(Harness(cache)) as node:
        node.know(manifest())
        await node.until_phase(PHASE_READY)
        node.want()
        await node.until(lambda: node.models._workers[KEY].held == ())
        node.want(wish(*KEY, manifest()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert node.labels.log == [{}]
        gate.set()
        await node.until_phase(PHASE_READY)
        assert node.labels.log == [{}, {KEY: NEW}]
        assert node.done() == ["remove_model", "downloaded", "publish", "set_current"]
