"""One look at one DynamoModel: what is the world like, what should it be like, which step closes the gap.

`reconcile` is level-triggered: why it was called does not matter, and calling it once more does no harm. What it decides
about nodes (placement, what agents are told) takes effect at once and needs no API server, so agents are served while that
is down. What it has to write raises when it cannot be written; the work queue then calls again, later and later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from controller.discovery import LORA, Discovery, adapter_order, nodes_of
from controller.endpoint_events import unload_events
from controller.events import Note, dropped_peers, self_checks
from controller.facts import Facts, Serving
from controller.manifests import ManifestStore
from controller.nodes import Node
from controller.placement import Candidate, Presence, matches, place, place_followed
from controller.problems import rfc3339
from controller.refusal import Refusal
from controller.registry import Registry
from controller.removal import Removal
from controller.request import Problem, Request
from controller.resolution import CREDENTIAL_AGE, Resolution, attempt_of
from controller.status import EMPTY, build_status
from controller.tracked import Memory, Order, Tracked
from controller.writer import StatusWriter
from modelcache.api.labels import FINALIZER, PIN_ANNOTATION
from modelcache.api.model import DynamoModel
from modelcache.api.spec import NodeLocal, Spec
from modelcache.api.status import Status
from modelcache.kube.errors import KubeError
from modelcache.kube.informer import Informer
from modelcache.kube.resources import ObjectKey
from modelcache.logs import about, trace_of
from modelcache.paths import CachePaths
from modelcache.sources.errors import InvalidURI

_log = logging.getLogger(__name__)

MAX_TOLD = 1000
"""Findings of one model that are remembered as told: far more than agents keep in their reports."""
LOOK_AGAIN = 2.0
"""Seconds: a safety net where an event of the informer is expected anyway."""
SERVICE_RETRY = 30.0
"""Seconds until another try to make the Service of a base model."""


class Reconciler:
    """Looks at DynamoModels, one call for one look."""

    def __init__(
        self,
        models: Informer[DynamoModel],
        nodes: Informer[Node],
        registry: Registry,
        memory: Memory,
        resolution: Resolution,
        removal: Removal,
        store: ManifestStore,
        writer: StatusWriter,
        refusal: Refusal,
        discovery: Discovery,
        *,
        wall: Callable[[], datetime],
    ) -> None:
        self._models = models
        self._nodes = nodes
        self._registry = registry
        self._memory = memory
        self._resolution = resolution
        self._removal = removal
        self._store = store
        self._writer = writer
        self._refusal = refusal
        self._discovery = discovery
        self._wall = wall

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one model. Returns the seconds after which to look again; raises KubeError."""
        with about(model=str(key)):
            return await self._look(key)

    async def _look(self, key: ObjectKey) -> float | None:
        model = self._models.get(key)
        invalid = self._models.invalid.get(key)
        if invalid is not None:
            model = await self._refusal.step(key, invalid)
            if model is None:
                return None
        if model is None:
            self._forget(key)
            return None
        tracked = self._memory.of(key, model.metadata.uid)
        arrivals = self._registry.arrivals
        revision = tracked.pinned.revision[:12] if tracked.pinned is not None else ""
        try:
            with about(trace=trace_of(model.metadata.uid, model.metadata.generation), revision=revision):
                if self._writer.is_stale(model, tracked):
                    return LOOK_AGAIN
                if model.deleting or model.spec.source is None:
                    return await self._remove(model, tracked)
                return await self._keep(model, tracked)
        finally:
            tracked.looked = arrivals
            self._wake_newcomers(arrivals)

    def _forget(self, key: ObjectKey) -> None:
        tracked = self._memory.drop(key)
        if tracked is not None:
            self._resolution.forget(tracked.uid)
            _log.info("%s: gone", key)
        for session in self._registry.sessions():
            if key in session.listed:
                session.wake.set()

    def _wake_newcomers(self, arrivals: int) -> None:
        """Agents whose first desired state waits until every model has been looked at."""
        for session in self._registry.sessions():
            if session.sent == 0 and session.arrival <= arrivals:
                session.wake.set()

    # -- a model that is to be on nodes --------------------------------------------------------------------------

    async def _keep(self, model: DynamoModel, tracked: Tracked) -> float | None:
        tracked.removing = False
        if FINALIZER not in (model.metadata.finalizers or ()):
            # First of all: nothing may be put on a node that nobody would clean up.
            stored = await self._removal.add_finalizer(model)
            self._writer.wrote(model, tracked, stored.resource_version)
            return LOOK_AGAIN
        previous = model.last_status() or EMPTY
        serving = self._discovery.look(model)
        wanted = self._place(model, tracked, previous, serving)
        request, problem = _request(model)
        if request is not None:
            await self._resolution.step(model, tracked, request, previous)
            problem = tracked.problem if tracked.pinned is None else None
        self._give_order(model, tracked, request, serving)
        service_problem = await self._discovery.provide(model)
        serving = replace(serving, service_problem=service_problem)
        facts = self._facts(model, tracked, request, problem, serving, wanted)
        status = build_status(facts, previous)
        put_off = await self._writer.write(model, tracked, previous, status)
        self._tell_dropped_peers(model, tracked, facts)
        self._tell_self_checks(model, tracked, facts)
        if tracked.pinned is not None and tracked.announced is not tracked.pinned:
            tracked.announced = tracked.pinned
            self._give_order(model, tracked, request, serving)
        await self._clean_up(model, tracked)
        waiting_for_secret = CREDENTIAL_AGE if tracked.credential_for and status.phase != "Ready" else None
        waiting_for_service = SERVICE_RETRY if service_problem else None
        return _soonest(put_off, self._resolution.retry_in(tracked), waiting_for_secret, waiting_for_service)

    def _place(self, model: DynamoModel, tracked: Tracked, previous: Status, serving: Serving) -> int | None:
        """Choose the nodes. How many are wanted; None when that is just as many as were chosen."""
        before = frozenset(previous.assigned_nodes if tracked.assigned is None else tracked.assigned)
        candidates = self._candidates(tracked, previous)
        local = placement_of(model.spec)
        placed: tuple[str, ...] = ()
        if local is not None:
            matching = [each for each in candidates if self._matches(each.name, local)]
            placed = place(model.key, matching, before, local.replicas)
        nodes, wanted = placed, local.replicas if local is not None else None
        if serving.lora:
            nodes = place_followed(model.key, candidates, before, nodes_of(serving, before), placed)
            wanted = None if wanted is None else len(nodes) + wanted - len(placed)
        tracked.arrivals = self._registry.arrivals
        changed = self._memory.assign(tracked, nodes)
        if changed:
            _log.info("%s: assigned to %d nodes, changed: %s", model.key, len(nodes), ", ".join(sorted(changed)[:10]))
        self._wake(changed)
        return wanted

    def _candidates(self, tracked: Tracked, previous: Status) -> list[Candidate]:
        own = frozenset(tracked.assigned or ())
        was_ready = frozenset(previous.ready_nodes)
        candidates = []
        for node in self._nodes.values():
            name, presence = node.name, self._registry.presence(node.name)
            holds = self._registry.holds(name, tracked.key) or (presence is Presence.AWAITED and name in was_ready)
            candidates.append(Candidate(name, presence, holds, self._memory.load[name] - (name in own)))
        return candidates

    def _matches(self, name: str, local: NodeLocal) -> bool:
        node = self._nodes.get(ObjectKey("", name))
        return node is not None and matches(node.labels, local.node_selector)

    def _give_order(self, model: DynamoModel, tracked: Tracked, request: Request | None, serving: Serving) -> None:
        order = Order()
        if request is not None and tracked.announced is not None:
            order = Order(
                digest=tracked.announced.digest,
                hub_ref=request.hub_ref,
                tree_digest=checksum(model.spec),
                attempt=attempt_of(model),
                credential=tracked.credential,
                trace=trace_of(model.metadata.uid, model.metadata.generation),
                retain=(placement_of(model.spec) or NodeLocal()).reclaim_policy == "Retain",
                pinned=(model.metadata.annotations or {}).get(PIN_ANNOTATION) == "true",
                keyless=model.spec.source is not None and model.spec.source.secret_ref is None,
                adapter=adapter_order(model, serving),
            )
        surveyed = self._resolution.survey(model, tracked)
        if order != tracked.order or surveyed:
            tracked.order = order
            self._wake(tracked.assigned or ())

    def _wake(self, nodes: set[str] | tuple[str, ...]) -> None:
        for node in nodes:
            session = self._registry.session_of(node)
            if session is not None:
                session.wake.set()

    def _facts(
        self,
        model: DynamoModel,
        tracked: Tracked,
        request: Request | None,
        problem: Problem | None,
        serving: Serving,
        wanted: int | None,
    ) -> Facts:
        local = placement_of(model.spec) or NodeLocal()
        assigned = tracked.assigned or ()
        connected = [node for node in self._nodes.values() if self._registry.presence(node.name) is Presence.CONNECTED]
        return Facts(
            generation=model.metadata.generation,
            now=self._now(),
            path=self._path(model, assigned),
            request=request,
            pinned=tracked.pinned,
            problem=problem,
            hindrance=tracked.completion or tracked.credential_problem,
            selector=local.node_selector,
            replicas=wanted,
            agents=len(connected),
            matching=sum(1 for node in connected if matches(node.labels, local.node_selector)),
            assigned=assigned,
            nodes={name: self._registry.view(name, tracked.key) for name in assigned},
            serving=serving,
            follows=serving.base_model if serving.lora else "",
        )

    def _path(self, model: DynamoModel, assigned: Sequence[str]) -> str:
        """Where pods of the assigned nodes find the model; empty until an agent has said where its cache is."""
        root = self._registry.cache_root(assigned)
        return str(CachePaths(Path(root)).current(model.metadata.namespace, model.metadata.name)) if root else ""

    def _tell_dropped_peers(self, model: DynamoModel, tracked: Tracked, facts: Facts) -> None:
        """The status of the model does not change by it: an event is all there is to see of a peer that lies."""
        for note, pair in dropped_peers(facts, tracked.told_peers):
            tracked.told_peers.add(pair)
            self._writer.event(model, note)

    def _tell_self_checks(self, model: DynamoModel, tracked: Tracked, facts: Facts) -> None:
        """Damage may be found and put right between two looks at the status: the events are what is left of it."""
        for note, identity in self_checks(facts, tracked.told_findings):
            tracked.told_findings[identity] = None
            self._writer.event(model, note)
        while len(tracked.told_findings) > MAX_TOLD:
            del tracked.told_findings[next(iter(tracked.told_findings))]

    async def _clean_up(self, model: DynamoModel, tracked: Tracked) -> None:
        """Remove the ConfigMaps of manifests that neither the status nor any agent refers to."""
        announced = tracked.announced
        if announced is None or tracked.cleaned == announced.digest:
            return
        if self._registry.mentions_other(tracked.key, announced.digest):
            return
        await self._store.remove_others(model, {announced.digest})
        tracked.cleaned = announced.digest

    # -- a model that is to leave all nodes ----------------------------------------------------------------------

    async def _remove(self, model: DynamoModel, tracked: Tracked) -> float | None:
        held = FINALIZER in (model.metadata.finalizers or ())
        if model.deleting and not held:
            # Somebody else's finalizer keeps it; there is nothing of ours left.
            return None
        previous = model.last_status() or EMPTY
        serving = self._discovery.look(model)
        waiting = await self._step_of_removal(model, tracked, previous) if held else ()
        if not model.deleting:
            serving = replace(serving, service_problem=await self._discovery.provide(model))
        facts = Facts(
            generation=model.metadata.generation,
            now=self._now(),
            path="",
            request=None,
            deleting=model.deleting,
            waiting_for=waiting,
            nodes={name: self._registry.view(name, tracked.key) for name in waiting},
            serving=serving,
        )
        if waiting or not model.deleting:
            await self._writer.write(model, tracked, previous, build_status(facts, previous))
        again = SERVICE_RETRY if serving.service_problem else None
        if waiting:
            _log.info("%s: waiting for %d nodes to remove it: %s", model.key, len(waiting), ", ".join(waiting[:10]))
            return again
        if held and not self._writer.is_stale(model, tracked):
            stored = await self._removal.remove_finalizer(model)
            if stored is not None:
                self._writer.wrote(model, tracked, stored.resource_version)
            if model.deleting:
                self._tell_removed(model, previous, serving)
        return again

    async def _step_of_removal(self, model: DynamoModel, tracked: Tracked, previous: Status) -> tuple[str, ...]:
        try:
            return await self._removal.step(tracked, previous)
        except KubeError as error:
            self._writer.event(model, Note("Warning", "CleanupFailed", f"Will be tried again: {error}"))
            raise

    def _tell_removed(self, model: DynamoModel, previous: Status, serving: Serving) -> None:
        if serving.lora:
            unloads = self._registry.unloads_of(model.metadata.uid)
            lost = self._removal.out_of_reach(serving.workers or (), previous)
            for note in unload_events(serving.lora, unloads, lost):
                self._writer.event(model, note)
        self._writer.event(model, Note("Normal", "Deleted", "No node holds files or labels of it any more."))

    def _now(self) -> str:
        return rfc3339(self._wall())


def placement_of(spec: Spec) -> NodeLocal | None:
    """Where the model is to be kept, with the defaults of the API; None for a lora that says nothing: it follows its pods."""
    given = spec.storage.node_local if spec.storage else None
    return given if given is not None or spec.model_type == LORA else NodeLocal()


def checksum(spec: Spec) -> str:
    """The tree digest that the user expects, 64 hex digits; empty when there is none to compare with."""
    verification = spec.verification
    if verification is None or not verification.enabled or verification.checksum is None:
        return ""
    return verification.checksum.removeprefix("sha256:")


def _request(model: DynamoModel) -> tuple[Request | None, Problem | None]:
    try:
        return Request.of(model.spec, model.metadata.namespace), None
    except InvalidURI as error:
        return None, Problem(error.reason, error.message)


def _soonest(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)
