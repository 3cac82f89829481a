"""Everything that a status is made of, as plain data, and what it says about each node.

`Facts` is collected by the reconciler; from here on no function asks the network or the clock. `Target` is what the
assigned nodes should hold. It normally comes from the loaded manifest; when that is lost (somebody deleted the ConfigMap)
it comes from the last status, so that nodes which hold the model do not stop being ready because of our bookkeeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from controller.placement import Presence
from controller.reports import NodeReport, Phase
from controller.request import Pinned, Problem, Request
from controller.workers import Worker
from modelcache.api.status import NodeProblem, Status


@dataclass(frozen=True, slots=True)
class NodeView:
    """One assigned node. `reported` False: its agent has not said anything yet since it connected, or is awaited."""

    presence: Presence
    reported: bool = False
    report: NodeReport | None = None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The worker pods of one DynamoModel and what stands in front of them.

    `workers` are all that serve `base_model` in its namespace, None while pods cannot be read (`problem` says why).
    `lora` is the name of the adapter, empty for other models. `rival` is the DynamoModel that loads another adapter of
    the same name into the same pods and came first. `services` counts the Services, None while they have not been read;
    `service_problem` is why there is none.
    """

    base_model: str
    lora: str = ""
    workers: tuple[Worker, ...] | None = ()
    problem: str = ""
    rival: str = ""
    services: int | None = None
    service_problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about one DynamoModel. `now` is RFC 3339.

    `pinned` answers `request`, `problem` says why nothing does. `hindrance` is what else keeps nodes from getting it: a
    Secret that is missing, digests that cannot be right. `agents` counts connected agents, `matching` those on
    nodes that match `selector`. `path` is what the status tells users to mount. `waiting_for` names the nodes that still
    hold files of a model that is being removed. `serving` is None where nobody has looked at pods. `follows` is the base model
    whose worker pods decide on which nodes a lora is cached, empty for models that are placed by `spec.storage` alone.
    """

    generation: int
    now: str
    path: str
    request: Request | None
    pinned: Pinned | None = None
    problem: Problem | None = None
    hindrance: Problem | None = None
    selector: Mapping[str, str] = field(default_factory=dict)
    replicas: int | None = None
    agents: int = 0
    matching: int = 0
    assigned: tuple[str, ...] = ()
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    deleting: bool = False
    waiting_for: tuple[str, ...] = ()
    serving: Serving | None = None
    follows: str = ""

    @property
    def wanted(self) -> int:
        """How many nodes should hold the model."""
        return len(self.assigned) if self.replicas is None else self.replicas


@dataclass(frozen=True, slots=True)
class Target:
    """What every assigned node should hold. `digest` and `tree_digest` are 64 hex digits."""

    revision: str
    digest: str
    size: int
    files: int
    complete: bool
    tree_digest: str | None

    @staticmethod
    def of(facts: Facts, previous: Status) -> Target | None:
        """The target, None while nothing is known about what is asked for."""
        pinned = facts.pinned
        if pinned is not None:
            return Target(
                pinned.revision, pinned.digest, pinned.size, pinned.files, pinned.complete, pinned.tree_digest
            )
        if facts.request is None or previous.resolved_from != facts.request.key:
            return None
        if not previous.resolved_version or not previous.manifest_digest:
            return None
        return Target(
            revision=previous.resolved_version,
            digest=bare(previous.manifest_digest),
            size=previous.model_size_bytes or 0,
            files=previous.files or 0,
            complete=previous.tree_digest is not None,
            tree_digest=bare(previous.tree_digest) if previous.tree_digest else None,
        )

    def is_that_of(self, facts: Facts, previous: Status) -> bool:
        """Whether `previous` was about the same target: the same question with the same answer.

        Completing a manifest changes its digest but not the answer, so the digest is left out.
        """
        asked = facts.request is not None and previous.resolved_from == facts.request.key
        return asked and previous.resolved_version == self.revision


class Standing(Enum):
    """How far a node is with the target."""

    PENDING = "pending"
    DOWNLOADING = "downloading"
    VERIFIED = "verified"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The judgement on one node. `offers` is the revision that its labels stand at, empty when there is none."""

    name: str
    standing: Standing
    bytes_done: int = 0
    bytes_per_second: int = 0
    problem: NodeProblem | None = None
    offers: str = ""
    started_at: str | None = None
    origin_bytes: int = 0
    peer_bytes: int = 0
    reported: bool = True


