"""Endpoints: which worker pods serve a DynamoModel, from pods and reports to the status; pure.

A worker pod is ready for its base model when the pod is Ready. For a LoRA adapter the agent of its node must also have
seen the engine list the adapter, in the container that runs now, loaded from the files that the spec asks for now. So
from the moment when the spec asks for something else nothing is ready until *that* is loaded, and neither an adapter that
a restarted container has forgotten nor one of an earlier revision ever counts.

Two conditions answer for them, with the reasons that the Dynamo operator has published:

EndpointsReady  are all pods ready for this model?   True: EndpointsDiscovered for a lora (as in the user guide), else
                AllEndpointsReady. False: NoEndpoints, NoReadyEndpoints (of some), NotReady (some of them are).
ServicesFound   is there a Service in front of them? ServicesFound, NoServicesFound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.adapter_reports import AdapterInPod, AdapterState, AdapterView
from controller.conditions import Answer, names
from controller.facts import Facts, NodeState, NodeView, Serving, Standing, Target
from controller.placement import Presence
from controller.problems import AgentProblem
from controller.workers import Worker, endpoints_of
from modelcache.api.status import AdapterStatus, Endpoint, Status
from modelcache.kube.errors import printable

MAX_MESSAGE = 400
"""Characters of one endpoint's message: there may be hundreds of them in one status."""

WAITING = frozenset(
    {"PodNotReady", "EngineNotReady", "Resolving", "Caching", "Loading", "Reloading", "Unloading", "Deleting", "AgentAwaited"}
)  # fmt: skip
"""Reasons that pass by themselves; every other one is a failure that is worth an Event."""


@dataclass(frozen=True, slots=True)
class EndpointsView:
    """The part of a status that is about endpoints."""

    endpoints: tuple[Endpoint, ...]
    answers: Mapping[str, Answer]
    adapter: AdapterStatus | None = None

    @property
    def ready(self) -> int:
        """How many are ready."""
        return sum(1 for endpoint in self.endpoints if endpoint.ready)


def view_endpoints(
    serving: Serving, facts: Facts, target: Target | None, states: Sequence[NodeState], previous: Status
) -> EndpointsView:
    """What the status says about endpoints."""
    if serving.workers is None:
        # Not read *yet* changes nothing: what was written before the restart stands.
        failed = (
            {"EndpointsReady": Answer("Unknown", "EndpointDiscoveryFailed", serving.problem)} if serving.problem else {}
        )
        return EndpointsView(previous.endpoints, failed | _services(serving), previous.adapter)
    judge = _Judge(serving, facts, target, {state.name: state for state in states}, previous)
    endpoints = tuple(judge.endpoint(worker) for worker in endpoints_of(serving.workers))
    answer = Answer("False", "Deleting", "Being removed.") if facts.deleting else _endpoints_ready(serving, endpoints)
    adapter = _adapter(facts, previous) if serving.lora else None
    return EndpointsView(endpoints, {"EndpointsReady": answer, **_services(serving)}, adapter)


def _endpoints_ready(serving: Serving, endpoints: Sequence[Endpoint]) -> Answer:
    total = len(endpoints)
    if not total:
        return Answer("False", "NoEndpoints", f"No endpoint slices found for base model {serving.base_model}")
    ready = sum(1 for endpoint in endpoints if endpoint.ready)
    if ready == total:
        reason = "EndpointsDiscovered" if serving.lora else "AllEndpointsReady"
        return Answer("True", reason, f"Found {total} ready endpoint(s) out of {total} total")
    reason = "NotReady" if ready else "NoReadyEndpoints"
    counts = f"Found {ready} ready endpoint(s) out of {total} total"
    return Answer("False", reason, f"{counts}. {_worst(endpoints)}")


def _worst(endpoints: Sequence[Endpoint]) -> str:
    """The trouble to tell first, and how many others have the same."""
    troubled = sorted((e for e in endpoints if not e.ready), key=lambda e: e.reason in WAITING)
    first = troubled[0]
    same = [e.pod_name for e in troubled if e.reason == first.reason]
    return f"{names(same)}: {first.reason}: {first.message}"


def _services(serving: Serving) -> dict[str, Answer]:
    if serving.services is None and not serving.service_problem:
        return {}
    if serving.services:
        return {"ServicesFound": Answer("True", "ServicesFound", f"Found {serving.services} service(s)")}
    message = serving.service_problem or f"There is no Service for base model {serving.base_model} yet."
    return {"ServicesFound": Answer("False", "NoServicesFound", message)}


def _adapter(facts: Facts, previous: Status) -> AdapterStatus | None:
    """From the first node that has checked the files of what is asked for now; the last known one otherwise."""
    pinned = facts.pinned
    for name in facts.assigned:
        view = facts.nodes.get(name)
        report = view.report if view else None
        if report is None or report.adapter is None or (pinned and report.manifest_digest != pinned.digest):
            continue
        adapter = report.adapter
        if adapter.config is None and adapter.problem is None:
            continue
        config = adapter.config
        return AdapterStatus(
            rank=config.rank if config else None,
            target_modules=config.target_modules if config else (),
            base_model=config.base_model if config else "",
            warning=_sentence(adapter.warning),
            problem=_sentence(adapter.problem),
        )
    asked = facts.request.key if facts.request else None
    return previous.adapter if previous.resolved_from == asked else None


