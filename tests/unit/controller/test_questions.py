"""Answers to agents that are about to take files away: what is listed, when, and how often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec

from controller.claims import NodePods
from controller.pods import BY_NODE, Pod, read_pod
from controller.questions import PAUSE, Questions
from controller.registry import Session
from modelcache.kube.cache import Cache, Seen
from modelcache.kube.errors import Forbidden
from modelcache.kube.objects import ListMeta, Page
from modelcache.kube.resources import ObjectKey, ResourceType
from tests.support.fake_clock import FakeClock


def pod(name: str, path: str = "/cache/models/team/m") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"},
        "spec": {
            "nodeName": "node-1",
            "volumes": [{"name": "m", "hostPath": {"path": path}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
        },
    }


class Cluster:
    """An API server whose lists a test answers, and an informer that shows what the test shows it."""

    def __init__(self) -> None:
        self.cache: Cache[Pod] = Cache()
        self.cache.index(BY_NODE, lambda each: [each.node])
        self.get, self.lookup, self.index = self.cache.get, self.cache.lookup, self.cache.index
        self.reached = "100"
        self.asked: list[str] = []
        self.lists: list[asyncio.Future[Page[Any]]] = []
        self.clock = FakeClock()
        client: Any = self
        self.questions = Questions(client, NodePods(client, client), self.clock, Random(1))
        self.arrivals = 0
        self.others: dict[str, dict[str, Any]] = {}
        """The one object of other kinds, by its plural."""

    def session(self) -> Session:
        self.arrivals += 1
        return Session("node-1", "1", "peer", self.arrivals, cache_root="/cache")

    async def list_pages(
        self, resource: ResourceType, *_: object, field_selector: str, into: Any, **__: object
    ) -> AsyncIterator[Page[Any]]:
        if resource.plural in self.others:
            yield Page(ListMeta("110"), [msgspec.convert(self.others[resource.plural], into)])
            return
        self.asked.append(field_selector)
        self.lists.append(asyncio.get_running_loop().create_future())
        yield await self.lists[-1]

    def show(self, version: str, *bodies: dict[str, Any]) -> None:
        for body in bodies:
            seen = read_pod(json.dumps(body).encode())
            self.cache.upsert(Seen(ObjectKey("team", seen.name), seen.uid, version, seen))
        self.reached = version

    def answer(self, version: str, *bodies: dict[str, Any]) -> None:
        raw = [msgspec.Raw(json.dumps(body).encode()) for body in bodies]
        self.lists[-1].set_result(Page(ListMeta(version), raw))

    def used_by(self, session: Session) -> list[str]:
        return [each.name for each in self.questions.pods_of(session)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let tasks go on; nothing here waits for anything but this loop and the clock of the test."""
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it does not happen")


@asynccontextmanager
async def running() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    task = asyncio.create_task(cluster.questions.run(lambda look: look))
    try:
        yield cluster
    finally:
        cluster.questions.close()
        await task


async def test_a_question_is_answered_with_pods_that_the_informer_has_not_shown() -> None:
    async with running() as cluster:
        session = cluster.session()
        cluster.show("100", pod("known"))
        cluster.questions.take(session, 1)
        await cluster.until(lambda: bool(cluster.lists))
        assert cluster.asked == ["spec.nodeName=node-1,status.phase!=Succeeded,status.phase!=Failed"]
        cluster.answer("110", pod("known"), pod("late"), pod("stranger", "/var/log"))
        await cluster.until(lambda: cluster.questions.answer(session).number == 1)
        assert cluster.used_by(session) == ["known", "late"]
        assert session.wake.is_set()
        # As far as the list, and no further: from here on the informer alone is to be believed.
        cluster.show("109")
        assert cluster.used_by(session) == ["known", "late"]
        cluster.show("111")
        assert cluster.used_by(session) == ["known"]


