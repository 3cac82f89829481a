"""A pod that is bound in the last moment keeps its files: agent and controller as they are, everything between them at random.

The real decisions of both sides (`agent.plan`, `agent.questions`, `agent.users`; `controller.questions`, `controller.uses`)
in a world in which everything takes as long as it pleases: watch events, lists, reports, desired states, label patches. The
scheduler binds pods wherever the label is, at any moment, and nobody tells the agent but the API server by way of the
controller.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from agent import plan
from agent import questions as agent_questions
from agent.desired import Wanted, read_desired
from agent.plan import UNLABELLED, Snapshot, Target, View, announced, next_step
from agent.store import PublishedSnapshot, User
from agent.users import Users
from controller import uses
from controller.claims import NodePods
from controller.pods import BY_NODE, Pod, read_pod
from controller.questions import PAUSE, Questions
from controller.registry import Session
from modelcache.api.labels import revision_value
from modelcache.kube.cache import Cache, Seen
from modelcache.kube.errors import Unreachable
from modelcache.kube.objects import ListMeta, Page
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import DesiredState
from tests.support.fake_clock import FakeClock

NODE, ROOT, TEAM, NAME = "node-1", "/cache", "team", "m"
KEY = ObjectKey(TEAM, NAME)
REVISIONS = ["a" * 40, "b" * 40]
WALKS = 60
STEP = 10.0
"""Seconds that each event takes; more than clocks may differ by (`agent.store.usage.CLOCK_SLACK`)."""


def pod_body(name: str, since: float) -> bytes:
    """A pod that mounts the model, as the API server has it."""
    spec = {
        "nodeName": NODE,
        "volumes": [{"name": "m", "hostPath": {"path": f"{ROOT}/models/{TEAM}/{NAME}"}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
    }
    began = datetime.fromtimestamp(since, UTC).isoformat()
    metadata = {"name": name, "namespace": TEAM, "uid": f"uid-{name}", "creationTimestamp": began}
    return json.dumps({"metadata": metadata, "spec": spec}).encode()


@dataclass
class Change:
    version: int
    pod: Pod
    gone: bool = False


class Cluster:
    """The API server: pods of the node, the label of the node, and what has happened in which order."""

    def __init__(self) -> None:
        self.version = 100
        self.pods: dict[str, Pod] = {}
        self.bodies: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.changes: list[Change] = []
        self.label = UNLABELLED

    def bind(self, name: str, now: float) -> None:
        self.bodies[name] = pod_body(name, now)
        pod = read_pod(self.bodies[name])
        self._note(pod, gone=False)
        self.pods[pod.name] = pod

    def end(self, name: str) -> None:
        self._note(self.pods.pop(name), gone=True)

    def _note(self, pod: Pod, *, gone: bool) -> None:
        self.version += 1
        self.versions[pod.name] = self.version
        self.changes.append(Change(self.version, pod, gone))


class SlowInformer:
    """What an informer of pods shows, as late as the test wants it to."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._cache: Cache[Pod] = Cache()
        self._cache.index(BY_NODE, lambda pod: [pod.node])
        self.reached = ""
        self.get, self.lookup, self.index = self._cache.get, self._cache.lookup, self._cache.index

    def advance(self, count: int) -> None:
        """Events, in their order."""
        due = [change for change in self._cluster.changes if change.version > int(self.reached)]
        for change in due[:count]:
            key = ObjectKey(change.pod.namespace, change.pod.name)
            if change.gone:
                self._cache.remove(key)
            else:
                self._cache.upsert(Seen(key, change.pod.uid, str(change.version), change.pod))
            self.reached = str(change.version)

    def list_again(self) -> None:
        """What was forgotten meanwhile is never shown."""
        listed = self._cluster.pods.values()
        versions = self._cluster.versions
        everything = [Seen(ObjectKey(p.namespace, p.name), p.uid, str(versions[p.name]), p) for p in listed]
        self._cache.replace(everything)
        self.reached = str(self._cluster.version)