def _sentence(problem: AgentProblem | None) -> str:
    return f"{problem.reason}: {problem.message}"[:2048] if problem else ""


@dataclass(frozen=True, slots=True)
class _Judge:
    serving: Serving
    facts: Facts
    target: Target | None
    states: Mapping[str, NodeState]
    previous: Status

    def endpoint(self, worker: Worker) -> Endpoint:
        if not worker.ready:
            return _not_ready(worker, "PodNotReady", "The pod is not Ready.")
        if not self.serving.lora:
            return Endpoint(address=worker.address, pod_name=worker.name, ready=True)
        if self.serving.rival:
            text = (
                f"{self.serving.rival} loads an adapter of the name {self.serving.lora} into this pod already; give one of "
                f"the two another spec.modelName."
            )
            return _not_ready(worker, "LoRANameConflict", text)
        if self.facts.deleting:
            return _not_ready(worker, "Deleting", "The adapter is being taken out of the pod.")
        if self.target is None:
            problem = self.facts.problem
            if problem is not None:
                return _not_ready(worker, problem.reason, problem.sentence)
            return _not_ready(worker, "Resolving", "The source is being asked which files are meant.")
        return self._on_node(worker, self.target, self.facts.nodes.get(worker.node))

    def _on_node(self, worker: Worker, target: Target, view: NodeView | None) -> Endpoint:
        if view is None or view.presence is Presence.GONE:
            text = f"No agent runs on node {worker.node}, so nobody can load the adapter; see that its DaemonSet covers it."
            return _not_ready(worker, "NoAgent", text)
        if not view.reported:
            # Just after a start of this controller: as it was, until the agent speaks or its time is up.
            if self._was_ready(worker, target):
                return self._as_before(worker)
            return _not_ready(worker, "AgentAwaited", f"The agent of node {worker.node} has not reported yet.")
        adapter = view.report.adapter if view.report else None
        found = adapter.pods.get(worker.uid) if adapter else None
        if found is not None and self._holds(found, worker, target):
            if found.state is AdapterState.LOADED:
                source = "" if found.uri.startswith("file://") else found.uri
                return Endpoint(address=worker.address, pod_name=worker.name, ready=True, loaded_from=source)
            if found.state is AdapterState.UNCONFIRMED and self._was_ready(worker, target):
                return self._as_before(worker)
        return self._why_not(worker, adapter, found)

    def _holds(self, found: AdapterInPod, worker: Worker, target: Target) -> bool:
        """Whether what was loaded is what is wanted now, in the container that runs now."""
        if found.container_start != worker.container_start:
            return False
        if found.manifest_digest == target.digest:
            return True
        # A manifest that was lost and read again has another digest until it is complete again, for the same files.
        return not target.complete and self._was_ready(worker, target)

    def _was_ready(self, worker: Worker, target: Target) -> bool:
        before = self._before(worker)
        return before is not None and before.ready and target.is_that_of(self.facts, self.previous)

    def _as_before(self, worker: Worker) -> Endpoint:
        before = self._before(worker)
        assert before is not None
        return before

    def _before(self, worker: Worker) -> Endpoint | None:
        mine = (worker.name, worker.address)
        return next((e for e in self.previous.endpoints if (e.pod_name, e.address) == mine), None)

    def _why_not(self, worker: Worker, adapter: AdapterView | None, found: AdapterInPod | None) -> Endpoint:
        if adapter is not None and adapter.problem is not None:
            return _troubled(worker, adapter.problem)
        if found is not None and found.problem is not None:
            return _troubled(worker, found.problem)
        state = self.states.get(worker.node)
        if state is not None and state.problem is not None:
            return _not_ready(worker, state.problem.reason, state.problem.message)
        if found is not None and found.state is AdapterState.UNLOADING:
            return _not_ready(worker, "Unloading", "An earlier revision is being taken out of the pod.")
        if found is not None and found.state in (AdapterState.LOADED, AdapterState.UNCONFIRMED):
            return _not_ready(
                worker, "Reloading", "What the pod has loaded is not, or not provably, what is wanted now."
            )
        if state is not None and state.standing is not Standing.READY:
            return _not_ready(worker, "Caching", f"Node {worker.node} does not hold the adapter's files yet.")
        return _not_ready(worker, "Loading", "The adapter is being loaded into the pod.")


def _troubled(worker: Worker, problem: AgentProblem) -> Endpoint:
    again = f" Next try at {problem.next_try}." if problem.next_try else ""
    return _not_ready(worker, problem.reason, f"{printable(problem.message, MAX_MESSAGE)}{again}")


def _not_ready(worker: Worker, reason: str, message: str) -> Endpoint:
    return Endpoint(
        address=worker.address,
        pod_name=worker.name,
        ready=False,
        reason=reason[:128],
        message=printable(message, MAX_MESSAGE + 60),
    )
