"""The models of one node, on a cache and downloads in memory and with time that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random

from google.protobuf.timestamp_pb2 import Timestamp

from agent.content import inspect
from agent.desired import read_desired
from agent.failures import ManifestUnavailable
from agent.models import Models, revisions_at_start
from agent.plan import UNLABELLED
from agent.questions import Questions
from agent.slots import Slots
from modelcache.api.labels import revision_value
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from modelcache.rpc.modelcache_pb2 import (
    DesiredModel,
    DesiredState,
    ModelKey,
    ModelReport,
    Phase,
    PodUse,
)
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
    """With its workers at work."""
    task = asyncio.create_task(harness.models.run())
    try:
        yield harness
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def message_of(report: ModelReport | None) -> str:
    """What a report says is wrong."""
    return report.problem.message if report is not None else ""


def use(pod: str = "team-a/web-0", *, since: int = 500, snapshot: str = "", name: str = KEY.name) -> PodUse:
    """A pod that uses a model since then (Unix seconds): one snapshot of it, or all."""
    namespace, pod_name = pod.split("/")
    model = ModelKey(namespace=KEY.namespace, name=name)
    return PodUse(
        pod_uid=pod, pod_namespace=namespace, pod_name=pod_name, since=Timestamp(seconds=since), model=model,
        snapshot=snapshot, kind="mount",
    )  # fmt: skip


async def asked(node: Harness) -> int:
    """The question that the next report carries, once there is one."""
    await node.until(lambda: node.questions.sending() > node.answered)
    return node.questions.sending()
