"""What the workers make of a self-check's findings: label away, put right, label back, and tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from agent.content import inspect
from agent.desired import read_desired
from agent.models import Models, revisions_at_start
from agent.plan import UNLABELLED
from agent.retraction import RETRACT_SECONDS
from agent.slots import Slots
from agent.store import Problem, ProblemKind
from modelcache.api.labels import revision_value
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.rpc.modelcache_pb2 import PHASE_READY, DesiredState, ModelReport
from tests.support.controller import wish
from tests.support.fake_clock import FakeClock
from tests.support.memory_cache import MemoryCache, MemoryFetcher, content_digest
from tests.support.waiting import PATIENCE

KEY = ObjectKey("team-a", "llama")
SOURCE = "hf://acme/llama"
FILE = ManifestFile(path="w", size=1000, sha256=Sha256(content_digest(SOURCE, "w")))
MANIFEST = Manifest.build(SOURCE, "b" * 40, [FILE])
PROBLEM = Problem(Path("/cache/w"), ProblemKind.CHANGED, "size is 1, was 1000", str(FILE.sha256))
SNAPSHOT = (*KEY, MANIFEST.snapshot)


class Node:
    """A node on which the model is published, wanted and labelled."""

    def __init__(self) -> None:
        self.cache = MemoryCache()
        self.cache.put(*KEY, MANIFEST)
        self.fetcher = MemoryFetcher(self.cache, automatic=True)
        self.announced: list[dict[ObjectKey, str]] = []
        self.changed = asyncio.Event()
        self.clock = FakeClock()
        self.stuck = ""
        """What the label shows while the API server does not answer; empty while it does."""
        held = inspect(self.cache)
        self.models = Models(
            "node-1",
            held,
            cache=self.cache,
            fetcher=self.fetcher,
            slots=Slots(2),
            manifest=self._no_manifest,
            tell=self._no_listing,
            shown=self._shown,
            announce=self._announce,
            changed=self.changed.set,
            clock=self.clock,
            unix=lambda: 5000.0,
            rng=Random(1),
        )
        self._announce(revisions_at_start(held))

    async def _no_manifest(self, key: ObjectKey, digest: str) -> bytes:
        raise AssertionError("the manifest is on the disk")

    async def _no_listing(self, key: ObjectKey, id: str, data: bytes) -> None:
        raise AssertionError("nobody has asked for a listing")

    def _announce(self, revisions: object) -> None:
        assert isinstance(revisions, dict)
        if not self.announced or self.announced[-1] != revisions:
            self.announced.append(dict(revisions))
            self.changed.set()
            self.models.poke()

    def _shown(self, key: ObjectKey) -> str | None:
        if self.stuck:
            return self.stuck
        return revision_value(self.announced[-1][key]) if key in self.announced[-1] else UNLABELLED

    def report(self) -> ModelReport:
        (report,) = self.models.reports("", None)
        return report

    async def until_findings(self, *reasons: str) -> ModelReport:
        async with asyncio.timeout(PATIENCE):
            while [finding.reason for finding in self.report().findings] != list(reasons):
                self.changed.clear()
                await self.changed.wait()
            while self.report().phase != PHASE_READY:
                self.changed.clear()
                await self.changed.wait()
        return self.report()


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    node = Node()
    node.models.take(read_desired(DesiredState(models=[wish(*KEY, MANIFEST)])))
    task = asyncio.create_task(node.models.run())
    try:
        await node.until_findings()
        yield node
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_was_only_changed_is_put_right_from_the_cache() -> None:
    async with running() as node:
        node.cache.damage(*KEY, MANIFEST, lost=False)
        node.models.doubt({SNAPSHOT: [PROBLEM]})
        report = await node.until_findings("FilesDamaged", "FilesRepaired")
        assert "/cache/w: size is 1, was 1000" in report.findings[0].message
        assert node.announced == [{KEY: MANIFEST.revision}, {}, {KEY: MANIFEST.revision}]
        assert node.fetcher.begun == []
        assert (node.models.findings.damages, node.models.findings.repairs) == (1, 1)


@pytest.mark.parametrize("answers", [True, False])
async def test_nothing_is_mended_before_the_label_is_gone_unless_nobody_can_take_it_away(answers: bool) -> None:
    async with running() as node:
        node.stuck = revision_value(MANIFEST.revision)
        node.cache.damage(*KEY, MANIFEST, lost=False)
        node.models.doubt({SNAPSHOT: [PROBLEM]})
        await node.clock.until_waiting()
        assert [finding.reason for finding in node.report().findings] == ["FilesDamaged"]
        if answers:
            node.stuck = ""
            node.models.poke()
        else:
            node.clock.advance(RETRACT_SECONDS)
        await node.until_findings("FilesDamaged", "FilesRepaired")


async def test_lost_content_is_fetched_again_although_it_was_fetched_once() -> None:
    async with running() as node:
        for times in (1, 2):
            node.cache.damage(*KEY, MANIFEST, lost=True)
            node.models.doubt({SNAPSHOT: ()})
            await node.until_findings(*["FilesDamaged", "FilesRepaired"] * times)
            assert len(node.fetcher.begun) == times
            assert node.fetcher.begun[-1].closed, "nothing is held for it any more"


async def test_a_false_alarm_costs_a_look() -> None:
    async with running() as node:
        node.models.doubt({SNAPSHOT: [PROBLEM], ("team-a", "unknown", "x"): [PROBLEM], (*KEY, "gone"): [PROBLEM]})
        await node.until_findings("FilesDamaged", "FilesRepaired")
        assert node.fetcher.begun == []


async def test_what_is_said_while_something_is_mended_is_looked_at_again() -> None:
    async with running() as node:
        looked = 0
        check = node.cache.quick_check

        def look(namespace: str, name: str, snapshot: str) -> list[Problem]:
            nonlocal looked
            looked += 1
            if looked == 1:
                # In the thread that mends: the event loop is told while the look is under way.
                asyncio.run_coroutine_threadsafe(doubt_again(), loop).result(60)
            return check(namespace, name, snapshot)

        async def doubt_again() -> None:
            node.models.doubt({SNAPSHOT: [PROBLEM]})

        loop = asyncio.get_running_loop()
        node.cache.quick_check = look  # type: ignore[method-assign]  # the test stands in the middle
        node.models.doubt({SNAPSHOT: [PROBLEM]})
        await node.until_findings("FilesDamaged", "FilesRepaired")
        assert looked >= 2


async def test_without_a_cache_nothing_is_announced_whatever_the_workers_believe() -> None:
    async with running() as node:
        node.models.abandon()
        assert node.announced[-1] == {}
        node.models.poke()
        node.changed.clear()
        async with asyncio.timeout(PATIENCE):
            await node.changed.wait()
        assert node.announced[-1] == {}