class SlowClient:
    """Lists pods: looks at the cluster at one moment (`serve`), answers at a later one (`deliver`)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.asked: deque[asyncio.Future[Page[Any]]] = deque()
        self.served: deque[tuple[asyncio.Future[Page[Any]], Page[Any] | None]] = deque()
        self.lists = 0

    async def list_pages(self, *_: object, field_selector: str, limit: int, **__: object) -> AsyncIterator[Page[Any]]:
        assert (field_selector.split(",")[0], limit) == (f"spec.nodeName={NODE}", 0)
        self.lists += 1
        future: asyncio.Future[Page[Any]] = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        yield await future

    def serve(self, *, fails: bool = False) -> None:
        if self.asked:
            bodies = [msgspec.Raw(self._cluster.bodies[name]) for name in self._cluster.pods]
            page: Page[Any] = Page(ListMeta(str(self._cluster.version)), bodies)
            self.served.append((self.asked.popleft(), None if fails else page))

    def deliver(self) -> None:
        if self.served:
            future, page = self.served.popleft()
            if page is None:
                future.set_exception(Unreachable("cut", verb="list", subject="pods"))
            else:
                future.set_result(page)


class Agent:
    """What an agent knows and decides about one model, and what of it lies on the disk."""

    def __init__(self, cluster: Cluster, clock: FakeClock) -> None:
        self.cluster = cluster
        self.users = Users(clock)
        self.questions = agent_questions.Questions(clock)
        self.inquiry = agent_questions.Inquiry(self.questions, "m")
        self.wanted: str | None = None
        self.target: str | None = None
        self.rows: dict[str, PublishedSnapshot] = {}
        self.wish: str | None = None
        self.shown: str | None = UNLABELLED
        self.moves = 0
        self.heard = False
        self.removed = 0

    def view(self) -> View:
        target = self.target if self.target == self.wanted else None
        return View(
            heard=self.heard,
            wanted=Wanted(self.wanted) if self.wanted else None,
            snapshots=tuple(
                Snapshot(row.snapshot, row.snapshot, row.snapshot, row.current) for row in self.rows.values()
            ),
            target=Target(target, target, target, "tree") if target else None,
            fetched=True,
            shown=self.shown,
            emptied=not self.rows,
            in_use=frozenset(row.snapshot for row in self.rows.values() if self.users.pods_of(row)),
            users_known=self.users.known,
            uses_confirmed=self.inquiry.confirmed(self.moves),
        )

    def look(self, now: float) -> None:
        """One step, as `ModelWorker.run` takes it."""
        step = next_step(self.view())
        if isinstance(step, plan.AwaitAnswer):
            self.inquiry.need(self.moves)
        else:
            self.inquiry.settle()
        match step:
            case plan.FetchManifest(digest):
                self.target = digest
            case plan.Publish(digest):
                self.rows[digest] = _row(digest)
            case plan.Switch(name):
                self.rows = {each: _switched(row, name, now) for each, row in self.rows.items()}
            case plan.RemoveSnapshot(name):
                self.remove(name)
            case plan.RemoveModel():
                for name in list(self.rows):
                    self.remove(name)
        revision = announced(self.view())
        if revision != self.wish:
            self.wish, self.shown, self.moves = revision, None, self.moves + 1

    def remove(self, name: str) -> None:
        """Nobody who really runs may need it."""
        assert not _in_use(self.cluster.pods.values(), self.rows[name]), "files of a pod were removed"
        del self.rows[name]
        self.removed += 1

    def patch(self) -> None:
        """The API server takes the labels over, and says so."""
        label = revision_value(self.wish) if self.wish else UNLABELLED
        if self.shown is None:
            self.cluster.label = self.shown = label
            self.moves += 1


def _in_use(pods: Any, row: PublishedSnapshot) -> bool:
    users = (
        User(p.uid, p.name, u.kind, p.since, u.namespace, u.name, u.snapshot)
        for p in pods
        for u in uses.uses_of(p, ROOT)
    )
    return any(user.uses(row) for user in users)


def _row(name: str) -> PublishedSnapshot:
    return PublishedSnapshot(TEAM, NAME, name, name, "hf://o/m", 1, 1, 0.0, 0.0, False, None)


def _switched(row: PublishedSnapshot, name: str, now: float) -> PublishedSnapshot:
    if row.snapshot == name:
        return row._replace(current=True, current_since=now, current_until=None)
    return row._replace(current=False, current_until=now) if row.current else row


class World:
    """A node, its agent, and a controller. Each method is something that may happen next, with the details of `rng`."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.history: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.clock = FakeClock()
        self.cluster = Cluster()
        self.agent = Agent(self.cluster, self.clock)
        self.up: deque[int] = deque()
        self.down: deque[DesiredState] = deque()
        self.arrivals = 0
        self.number = 0
        self.start_controller()

    def start_controller(self) -> None:
        self.informer = SlowInformer(self.cluster)
        self.informer.list_again()
        self.client = SlowClient(self.cluster)
        client: Any = self.client
        informer: Any = self.informer
        self.questions = Questions(client, NodePods(client, informer), self.clock, Random(1))
        self.running = self.loop.create_task(self.questions.run(lambda look: look))
        self.connect()

    def end_controller(self) -> None:
        self.questions.close()
        self.running.cancel()
        self.loop.run_until_complete(asyncio.gather(self.running, return_exceptions=True))

    def connect(self) -> None:
        self.arrivals += 1
        self.session = Session(NODE, "1", "peer", self.arrivals, cache_root=ROOT)
        self.agent.questions.renew()
        self.up.clear()
        self.down.clear()

    def settle(self) -> None:
        """Let the tasks of the controller and the worker of the agent do what they can."""

        async def spin() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(spin())
        for _ in range(4):
            self.agent.look(self.now)
        self.now += STEP

    def send_report(self) -> None:
        self.up.append(self.agent.questions.sending())

    def send_desired_state(self) -> None:
        answer = self.questions.answer(self.session)
        found = uses.to_messages(self.questions.pods_of(self.session), ROOT)
        self.down.append(
            DesiredState(
                uses=found, uses_known=True, uses_answers=True, uses_answer=answer.number, uses_problem=answer.problem
            )
        )

    # -- what happens --------------------------------------------------------------------------------------------

    def a_wish(self) -> None:
        here = self.agent.wanted is not None
        self.agent.wanted = None if here and self.rng.random() < 0.6 else self.rng.choice(REVISIONS)
        self.settle()

    def labels_are_patched(self) -> None:
        self.agent.patch()
        self.settle()

    def a_pod_is_bound(self) -> None:
        if self.cluster.label == UNLABELLED:
            return
        self.number += 1
        self.cluster.bind(f"pod-{self.number}", self.now)
        self.settle()

    def a_pod_ends(self) -> None:
        if self.cluster.pods:
            self.cluster.end(self.rng.choice(sorted(self.cluster.pods)))
        self.settle()

    def the_informer_goes_on(self) -> None:
        """By some events, or by a new list."""
        count = self.rng.choice([1, 1, 2, 0])
        if count:
            self.informer.advance(count)
        else:
            self.informer.list_again()

    def a_report_arrives(self, late: bool | None = None) -> None:
        """The present one, or one that was sent before, and the present one stays under way."""
        self.send_report()
        while len(self.up) > (self.rng.random() < 0.5 if late is None else late):
            self.questions.take(self.session, self.up.popleft())
        self.clock.advance(PAUSE)
        self.settle()

    def a_list_is_served(self) -> None:
        self.client.serve(fails=self.rng.random() < 0.2)

    def a_list_arrives(self) -> None:
        self.client.deliver()
        self.settle()

    def a_desired_state_arrives(self, late: bool | None = None) -> None:
        self.send_desired_state()
        while len(self.down) > (self.rng.random() < 0.5 if late is None else late):
            desired = read_desired(self.down.popleft())
            self.agent.heard = True
            self.agent.users.take(desired.users)
            self.agent.questions.take(desired.answer)
        self.settle()

    def the_stream_breaks(self) -> None:
        self.session.connected = False
        self.questions.leave(self.session)
        self.connect()
        self.settle()

    def another_controller_leads(self) -> None:
        self.end_controller()
        self.start_controller()
        self.settle()

    def everything_takes_its_course(self) -> None:
        for _ in range(4):
            self.informer.advance(100)
            self.a_report_arrives(late=False)
            self.clock.advance(60.0)
            self.settle()
            self.client.serve()
            self.a_list_arrives()
            self.a_desired_state_arrives(late=False)
            self.labels_are_patched()

    def last_moments(self) -> None:
        """A revision is in force, then it is not wanted any more, and then things happen: some of them rarely, or never."""
        self.agent.wanted = self.rng.choice(REVISIONS)
        self.everything_takes_its_course()
        self.a_wish()
        rng = self.rng
        happenings = {
            self.labels_are_patched: 4, self.a_pod_is_bound: 3, self.a_pod_ends: rng.choice([0, 1]),
            self.a_wish: rng.choice([0, 0, 1]), self.the_informer_goes_on: rng.choice([0, 0, 1, 4]),
            self.a_report_arrives: 6, self.a_list_is_served: 6, self.a_list_arrives: 6, self.a_desired_state_arrives: 6,
            self.the_stream_breaks: rng.choice([0, 1, 2]), self.another_controller_leads: rng.choice([0, 0, 1]),
        }  # fmt: skip
        for happening in self.rng.choices(list(happenings), list(happenings.values()), k=45):
            self.history.append(happening.__name__)
            happening()

    def end(self) -> None:
        """In the end everybody is served: nothing stays for ever because an answer never came, and nobody asks on."""
        self.agent.wanted = None
        for name in list(self.cluster.pods):
            self.cluster.end(name)
        for _ in range(3):
            self.everything_takes_its_course()
        assert not self.agent.rows
        lists = self.client.lists
        self.everything_takes_its_course()
        assert self.client.lists == lists, "nothing is to be removed, and somebody asks"

    def close(self) -> None:
        self.end_controller()
        self.loop.close()


def test_files_of_a_pod_that_was_bound_in_the_last_moment_stay() -> None:
    removed = 0
    for seed in range(WALKS):
        world = World(Random(seed))
        try:
            for _ in range(3):
                world.last_moments()
            removed += world.agent.removed
            world.end()
        except AssertionError as error:
            error.add_note(f"seed {seed}: {', '.join(world.history)}")
            raise
        finally:
            world.close()
    assert removed > WALKS // 2, "hardly anything was ever removed: the test says nothing"
