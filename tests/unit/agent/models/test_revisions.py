"""From one revision to the next: what arrives, what stays, and in which order labels and files move."""

from __future__ import annotations

import asyncio

from agent.desired import read_desired
from agent.transfer import IntegrityError
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_FAILED,
    PHASE_PENDING,
    PHASE_READY,
    PHASE_REMOVING,
    PHASE_VERIFIED,
    DesiredState,
)
from tests.support.controller import wish
from tests.support.memory_cache import MemoryCache
from tests.support.node_models import KEY, NEW, OLD, Harness, manifest, running


async def test_a_model_arrives_is_announced_and_leaves() -> None:
    async with running(Harness()) as node:
        wanted = manifest()
        node.know(wanted)
        node.want(wish(*KEY, wanted, hub_ref="main"))
        ready = await node.until_phase(PHASE_READY)
        assert ready.manifest_digest == wanted.digest
        assert ready.current_revision == NEW
        assert (ready.bytes_done, ready.bytes_total, ready.origin_bytes) == (1010, 1010, 1010)
        assert ready.tree_digest == wanted.tree_digest()
        assert (ready.started_at.seconds, ready.ready_at.seconds) == (5000, 1000)
        assert node.labels.shown == {KEY: NEW}
        assert node.done() == ["downloaded", "publish", "set_current"]
        claim = node.cache.published()[0].hub
        assert claim is not None
        assert (claim.repo_id, claim.commit, claim.ref) == ("acme/llama", NEW, "main")
        node.want()
        await node.until_gone()
        assert node.labels.shown == {}
        assert node.done()[3:] == ["remove_model"]
        assert (node.cache.blobs, node.cache.manifests) == (set(), {})
        assert node.fetcher.begun[0].closed


async def test_without_a_controller_everything_stays() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        ready = await node.until_phase(PHASE_READY)
        assert (ready.manifest_digest, ready.bytes_done) == (manifest().digest, 1010)
        assert node.labels.shown == {KEY: NEW}
        assert cache.log == []


async def test_a_restart_does_not_cost_readiness_nor_a_request() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    node = Harness(cache)
    phases = []
    node.models.take(read_desired(DesiredState(models=[wish(*KEY, manifest())])))
    phases.append(node.report())
    async with running(node):
        phases.append(await node.until_phase(PHASE_READY))
        for _ in range(20):
            await asyncio.sleep(0)
            phases.append(node.report())
    assert {report.phase for report in phases if report is not None} == {PHASE_READY}
    assert (node.asked, node.fetcher.begun, node.labels.log) == ([], [], [])


async def test_an_empty_digest_keeps_what_is_there() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.want(wish(*KEY), wish("team-b", "unknown"))
        await node.until_phase(PHASE_PENDING, ObjectKey("team-b", "unknown"))
        await node.until_phase(PHASE_READY)
        assert node.done() == []


async def test_files_wait_for_the_label_to_go() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        await node.until_phase(PHASE_READY)
        node.labels.away = True
        node.want()
        await node.until(lambda: node.labels.wanted == {})
        for _ in range(20):
            await asyncio.sleep(0)
        report = node.models.reports("the API server is away", 1010.0)[0]
        assert report.phase == PHASE_REMOVING
        assert (report.problem.reason, report.problem.message) == ("NodeLabelFailed", "the API server is away")
        assert report.problem.next_try.seconds == 5010
        assert node.done() == []
        node.labels.away = False
        node.labels.follow()
        await node.until_gone()
        assert node.done() == ["remove_model"]


async def test_an_update_arrives_beside_the_old_revision_and_then_replaces_it() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache, automatic=False)) as node:
        node.know(manifest(NEW))
        node.want(wish(*KEY, manifest(NEW)))
        fetch = await node.download(0)
        downloading = await node.until_phase(PHASE_DOWNLOADING)
        assert downloading.current_revision == OLD
        assert node.labels.shown == {KEY: OLD}
        fetch.finish()
        await node.until_phase(PHASE_READY)
        await node.until(lambda: len(cache.published()) == 1)
        assert node.done() == ["downloaded", "publish", "set_current", "remove_snapshot"]
        assert node.labels.log == [{KEY: NEW}], "never without a label"
        await node.until(lambda: manifest(OLD).digest not in cache.manifests)
        assert cache.blobs == {file.sha256 for file in manifest(NEW).files}


async def test_the_old_snapshot_waits_until_the_labels_have_moved_on() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache)) as node:
        node.know(manifest(NEW))
        await node.until_phase(PHASE_READY)
        node.labels.away = True
        node.want(wish(*KEY, manifest(NEW)))
        await node.until(lambda: node.labels.wanted == {KEY: NEW})
        assert (await node.until_phase(PHASE_VERIFIED)).current_revision == NEW
        assert "remove_snapshot" not in node.done()
        node.labels.away = False
        node.labels.follow()
        await node.until(lambda: "remove_snapshot" in node.done())


async def test_a_failed_update_leaves_the_old_revision_in_force() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache, automatic=False)) as node:
        node.know(manifest(NEW))
        node.want(wish(*KEY, manifest(NEW)))
        (await node.download(0)).fail(
            IntegrityError("w.safetensors", kind="sha256", expected="e" * 64, actual="a" * 64)
        )
        failed = await node.until_phase(PHASE_FAILED)
        assert failed.problem.reason == "DigestMismatch"
        assert all(part in failed.problem.message for part in ("w.safetensors", "e" * 64, "a" * 64))
        assert failed.current_revision == OLD
        assert node.labels.shown == {KEY: OLD}
        assert node.done() == []


async def test_other_content_under_the_same_revision_replaces_it_label_first() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(NEW))
    fork = manifest(NEW, source="hf://acme/fork")
    async with running(Harness(cache)) as node:
        node.know(fork)
        await node.until_phase(PHASE_READY)
        node.want(wish(*KEY, fork))
        await node.until(lambda: [row.source for row in cache.published()] == ["hf://acme/fork"])
        await node.until_phase(PHASE_READY)
        assert node.done() == ["downloaded", "remove_snapshot", "publish", "set_current"]
        assert node.labels.log == [{}, {KEY: NEW}]


async def test_retained_files_stay_without_label_or_report_and_come_back_without_a_download() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        wanted = wish(*KEY, manifest())
        wanted.retain = True
        node.know(manifest())
        node.want(wanted)
        await node.until(lambda: all(row.policy.retain for row in cache.rows.values()))
        await node.until_phase(PHASE_READY)
        node.want()
        await node.until_gone()
        assert node.done() == ["publish", "release"]
        assert [row.current for row in cache.rows.values()] == [False]
        assert node.labels.shown == {}
    async with running(Harness(cache)) as node:
        assert node.labels.shown == {}
        node.want()
        await node.until_gone()
        node.know(manifest())
        node.want(wanted)
        await node.until_phase(PHASE_READY)
        assert node.fetcher.begun == []


async def test_the_report_about_a_model_to_which_nothing_happens_is_made_once() -> None:
    async with running(Harness()) as node:
        node.know(manifest())
        node.want(wish(*KEY, manifest()))
        await node.until_phase(PHASE_READY)
        (first,) = node.models.reports("", None)
        (again,) = node.models.reports("", None)
        assert again is first
        snapshot = node.models.in_force(KEY, manifest().digest)
        assert snapshot is not None
        node.models.doubt({(*KEY, snapshot): []})
        (other,) = node.models.reports("", None)
        assert other.phase != PHASE_READY
        mended = await node.until_phase(PHASE_READY)
        assert mended.findings, "what has happened is told"
