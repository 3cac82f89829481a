"""The labels of a Node, on an API server that fails, forgets, and has other users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

from agent.node import NodeLabels, wanted_labels
from agent.plan import UNLABELLED
from modelcache.api.labels import is_ours, ready_label
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import LoopClock
from modelcache.kube.resources import ObjectKey
from tests.support.faulty_api import FaultyApi, any_request, drop, hang, status
from tests.support.waiting import PATIENCE, wait_until_async

PATH = "/api/v1/nodes/node-1"
KEY, OTHER = ObjectKey("team-a", "llama"), ObjectKey("team-b", "qwen")
OLD, NEW = "a" * 40, "b" * 40
FOREIGN = {"kubernetes.io/hostname": "node-1", "topology.kubernetes.io/zone": "zone-a"}


class Impatient(Random):
    """Never waits: jitter is always its lower bound."""

    def uniform(self, a: float, b: float) -> float:
        del b
        return a


def is_patch(request: web.Request) -> bool:
    return request.method == "PATCH"


class Labels:
    """Running `NodeLabels`, and a way to wait for what they show."""

    def __init__(self, client: KubeClient, revisions: dict[ObjectKey, str]) -> None:
        self.changed = asyncio.Event()
        self.history: list[str | None] = []
        """What was shown of KEY at every change."""
        self.labels = NodeLabels(
            client, "node-1", revisions=revisions, clock=LoopClock(), rng=Impatient(), on_change=self._on_change
        )

    def _on_change(self) -> None:
        self.history.append(self.labels.shown(KEY))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_shown(self, key: ObjectKey, value: str) -> None:
        await self.until(lambda: self.labels.shown(key) == value)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FaultyApi]:
    async with FaultyApi(tmp_path) as server:
        yield server


async def make_node(api: FaultyApi, labels: dict[str, str] | None = None) -> None:
    await api.put(PATH, {"kind": "Node", "metadata": {"labels": FOREIGN | (labels or {})}})


@asynccontextmanager
async def running(api: FaultyApi, revisions: dict[ObjectKey, str] | None = None) -> AsyncIterator[Labels]:
    async with KubeClient.connect(api.kubeconfig) as client:
        labels = Labels(client, revisions or {})
        tasks = [asyncio.create_task(labels.labels.informer.run()), asyncio.create_task(labels.labels.run())]
        try:
            yield labels
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def labels_of(api: FaultyApi) -> dict[str, str]:
    labels: dict[str, str] = api.objects[PATH]["metadata"].get("labels") or {}
    return labels


def ours(api: FaultyApi) -> dict[str, str]:
    return {key: value for key, value in labels_of(api).items() if is_ours(key)}


async def test_labels_come_change_and_go_and_others_stay(api: FaultyApi) -> None:
    await make_node(api)
    async with running(api) as node:
        node.labels.want({KEY: OLD})
        await node.until_shown(KEY, OLD[:12])
        assert ours(api) == wanted_labels({KEY: OLD})
        node.labels.want({KEY: NEW, OTHER: OLD})
        assert node.labels.shown(KEY) is None, "a wish is not a fact"
        await node.until_shown(KEY, NEW[:12])
        await node.until_shown(OTHER, OLD[:12])
        node.labels.want({OTHER: OLD})
        await node.until_shown(KEY, UNLABELLED)
        assert labels_of(api) == FOREIGN | wanted_labels({OTHER: OLD})
        assert node.labels.zone == "zone-a"
        assert node.labels.problem == ""


async def test_a_label_removed_by_hand_comes_back_and_a_stale_one_goes(api: FaultyApi) -> None:
    stale = wanted_labels({OTHER: OLD})
    await make_node(api, stale)
    async with running(api, {KEY: OLD}) as node:
        await api.until(lambda: ours(api) == wanted_labels({KEY: OLD}))
        await make_node(api)
        await api.until(lambda: ours(api) == wanted_labels({KEY: OLD}))
        await make_node(api, wanted_labels({KEY: NEW}) | stale)
        await api.until(lambda: ours(api) == wanted_labels({KEY: OLD}))
        await node.until_shown(KEY, OLD[:12])
        assert node.labels.shown(OTHER) == UNLABELLED


async def test_a_restart_takes_the_labels_for_granted_until_it_knows_better(api: FaultyApi) -> None:
    await make_node(api, wanted_labels({KEY: OLD}))
    released = asyncio.Event()
    api.inject(any_request, hang(released), times=None)
    async with running(api, {KEY: OLD}) as node:
        assert node.labels.shown(KEY) == OLD[:12]
        assert node.labels.shown(OTHER) is None
        api.heal()
        released.set()
        await node.until_shown(OTHER, UNLABELLED)
        assert node.labels.shown(KEY) == OLD[:12]
    assert not api.requests(lambda seen: seen.method == "PATCH"), "nothing had to be changed"


async def test_a_server_that_fails_is_asked_again_and_nothing_is_forgotten(api: FaultyApi) -> None:
    await make_node(api)
    async with running(api) as node:
        await node.until_shown(KEY, UNLABELLED)
        api.inject(is_patch, status(500, "InternalError", "the disk is full"), times=2)
        api.inject(is_patch, drop, times=1)
        node.labels.want({KEY: OLD})
        await node.until(lambda: "the disk is full" in node.labels.problem)
        await node.until_shown(KEY, OLD[:12])
        assert node.labels.problem == ""
        assert node.labels.next_try is None


async def test_a_label_counts_as_gone_only_when_the_server_has_said_so(api: FaultyApi) -> None:
    await make_node(api, wanted_labels({KEY: OLD}))
    async with running(api, {KEY: OLD}) as node:
        await node.until_shown(OTHER, UNLABELLED)
        answered = asyncio.Event()
        api.inject(is_patch, hang(answered))
        node.labels.want({})
        await api.until(lambda: bool(api.requests(lambda seen: seen.method == "PATCH")))
        assert node.labels.shown(KEY) is None
        answered.set()
        await node.until_shown(KEY, UNLABELLED)
        assert ours(api) == {}


async def test_a_label_that_cannot_be_put_back_is_not_shown(api: FaultyApi) -> None:
    await make_node(api, wanted_labels({KEY: OLD}))
    async with running(api, {KEY: OLD}) as node:
        await node.until_shown(OTHER, UNLABELLED)
        api.inject(is_patch, status(403, "Forbidden", "not yours"), times=None)
        await make_node(api)
        await node.until_shown(KEY, UNLABELLED)
        assert "not yours" in node.labels.problem
        api.heal()
        await node.until_shown(KEY, OLD[:12])


async def test_a_removal_is_sent_even_where_nothing_seems_to_differ(api: FaultyApi) -> None:
    await make_node(api, wanted_labels({KEY: OLD}))
    async with running(api, {KEY: OLD}) as node:
        await node.until_shown(OTHER, UNLABELLED)
        api.inject(is_patch, status(500, "InternalError"), times=None)
        await make_node(api)
        await node.until_shown(KEY, UNLABELLED)
        api.heal()
        before = len(api.seen)
        node.labels.want({})
        await node.until_shown(KEY, UNLABELLED)
        patches = [seen.json for seen in api.seen[before:] if seen.method == "PATCH"]
        assert {"metadata": {"labels": dict.fromkeys(wanted_labels({KEY: OLD}))}} in patches


async def test_a_node_that_does_not_exist_is_named_and_labelled_once_it_does(api: FaultyApi) -> None:
    async with running(api, {KEY: OLD}) as node:
        await node.until(lambda: "no Node 'node-1'" in node.labels.problem)
        assert "--node" in node.labels.problem
        assert node.labels.shown(KEY) == UNLABELLED, "a node that does not exist has no label to wait for"
        await make_node(api)
        await node.until_shown(KEY, OLD[:12])
        assert ours(api) == wanted_labels({KEY: OLD})
        await api.remove(PATH)
        await node.until_shown(KEY, UNLABELLED)
        await make_node(api)
        await node.until_shown(KEY, OLD[:12])


async def test_a_server_that_is_away_at_start_is_a_problem_that_is_told(api: FaultyApi) -> None:
    await make_node(api)
    await api.stop()
    async with running(api, {KEY: OLD}) as node:

        async def told() -> bool:
            return "Cannot read this node" in node.labels.problem

        await wait_until_async(told)
        await api.start()
        await node.until_shown(KEY, OLD[:12])
        await api.until(lambda: ours(api) == wanted_labels({KEY: OLD}))


async def test_an_old_event_after_the_answer_to_a_patch_changes_nothing(api: FaultyApi) -> None:
    await make_node(api)
    async with running(api) as node:
        await node.until_shown(KEY, UNLABELLED)
        node.labels.want({KEY: OLD})
        await node.until_shown(KEY, OLD[:12])
        seen = len(node.history)
        await make_node(api, ours(api) | {"example.com/x": "1"})
        await node.until(lambda: len(node.history) > seen)
        assert set(node.history[seen:]) == {OLD[:12]}


async def test_somebody_who_goes_on_removing_labels_is_not_fought_at_full_speed(api: FaultyApi) -> None:
    await make_node(api)
    waits: list[float] = []

    class Watched(LoopClock):
        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            await super().sleep(0)

    class Upper(Random):
        def uniform(self, a: float, b: float) -> float:
            del a
            return b

    async def strip(request: web.Request) -> web.StreamResponse | None:
        del request
        if len(api.requests(lambda seen: seen.method == "PATCH")) < 6:
            fights.append(asyncio.create_task(make_node(api)))
        return None

    fights: list[asyncio.Task[Any]] = []
    async with KubeClient.connect(api.kubeconfig) as client:
        labels = NodeLabels(
            client, "node-1", revisions={KEY: OLD}, clock=Watched(), rng=Upper(), on_change=lambda: None
        )
        tasks = [asyncio.create_task(part()) for part in (labels.informer.run, labels.run)]
        api.inject(is_patch, strip, times=None)
        await api.until(lambda: len(api.requests(lambda seen: seen.method == "PATCH")) >= 6)
        await api.until(lambda: ready_label(*KEY) in labels_of(api))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *fights, return_exceptions=True)
    assert waits[:5] == sorted(waits[:5])
    assert waits[4] > 8 * waits[0]