async def test_claims_that_nobody_has_shown_yet_are_followed_as_well() -> None:
    async with running() as cluster:
        session = cluster.session()
        by_claim = pod("late")
        by_claim["spec"]["volumes"] = [{"name": "m", "persistentVolumeClaim": {"claimName": "models"}}]
        cluster.others = {
            "persistentvolumeclaims": {
                "metadata": {"name": "models", "namespace": "team", "uid": "u"}, "spec": {"volumeName": "disk"}
            },
            "persistentvolumes": {
                "metadata": {"name": "disk"},
                "spec": {
                    "claimRef": {"name": "models", "namespace": "team", "uid": "u"},
                    "hostPath": {"path": "/cache/models/team"},
                },
            },
        }  # fmt: skip
        cluster.questions.take(session, 1)
        await cluster.until(lambda: bool(cluster.lists))
        cluster.answer("110", by_claim)
        await cluster.until(lambda: cluster.questions.answer(session).number == 1)
        assert [each.name for each in cluster.questions.pods_of(session)] == ["late"]
        # Pods are shown, and their claims are not yet: they come from another watch.
        cluster.show("111", by_claim)
        mounts = [mount.host_path for each in cluster.questions.pods_of(session) for mount in each.mounts]
        assert "/cache/models/team" in mounts
        cluster.cache.remove(ObjectKey("team", "late"))
        assert cluster.questions.pods_of(session) == []


async def test_whoever_waits_is_told_when_the_informer_has_caught_up_without_an_event() -> None:
    async with running() as cluster:
        session = cluster.session()
        cluster.questions.take(session, 1)
        await cluster.until(lambda: bool(cluster.lists))
        cluster.answer("110", pod("late"))
        await cluster.until(lambda: cluster.questions.answer(session).number == 1)
        session.wake.clear()
        cluster.show("200")  # a new list: the pod came and went in between
        await cluster.clock.until_waiting()
        cluster.clock.advance(5)
        await cluster.until(session.wake.is_set)
        assert len(cluster.lists) == 1


async def test_what_is_asked_while_a_list_is_under_way_is_answered_by_another_one_and_not_at_once() -> None:
    async with running() as cluster:
        session = cluster.session()
        cluster.questions.take(session, 1)
        await cluster.until(lambda: bool(cluster.lists))
        for number in (2, 3, 4):
            cluster.questions.take(session, number)
        cluster.answer("110")
        await cluster.until(lambda: cluster.questions.answer(session).number == 1)
        await cluster.clock.until_waiting()
        assert len(cluster.lists) == 1
        cluster.clock.advance(PAUSE)
        await cluster.until(lambda: len(cluster.lists) == 2)
        cluster.answer("110")
        await cluster.until(lambda: cluster.questions.answer(session).number == 4)


async def test_an_agent_that_asks_without_end_costs_one_list_in_each_pause_also_with_new_streams() -> None:
    async with running() as cluster:
        for number in range(1, 200):
            session = cluster.session()
            cluster.questions.take(session, number)
            for each in cluster.lists:
                if not each.done():
                    cluster.answer("110")
            await asyncio.sleep(0)
            cluster.clock.advance(PAUSE / 10)
            if number % 7:
                cluster.questions.leave(session)
        assert 2 <= len(cluster.lists) <= 21


async def test_nobody_is_listed_for_who_asks_nothing_or_has_his_answer_or_is_gone() -> None:
    async with running() as cluster:
        session = cluster.session()
        cluster.questions.take(session, 0)
        cluster.questions.take(session, 1)
        await cluster.until(lambda: bool(cluster.lists))
        cluster.answer("110")
        await cluster.until(lambda: cluster.questions.answer(session).number == 1)
        cluster.clock.advance(60)
        for number in (1, 0):
            cluster.questions.take(session, number)
        replaced = cluster.session()
        replaced.connected = False
        cluster.questions.take(replaced, 7)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(cluster.lists) == 1
        assert cluster.questions.answer(replaced).number == 0


async def test_why_pods_cannot_be_listed_is_told_and_it_is_tried_again() -> None:
    async with running() as cluster:
        session = cluster.session()
        cluster.questions.take(session, 1)
        await cluster.until(lambda: bool(cluster.lists))
        cluster.lists[-1].set_exception(Forbidden("may not", verb="list", subject="pods"))
        await cluster.until(lambda: cluster.questions.answer(session).problem != "")
        answer = cluster.questions.answer(session)
        assert answer.number == 0
        assert "the pods of node node-1 cannot be listed" in answer.problem
        assert "may not" in answer.problem
        await cluster.clock.until_waiting()
        cluster.clock.advance(10)
        await cluster.until(lambda: len(cluster.lists) == 2)
        cluster.lists[-1].set_result(Page(ListMeta("110"), [msgspec.Raw(b'{"metadata": []}')]))
        await cluster.until(lambda: "cannot be read" in cluster.questions.answer(session).problem)
        await cluster.clock.until_waiting()
        cluster.clock.advance(10)
        await cluster.until(lambda: len(cluster.lists) == 3)
        cluster.answer("110")
        await cluster.until(lambda: cluster.questions.answer(session) == (1, ""))
