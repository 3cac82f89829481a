"""What the workers of a node do, on a cache and downloads in memory and with time that the test turns."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agent.content import inspect
from agent.desired import read_desired
from agent.failures import PERMANENT_RETRY, ManifestUnavailable
from agent.models import Models, revisions_at_start
from agent.plan import UNLABELLED
from agent.questions import Questions
from agent.slots import Slots
from agent.store import Policy, StoreIOError
from agent.transfer import IntegrityError, Waiting
from modelcache.api.labels import revision_value
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_FAILED,
    PHASE_PENDING,
    PHASE_READY,
    PHASE_REMOVING,
    PHASE_VERIFIED,
    DesiredModel,
    DesiredState,
    ModelKey,
    ModelReport,
    Phase,
    PodUse,
)
from modelcache.sources.base import Credential
from modelcache.sources.errors import Unauthorized
from tests.support.controller import wish
from tests.support.fake_clock import FakeClock
from tests.support.memory_cache import MemoryCache, MemoryFetch, MemoryFetcher, content_digest
from tests.support.waiting import PATIENCE

SOURCE = "hf://acme/llama"
OLD, NEW = "a" * 40, "b" * 40
KEY = ObjectKey("team-a", "llama")


def manifest(revision: str = NEW, *, complete: bool = True, source: str = SOURCE) -> Manifest:
    """A weights file with a published sha256 and a small one of which the source publishes only the git blob id."""
    config = ManifestFile(path="config.json", size=10, git_oid=GitOid("c" * 40))
    weights = ManifestFile(path="w.safetensors", size=1000, sha256=Sha256(content_digest(source + revision, "w")))
    built = Manifest.build(source, revision, [config, weights])
    return built.with_sha256({"config.json": content_digest(source, "config.json")}) if complete else built


class Labels:
    """The node's labels: they follow the wishes as soon as the API server is not `away`."""

    def __init__(self) -> None:
        self.shown: dict[ObjectKey, str] = {}
        self.wanted: dict[ObjectKey, str] = {}
        self.away = False
        self.log: list[dict[ObjectKey, str]] = []
        self.changed: Callable[[], None] = lambda: None
        self.steps = 0

    def moves(self, key: ObjectKey) -> int:
        return self.steps

    def want(self, revisions: Mapping[ObjectKey, str]) -> None:
        if self.wanted != revisions:
            self.wanted = dict(revisions)
            self.log.append(self.wanted)
            self.steps += 1
        self.follow()

    def follow(self) -> None:
        if not self.away and self.shown != self.wanted:
            self.shown = dict(self.wanted)
            self.steps += 1
            self.changed()

    def of(self, key: ObjectKey) -> str | None:
        if self.shown.get(key) == self.wanted.get(key):
            return revision_value(self.shown[key]) if key in self.shown else UNLABELLED
        return None


class Harness:
    """Models with everything around them in the hands of the test."""

    def __init__(self, cache: MemoryCache | None = None, *, slots: int = 2, automatic: bool = True) -> None:
        self.clock = FakeClock()
        self.cache = cache or MemoryCache()
        self.fetcher = MemoryFetcher(self.cache, automatic=automatic)
        self.labels = Labels()
        self.manifests: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.uses: list[PodUse] = []
        self.uses_known = True
        self.answers = False
        """Whether the controller answers questions."""
        self.answered = 0
        self.problem = ""
        self.told: list[tuple[ObjectKey, str, bytes]] = []
        self._changed = asyncio.Event()
        held = inspect(self.cache)
        self.labels.wanted = revisions_at_start(held)
        self.labels.shown = dict(self.labels.wanted)
        self.questions = Questions(self.clock, changed=self._changed.set)
        self.models = Models(
            "node-1",
            held,
            cache=self.cache,
            fetcher=self.fetcher,
            slots=Slots(slots),
            manifest=self._manifest,
            tell=self._tell,
            shown=self.labels.of,
            moves=self.labels.moves,
            questions=self.questions,
            announce=self.labels.want,
            changed=self._changed.set,
            clock=self.clock,
            unix=lambda: 5000.0,
            rng=Random(1),
        )
        self.labels.changed = self.models.poke

    async def _manifest(self, key: ObjectKey, digest: str) -> bytes:
        self.asked.append(digest)
        self._changed.set()
        if digest not in self.manifests:
            raise ManifestUnavailable("NOT_FOUND: not yet")
        return self.manifests[digest]

    async def _tell(self, key: ObjectKey, id: str, data: bytes) -> None:
        self.told.append((key, id, data))
        self._changed.set()

    def know(self, *manifests: Manifest) -> None:
        self.manifests |= {each.digest: each.encode() for each in manifests}

    def want(self, *models: DesiredModel) -> None:
        state = DesiredState(
            models=models, uses=self.uses, uses_known=self.uses_known,
            uses_answers=self.answers, uses_answer=self.answered, uses_problem=self.problem,
        )  # fmt: skip
        self.models.take(read_desired(state))

    def report(self, key: ObjectKey = KEY) -> ModelReport | None:
        for model in self.models.reports("", None):
            if (model.model.namespace, model.model.name) == key:
                return model
        return None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_phase(self, phase: Phase.ValueType, key: ObjectKey = KEY) -> ModelReport:
        await self.until(lambda: (found := self.report(key)) is not None and found.phase == phase)
        found = self.report(key)
        assert found is not None
        return found

    async def until_gone(self, key: ObjectKey = KEY) -> None:
        await self.until(lambda: self.report(key) is None)

    async def until_problem(self, reason: str, key: ObjectKey = KEY) -> ModelReport:
        await self.until(lambda: (found := self.report(key)) is not None and found.problem.reason == reason)
        found = self.report(key)
        assert found is not None
        return found

    async def download(self, number: int) -> MemoryFetch:
        await self.until(lambda: len(self.fetcher.begun) > number)
        return self.fetcher.begun[number]

    def done(self) -> list[str]:
        """What happened to published files, in order."""
        return [entry[0] for entry in self.cache.log if entry[0] not in ("save_manifest", "collect_garbage")]


