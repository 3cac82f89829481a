"""Manifests: fetched once, incomplete ones completed, and none taken that is not what it should be."""

from __future__ import annotations

import asyncio

import pytest

from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.rpc.modelcache_pb2 import (
    PHASE_FAILED,
    PHASE_READY,
    PHASE_VERIFIED,
)
from tests.support.controller import wish
from tests.support.memory_cache import content_digest
from tests.support.node_models import KEY, NEW, OLD, SOURCE, Harness, manifest, running


async def test_an_incomplete_manifest_is_never_published_but_its_digests_are_reported() -> None:
    async with running(Harness()) as node:
        incomplete, complete = manifest(complete=False), manifest()
        node.know(incomplete, complete)
        node.want(wish(*KEY, incomplete))
        verified = await node.until_phase(PHASE_VERIFIED)
        config = content_digest(SOURCE, "config.json")
        assert [(digest.path, digest.sha256) for digest in verified.digests] == [("config.json", config)]
        assert verified.tree_digest == complete.tree_digest()
        assert verified.bytes_done == 1010
        await node.models.sweep()
        assert config in node.cache.blobs, "what waits for its digests is no garbage"
        assert node.done() == ["downloaded"]
        node.want(wish(*KEY, complete))
        ready = await node.until_phase(PHASE_READY)
        assert ready.origin_bytes >= 1010, "bytes for the same content are counted together"
        assert node.done() == ["downloaded", "publish", "set_current"], "what is here is not asked for again"
        assert not ready.digests


async def test_a_manifest_that_is_completed_in_the_middle_of_a_download_does_not_stop_it() -> None:
    async with running(Harness(automatic=False)) as node:
        incomplete, complete = manifest(complete=False), manifest()
        node.know(incomplete)
        node.want(wish(*KEY, incomplete))
        first = await node.download(0)
        node.want(wish(*KEY, complete))
        await node.until(lambda: complete.digest in node.asked)
        assert not first.cancelled.is_set(), "not even while nobody has the new manifest"
        node.know(complete)
        while node.asked.count(complete.digest) == 1:
            # Asked for again after a while; the look at the download waits for the same clock.
            await node.clock.until_waiting()
            node.clock.advance(1.0)
            await asyncio.sleep(0)
        first.finish()
        ready = await node.until_phase(PHASE_READY)
        assert not first.cancelled.is_set()
        assert len(node.fetcher.begun) == 1, "one download was enough"
        assert ready.manifest_digest == complete.digest
        assert ready.started_at.seconds == 5000


async def test_a_contradiction_that_shows_in_the_middle_of_a_download_is_not_lost() -> None:
    async with running(Harness(automatic=False)) as node:
        incomplete = manifest(complete=False)
        other = incomplete.with_sha256({"config.json": "0" * 64})
        node.know(incomplete, other)
        node.want(wish(*KEY, incomplete))
        first = await node.download(0)
        node.want(wish(*KEY, other))
        await node.until(lambda: (report := node.report()) is not None and report.bytes_total == 1010)
        first.finish()
        failed = await node.until_phase(PHASE_FAILED)
        assert failed.problem.reason == "DigestMismatch"
        assert "0" * 64 in failed.problem.message
        assert node.done() == ["downloaded"]


async def test_a_completed_manifest_with_other_digests_fails_naming_file_and_both() -> None:
    async with running(Harness()) as node:
        incomplete = manifest(complete=False)
        other = incomplete.with_sha256({"config.json": "0" * 64})
        node.know(incomplete, other)
        node.want(wish(*KEY, incomplete))
        await node.until_phase(PHASE_VERIFIED)
        node.want(wish(*KEY, other))
        failed = await node.until_phase(PHASE_FAILED)
        assert failed.problem.reason == "DigestMismatch"
        for part in ("config.json", "0" * 64, content_digest(SOURCE, "config.json")):
            assert part in failed.problem.message
        assert node.done() == ["downloaded"]
        assert node.labels.shown == {}


async def test_an_expected_checksum_is_compared_before_anything_is_published() -> None:
    async with running(Harness()) as node:
        wanted = manifest()
        node.know(wanted)
        node.want(wish(*KEY, wanted, tree_digest="0" * 64))
        failed = await node.until_phase(PHASE_FAILED)
        assert failed.problem.reason == "ChecksumMismatch"
        assert "0" * 64 in failed.problem.message
        assert str(wanted.tree_digest()) in failed.problem.message
        assert node.done() == []
        node.want(wish(*KEY, wanted, tree_digest=str(wanted.tree_digest())))
        await node.until_phase(PHASE_READY)


async def test_a_manifest_is_asked_for_again_when_a_controller_speaks_and_kept_for_later() -> None:
    async with running(Harness()) as node:
        node.want(wish(*KEY, manifest()))
        await node.until_problem("ManifestUnavailable")
        node.know(manifest())
        node.want(wish(*KEY, manifest()))
        await node.until_phase(PHASE_READY)
        assert node.asked == [manifest().digest] * 2
        assert manifest().digest in node.cache.manifests


@pytest.mark.parametrize(
    ("data", "reason", "permanent"),
    [(b"{}", "ManifestUnavailable", False), (manifest(OLD).encode(), "ManifestUnavailable", False)],
)
async def test_another_manifest_than_the_one_asked_for_is_not_taken(data: bytes, reason: str, permanent: bool) -> None:
    async with running(Harness()) as node:
        node.manifests[manifest().digest] = data
        node.want(wish(*KEY, manifest()))
        report = await node.until_problem(reason)
        assert (report.phase == PHASE_FAILED) == permanent
        assert not node.cache.manifests


async def test_a_manifest_with_an_unsafe_path_is_refused_whoever_sends_it() -> None:
    file = ManifestFile(path="../../etc/passwd", size=1, sha256=Sha256("0" * 64))
    evil = Manifest(source=SOURCE, revision=NEW, files=(file,))
    async with running(Harness()) as node:
        node.know(evil)
        node.want(wish(*KEY, evil))
        failed = await node.until_phase(PHASE_FAILED)
        assert failed.problem.reason == "InvalidManifest"
        assert "../../etc/passwd" in failed.problem.message
        assert (node.cache.manifests, node.fetcher.begun) == ({}, [])
