"""What fails is told, tried again in its time, and disturbs nothing else."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agent.failures import PERMANENT_RETRY
from agent.store import StoreIOError
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import (
    PHASE_FAILED,
    PHASE_READY,
)
from modelcache.sources.base import Credential
from modelcache.sources.errors import Unauthorized
from tests.support.controller import wish
from tests.support.memory_cache import MemoryCache
from tests.support.node_models import KEY, NEW, OLD, Harness, manifest, message_of, running


async def test_a_permanent_failure_is_tried_again_when_anything_changes_and_slowly_by_itself() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest())
        denied = Unauthorized("The hub refuses the token; check secretRef.")
        node.want(wish(*KEY, manifest(), token="first"))
        (await node.download(0)).fail(denied)
        await node.until_phase(PHASE_FAILED)
        node.want(wish(*KEY, manifest(), token="first"))
        node.want(wish(*KEY, manifest(), token="second"))
        second = await node.download(1)
        assert second.credential is not None
        assert second.credential.values == {"token": "second"}
        second.fail(denied)
        await node.until_phase(PHASE_FAILED)
        node.want(wish(*KEY, manifest(), token="second", attempt="2"))
        (await node.download(2)).fail(denied)
        failed = await node.until_phase(PHASE_FAILED)
        assert failed.problem.next_try.seconds == 5000 + PERMANENT_RETRY
        await node.clock.until_waiting()
        node.clock.advance(PERMANENT_RETRY)
        (await node.download(3)).finish()
        await node.until_phase(PHASE_READY)


async def test_a_failure_that_may_pass_is_tried_again_with_growing_waits() -> None:
    async with running(Harness()) as node:
        node.know(manifest())
        node.cache.failures["publish"] = [StoreIOError(f"cannot write {n}", 5) for n in range(6)]
        node.want(wish(*KEY, manifest()))
        waits = []
        for number in range(6):
            await node.until(lambda n=number: f"cannot write {n}" in message_of(node.report()))  # type: ignore[misc]
            report = node.report()
            assert report is not None
            assert report.problem.reason == "StorageError"
            assert report.phase != PHASE_FAILED
            await node.clock.until_waiting()
            waits.append(node.clock.pending[0])
            node.clock.advance(waits[-1])
        await node.until_phase(PHASE_READY)
        assert all(wait <= min(60.0, 2.0**n) for n, wait in enumerate(waits))


async def test_one_models_failure_does_not_touch_another(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = ObjectKey("a", "bad"), ObjectKey("a", "good")
    async with running(Harness(automatic=False, slots=1)) as node:
        node.know(manifest())
        node.want(wish(*bad, manifest(), token="hf_canary"), wish(*good, manifest()))
        first = await node.download(0)
        with caplog.at_level(logging.DEBUG):
            first.fail(ValueError("Invalid header value b'Bearer hf_canary\\n'"))
            second = await node.download(1)
            second.finish()
            await node.until_phase(PHASE_READY, good)
            broken = await node.until_problem("InternalError", bad)
        assert "hf_canary" not in broken.problem.message
        assert "hf_canary" not in caplog.text
        assert "Invalid header value" in caplog.text


async def test_a_problem_that_has_passed_is_not_reported_any_more() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache, automatic=False)) as node:
        node.know(manifest(NEW))
        cache.failures["remove_snapshot"] = [StoreIOError("cannot remove it", 5)]
        node.want(wish(*KEY, manifest(NEW)))
        fetch = await node.download(0)
        fetch.finish()
        stuck = await node.until_problem("StorageError")
        assert stuck.phase == PHASE_READY, "what is left to do does not concern anybody who uses the model"
        await node.clock.until_waiting()
        node.clock.advance(60)
        await node.until(lambda: len(cache.published()) == 1)
        await node.until(lambda: (report := node.report()) is not None and not report.HasField("problem"))


async def test_content_that_cannot_be_deleted_is_deleted_later() -> None:
    cache = MemoryCache()
    cache.blobs.add("litter")
    cache.failures["collect_garbage"] = [StoreIOError("busy", 16)] * 2
    async with running(Harness(cache)) as node:
        node.want()
        for _ in range(2):
            await node.clock.until_waiting()
            node.clock.advance(60)
            await asyncio.sleep(0)
        await node.until(lambda: cache.blobs == set())


async def test_a_credential_that_comes_while_the_one_before_fails_is_tried_at_once() -> None:
    async with running(Harness(automatic=False)) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest(), token="old-token"))
        first = await node.download(0)
        node.want(wish(*KEY, manifest(), token="new-token"))
        first.fail(Unauthorized("old-token is not accepted any more"))
        second = await node.download(1)
        assert second.credential == Credential({"token": "new-token"})
        second.finish()
        await node.until_phase(PHASE_READY)
