"""One term of leadership: everything that runs while this process is the one that decides.

A term begins with nothing in memory and reads it all from the API server, so losing the leadership and winning it again is
the same as a restart, and cannot leave anything behind from before.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection, Hashable
from datetime import UTC, datetime
from functools import partial
from random import Random

from controller.claims import NodePods
from controller.discovery import Discovery
from controller.manifests import ManifestStore
from controller.metrics import ControllerMetrics, ControllerState
from controller.nodes import LabelWithdrawal, Node, relevant
from controller.pods import Pod, pods_informer
from controller.questions import Questions
from controller.reconcile import Reconciler
from controller.refusal import Refusal
from controller.registry import Registry
from controller.relay import Relay
from controller.removal import Removal
from controller.resolution import Resolution
from controller.resolver import Job, Outcome, Resolver
from controller.server import AgentServer
from controller.services import HeadlessServices, services_informer
from controller.settings import Settings
from controller.stream import Desk
from controller.swarms import compare
from controller.tracked import Memory, Tracked
from controller.uses import uses_of
from controller.workers import Workers, worker_of
from controller.writer import StatusWriter
from modelcache.api.model import DynamoModel
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.events import EventRecorder
from modelcache.kube.informer import Informer
from modelcache.kube.objects import PartialObject
from modelcache.kube.queue import WorkQueue
from modelcache.kube.resources import DYNAMO_MODELS, NODES, ObjectKey

_log = logging.getLogger(__name__)

PROGRESS_DELAY = 1.0
"""Seconds within which reports that only tell progress are looked at together."""
LONGEST_RETRY = 60.0
"""Seconds between two looks at a model whose looks fail, at most: usually the API server is away, and comes back."""
PODS_WAIT = 5.0
"""Longest wait, in seconds, for pods and Services before serving begins."""


def _wall() -> datetime:
    return datetime.now(UTC)


class Term:
    """Wires the parts together; `run` until cancelled."""

    def __init__(
        self,
        client: KubeClient,
        recorder: EventRecorder,
        server: AgentServer,
        settings: Settings,
        clock: Clock,
        rng: Random,
        metrics: ControllerMetrics,
    ) -> None:
        self._metrics = metrics
        self._server = server
        self._settings = settings
        self._clock = clock
        self._models = Informer(client, DYNAMO_MODELS, DynamoModel)
        self._nodes = Informer(client, NODES, Node)
        self._pods = pods_informer(client)
        self._services = services_informer(client)
        self._node_pods = NodePods(client, self._pods)
        self._discovery = Discovery(self._models, Workers(self._pods), HeadlessServices(client, self._services))
        self._queue: WorkQueue[ObjectKey] = WorkQueue("models", cap=LONGEST_RETRY, clock=clock)
        self._node_queue: WorkQueue[str] = WorkQueue("nodes", cap=LONGEST_RETRY, clock=clock)
        self._registry = Registry(clock, timeout=settings.agent_timeout, on_lag=metrics.acknowledged)
        self._relay = Relay()
        self._questions = Questions(client, self._node_pods, clock, rng)
        self._memory = Memory()
        self._resolver = Resolver(self._resolved, workers=settings.resolve_workers, observe=metrics.resolved)
        store = ManifestStore(client)
        self._labels = LabelWithdrawal(client, self._nodes, self._registry, on_withdrawn=metrics.withdrew)
        self._resolution = Resolution(
            client, store, self._resolver, self._registry, clock,
            longest_retry=settings.resolve_retry, rng=rng, wall=_wall,
        )  # fmt: skip
        removal = Removal(client, self._nodes, self._registry, self._memory, self._resolution, self._labels)
        self._reconciler = Reconciler(
            self._models, self._nodes, self._registry, self._memory, self._resolution, removal, store,
            StatusWriter(client, recorder, clock, on_completed=metrics.completed), Refusal(client, _wall),
            self._discovery,
            wall=_wall,
        )  # fmt: skip
        self._pods_awaited = asyncio.Event()
        self._connect_events()

    async def run(self) -> None:
        """Lead: read the state of the cluster, then decide and serve until cancelled."""
        metrics = self._metrics
        metrics.term_began()
        metrics.state = self._state
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._models.run(), name="informer of DynamoModels")
                group.create_task(self._nodes.run(), name="informer of Nodes")
                # Waited for only briefly: without the right to read pods, models still have to reach their nodes.
                group.create_task(self._pods.run(), name="informer of Pods")
                group.create_task(self._services.run(), name="informer of Services")
                group.create_task(self._node_pods.run(), name="claims of pods")
                await self._models.wait_synced()
                await self._nodes.wait_synced()
                group.create_task(self._wait_for_pods(), name="first list of Pods and Services")
                await self._pods_awaited.wait()
                _log.info("serving: %d DynamoModels, %d nodes", len(self._models.keys()), len(self._nodes.keys()))
                self._registry.start()
                desk = Desk(
                    self._registry, self._memory, self._models, self._nodes, self._node_pods, self._questions, self._relay,
                    self._clock,
                    term=secrets.token_hex(4), heartbeat=self._settings.heartbeat, listed=self._listed,
                )  # fmt: skip
                await self._server.open(desk)
                group.create_task(
                    self._queue.run(metrics.timed("models", self._reconciler.reconcile), self._settings.workers)
                )
                group.create_task(self._node_queue.run(metrics.timed("nodes", self._labels.reconcile)))
                group.create_task(self._questions.run(partial(metrics.timed, "uses")))
        finally:
            metrics.state = None
            self._queue.shutdown()
            self._node_queue.shutdown()
            self._questions.close()
            self._resolver.close()
            self._registry.close()
            self._relay.close()
            await self._server.close()

    def _state(self) -> ControllerState:
        models = {ObjectKey(m.metadata.namespace, m.metadata.name): m.last_status() for m in self._models.values()}
        return ControllerState(
            agents=self._registry.agents,
            lag=self._registry.lag(),
            queues={"models": self._queue.depth, "nodes": self._node_queue.depth, "uses": self._questions.depth},
            models={key: status for key, status in models.items() if status is not None},
        )

    async def _wait_for_pods(self) -> None:
        """Look at models with pods and Services known, unless those cannot be read: caching must not wait for them."""
        timer = self._clock.call_later(PODS_WAIT, self._pods_awaited.set)
        await self._node_pods.wait_known()
        await self._services.wait_synced()
        timer.cancel()
        self._pods_awaited.set()
        self._look_at_everything()
        for session in self._registry.sessions():
            session.wake.set()

    # -- what makes us look --------------------------------------------------------------------------------------

    def _connect_events(self) -> None:
        self._models.on_key(self._queue.add)
        self._models.on_change(self._model_changed)
        self._nodes.on_change(self._node_changed)
        self._pods.on_change(self._pod_changed)
        self._node_pods.on_change(self._mounts_changed)
        self._services.on_change(self._service_changed)
        self._registry.on_models = self._reported
        self._registry.on_served = self._served
        self._registry.on_node = self._presence_changed
        self._registry.on_acknowledged = lambda node: self._look_at_removals()

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if relevant(old, new):
            self._look_at_everything()
        if new is not None:
            self._node_queue.add(new.name)
        elif old is not None:
            self._registry.lose_node(old.name)

    def _model_changed(self, old: DynamoModel | None, new: DynamoModel | None) -> None:
        """One lora may have waited for another of the same name to go or to be renamed."""
        if old is None or (new is not None and new.spec == old.spec):
            return
        for key in self._discovery.siblings_of(old):
            self._queue.add(key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for pod in filter(None, (old, new)):
            session = self._registry.session_of(pod.node)
            if session is not None and (pod.claims or uses_of(pod, session.cache_root)):
                session.wake.set()
        before, after = (worker_of(pod) if pod is not None else None for pod in (old, new))
        if before == after:
            return
        for worker in filter(None, (before, after)):
            for key in self._discovery.models_of(worker):
                self._queue.add(key)
            session = self._registry.session_of(worker.node)
            if session is not None:
                session.wake.set()

    def _mounts_changed(self, pod: Pod) -> None:
        session = self._registry.session_of(pod.node)
        if session is not None:
            session.wake.set()

    def _service_changed(self, old: PartialObject | None, new: PartialObject | None) -> None:
        for key in self._discovery.models_of_service(old, new):
            self._queue.add(key)

    def _presence_changed(self, node: str) -> None:
        self._relay.look(self._registry.presence)
        self._look_at_everything()
        for session in self._registry.sessions():
            session.on_peers()
        for name in [node] if node else [known.name for known in self._nodes.values()]:
            self._node_queue.add(name)

    def _reported(self, keys: Collection[ObjectKey], material: bool) -> None:
        for key in keys:
            if self._models.get(key) is None:
                continue  # not ours, or gone: the next desired state does not list it
            if material:
                self._queue.add(key)
            else:
                self._queue.add_after(key, PROGRESS_DELAY)
                tracked = self._memory.get(key)
                if tracked is not None and compare(key, tracked, self._registry, self._clock.now()):
                    self._tell_peers(key)

    def _served(self, keys: Collection[ObjectKey]) -> None:
        for key in keys:
            if self._models.get(key) is not None:
                self._tell_peers(key)

    def _tell_peers(self, key: ObjectKey) -> None:
        """An agent may have become complete: the others of the same model want to know."""
        tracked = self._memory.get(key)
        for node in (tracked.assigned or ()) if tracked is not None else ():
            session = self._registry.session_of(node)
            if session is not None:
                session.on_peers()

    def _resolved(self, uid: Hashable, job: Job, outcome: Outcome) -> None:
        tracked = next((tracked for tracked in self._memory if tracked.uid == uid), None)
        if tracked is not None:
            self._resolution.take(tracked.uid, job, outcome)
            self._queue.add(tracked.key)

    def _listed(self, tracked: Tracked, node: str, id: str, outcome: Outcome) -> bool:
        taken = self._resolution.listed(tracked, node, id, outcome)
        if taken:
            self._queue.add(tracked.key)
        return taken

    def _look_at_everything(self) -> None:
        for key in self._models.keys():  # noqa: SIM118 -- no mapping
            self._queue.add(key)

    def _look_at_removals(self) -> None:
        for tracked in self._memory:
            if tracked.removing:
                self._queue.add(tracked.key)