def judge(facts: Facts, previous: Status) -> list[NodeState]:
    """The state of each assigned node, in the order of `facts.assigned`."""
    target = Target.of(facts, previous)
    was_ready = frozenset(previous.ready_nodes) if target and target.is_that_of(facts, previous) else frozenset[str]()
    unknown = NodeView(Presence.AWAITED)
    return [_judge(name, facts.nodes.get(name, unknown), target, name in was_ready) for name in facts.assigned]


def _judge(name: str, view: NodeView, target: Target | None, was_ready: bool) -> NodeState:
    if not view.reported:
        # Just after a start of this controller. What was true a moment ago is assumed to be true until the agent speaks
        # or its time is up; otherwise each restart would withdraw and grant Ready.
        if was_ready and target:
            return NodeState(name, Standing.READY, target.size, offers=target.revision, reported=False)
        return NodeState(name, Standing.PENDING, reported=False)
    report = view.report
    if report is None:
        return NodeState(name, Standing.PENDING)
    about = target is not None and report.manifest_digest == target.digest
    problem = _node_problem(name, report) if about or not report.manifest_digest else None
    standing = _standing(report, target, about, was_ready)
    done = 0
    if target and standing in (Standing.READY, Standing.VERIFIED):
        done = target.size
    elif target and about:
        done = min(report.bytes_done, target.size)
    return NodeState(
        name,
        standing,
        bytes_done=done,
        bytes_per_second=report.bytes_per_second if standing is Standing.DOWNLOADING else 0,
        problem=problem,
        offers=report.revision,
        started_at=report.started_at if about else None,
        origin_bytes=report.origin_bytes if about else 0,
        peer_bytes=report.peer_bytes if about else 0,
    )


def _standing(report: NodeReport, target: Target | None, about: bool, was_ready: bool) -> Standing:
    failed = report.phase is Phase.FAILED and (about or not report.manifest_digest)
    if failed:
        return Standing.FAILED
    if target is None:
        return Standing.PENDING
    if about and report.phase is Phase.READY:
        # Agents publish complete manifests only; one that claims otherwise has all bytes at least.
        return Standing.READY if target.complete else Standing.VERIFIED
    if was_ready and report.revision == target.revision and report.phase is not Phase.REMOVING:
        # The agent is looking again at what it has (a restart, a manifest that was completed or read anew), and its
        # labels still stand.
        return Standing.READY
    if not about:
        return Standing.PENDING
    return {Phase.DOWNLOADING: Standing.DOWNLOADING, Phase.VERIFIED: Standing.VERIFIED}.get(
        report.phase, Standing.PENDING
    )


def obstacles_of(facts: Facts) -> list[NodeProblem]:
    """What keeps nodes from removing the model, as they report it, in the order of `facts.waiting_for`."""
    reports = ((name, view.report) for name in facts.waiting_for if (view := facts.nodes.get(name)) is not None)
    leaving = ((name, report) for name, report in reports if report is not None and report.phase is Phase.REMOVING)
    problems = (_node_problem(name, report) for name, report in leaving)
    return [problem for problem in problems if problem is not None]


def _node_problem(name: str, report: NodeReport) -> NodeProblem | None:
    problem = report.problem
    if problem is None:
        if report.phase is not Phase.FAILED:
            return None
        return NodeProblem(node=name, reason="AgentError", message="The agent gives no reason; see its log.")
    return NodeProblem(node=name, reason=problem.reason, message=problem.message, next_try=problem.next_try)


def bare(digest: str) -> str:
    """`digest` without the algorithm in front: `sha256:ab...` -> `ab...`."""
    return digest.removeprefix("sha256:")