@asynccontextmanager
async def running(harness: Harness) -> AsyncIterator[Harness]:
    task = asyncio.create_task(harness.models.run())
    try:
        yield harness
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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
            await node.until(lambda n=number: f"cannot write {n}" in _message(node.report()))  # type: ignore[misc]
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


def _message(report: ModelReport | None) -> str:
    return report.problem.message if report is not None else ""


# Pods that use files


def use(pod: str = "team-a/web-0", *, since: int = 500, snapshot: str = "", name: str = KEY.name) -> PodUse:
    namespace, pod_name = pod.split("/")
    model = ModelKey(namespace=KEY.namespace, name=name)
    return PodUse(
        pod_uid=pod, pod_namespace=namespace, pod_name=pod_name, since=Timestamp(seconds=since), model=model,
        snapshot=snapshot, kind="mount",
    )  # fmt: skip


async def test_a_deletion_waits_for_the_pods_and_names_them() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.uses = [use(), use("team-a/web-1")]
        node.want()
        report = await node.until_problem("InUse")
        assert report.phase == PHASE_REMOVING
        assert "pods team-a/web-0, team-a/web-1" in report.problem.message
        assert node.labels.shown == {}
        assert node.done() == []
        node.uses = [use("team-a/web-1")]
        node.want()
        await node.until(lambda: "web-0" not in str(node.report()))
        assert node.done() == []
        node.uses = []
        node.want()
        await node.until_gone()
        assert node.done() == ["remove_model"]


async def test_a_pod_of_another_model_delays_nothing_and_one_of_the_whole_namespace_does() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.uses = [use(name="other"), use("team-a/all", name="")]
        node.want()
        assert "pod team-a/all;" in (await node.until_problem("InUse")).problem.message
        node.uses = [use(name="other")]
        node.want()
        await node.until_gone()


async def test_an_update_keeps_the_old_revision_for_the_pods_that_started_with_it() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache)) as node:
        node.know(manifest(NEW))
        node.uses = [use()]
        node.want(wish(*KEY, manifest(NEW)))
        assert (await node.until_phase(PHASE_READY)).current_revision == NEW
        assert {key[2] for key in cache.rows} == {OLD, NEW}
        node.uses = [use(since=100_000)]
        node.want(wish(*KEY, manifest(NEW)))
        await node.until(lambda: {key[2] for key in cache.rows} == {NEW})


async def test_while_nobody_knows_the_pods_nothing_is_removed() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.uses_known = False
        node.want()
        assert "list and watch pods" in (await node.until_problem("InUse")).problem.message
        assert node.done() == []
        node.uses_known = True
        node.want()
        await node.until_gone()


async def asked(node: Harness) -> int:
    """The question that the next report carries, once there is one."""
    await node.until(lambda: node.questions.sending() > node.answered)
    return node.questions.sending()


async def test_files_go_only_when_the_controller_has_looked_again_after_the_label_had_gone() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.answers = True
        node.labels.away = True
        node.want()
        await node.until(lambda: node.labels.wanted == {})
        assert node.questions.sending() == 0, "the label is still there"
        node.labels.away = False
        node.labels.follow()
        number = await asked(node)
        assert (node.done(), node.report() is not None) == ([], True)
        # A desired state for another reason: no answer, and still no files that go.
        node.want()
        # The answer shows a pod that nobody had seen before.
        node.uses, node.answered = [use()], number
        node.want()
        assert (await node.until_problem("InUse")).phase == PHASE_REMOVING
        assert node.questions.sending() == 0
        node.uses = []
        node.want()
        await node.until_gone()
        assert node.done() == ["remove_model"]


async def test_why_there_is_no_answer_is_told() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest())
    async with running(Harness(cache)) as node:
        node.answers = True
        node.want()
        number = await asked(node)
        node.problem = "the pods of node-1 cannot be listed: 403"
        node.want()
        assert "cannot be listed: 403" in (await node.until_problem("InUse")).problem.message
        # Another stream: the same question, and what was known before counts no more.
        node.questions.renew()
        node.models.poke()
        assert await asked(node) == number
        node.problem, node.answered = "", number
        node.want()
        await node.until_gone()


async def test_a_model_is_ready_while_the_old_revision_waits_for_an_answer() -> None:
    cache = MemoryCache()
    cache.put(*KEY, manifest(OLD))
    async with running(Harness(cache)) as node:
        node.answers = True
        node.know(manifest(NEW))
        node.want(wish(*KEY, manifest(NEW)))
        number = await asked(node)
        report = await node.until_phase(PHASE_READY)
        assert (report.current_revision, report.HasField("problem")) == (NEW, False)
        assert {key[2] for key in cache.rows} == {OLD, NEW}
        node.answered = number
        node.want(wish(*KEY, manifest(NEW)))
        await node.until(lambda: {key[2] for key in cache.rows} == {NEW})


async def test_nobody_is_asked_when_nothing_was_published() -> None:
    async with running(Harness()) as node:
        node.answers = True
        node.know(manifest(complete=False))
        node.want(wish(*KEY, manifest(complete=False)))
        await node.until_phase(PHASE_VERIFIED)
        node.want()
        await node.until_gone()
        assert node.questions.sending() == 0


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
