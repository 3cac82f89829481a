"""Pods that use files: nothing of theirs is taken away, and they are asked about in the last moment."""

from __future__ import annotations

from modelcache.rpc.modelcache_pb2 import (
    PHASE_READY,
    PHASE_REMOVING,
    PHASE_VERIFIED,
)
from tests.support.controller import wish
from tests.support.memory_cache import MemoryCache
from tests.support.node_models import KEY, NEW, OLD, Harness, asked, manifest, running, use


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
