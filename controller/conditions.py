"""The conditions of a DynamoModel: five questions, each with an answer, one word of reason, and a sentence to act on.

Resolved    is it known which files are meant?          (the source was asked once; it stays so until the spec changes)
Downloaded  do all wanted nodes have all bytes?         reason DownloadComplete, as in the caching proposal
Verified    do all bytes match their digests?           reason ChecksumValid, as in the caching proposal
Available   can pods be scheduled to at least one node? (also with the revision before an update)
Ready       do all wanted nodes have what the spec asks for?

Two more are about worker pods, see `endpoints`. Ready is about nodes alone: an adapter that no pod has loaded yet, but that
is on all their nodes, is Ready and not EndpointsReady.

A DynamoModel without a source has nothing to cache. Its Resolved is False (NoSource) and its Ready is *Unknown*, not False:
nothing is wrong with it, only this controller has no opinion on it; the state of its endpoints is told elsewhere.
Verified is Unknown until all bytes have been checked, so that False means one thing only: bytes that are wrong.
Messages hold no counters that move with every byte, so that a watch on a DynamoModel is quiet; those are in
status.progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from controller.facts import Facts, NodeState, Standing, Target, obstacles_of
from modelcache.api.status import Condition, NodeProblem
from modelcache.kube.errors import printable

Truth = Literal["True", "False", "Unknown"]

MAX_MESSAGE = 1500
"""Characters of a message; the API allows more, but nobody reads it."""
NAMES_SHOWN = 3

_MISMATCH = ("Mismatch", "Corrupt")
"""Parts of the reasons with which agents and sources say that bytes are not what they should be."""

ORDER = ("Resolved", "Downloaded", "Verified", "Available", "Ready")


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of one condition."""

    status: Truth
    reason: str
    message: str


def answers(facts: Facts, target: Target | None, states: Sequence[NodeState]) -> dict[str, Answer]:
    """The answer to each question, in the order of ORDER."""
    if facts.deleting:
        return _deleting(facts)
    if facts.request is None and facts.problem is None:
        return _no_source(facts)
    resolved = _resolved(facts, target)
    return {
        "Resolved": resolved,
        "Downloaded": _downloaded(facts, resolved, target, states),
        "Verified": _verified(facts, resolved, target, states),
        "Available": _available(target, states),
        "Ready": _ready(facts, resolved, target, states),
    }


def to_conditions(
    content: dict[str, Answer], previous: Sequence[Condition], generation: int, now: str
) -> tuple[Condition, ...]:
    """Conditions as stored: those with new content first, then what else is in `previous`.

    `lastTransitionTime` moves only when the status flips.
    """
    before = {condition.type: condition for condition in previous}
    ours = []
    for kind, answer in content.items():
        old = before.get(kind)
        kept = old is not None and old.status == answer.status
        ours.append(
            Condition(
                type=kind,
                status=answer.status,
                last_transition_time=old.last_transition_time if kept and old else now,
                reason=answer.reason,
                message=printable(answer.message, MAX_MESSAGE),
                observed_generation=generation,
            )
        )
    return (*ours, *(condition for condition in previous if condition.type not in content))


def names(nodes: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    """The first names of nodes, and how many more there are."""
    listed = ", ".join(nodes[:shown])
    return f"{listed} and {len(nodes) - shown} more" if len(nodes) > shown else listed


def is_mismatch(problem: NodeProblem | None) -> bool:
    """Whether a problem says that bytes differ from their digest."""
    return problem is not None and any(part in problem.reason for part in _MISMATCH)


def worst(states: Sequence[NodeState]) -> NodeProblem | None:
    """The problem to tell first: wrong bytes before failures before what is waited out; None when there is none."""
    troubled = [state for state in states if state.problem]
    troubled.sort(key=lambda s: (not is_mismatch(s.problem), s.standing is not Standing.FAILED))
    return troubled[0].problem if troubled else None


def _deleting(facts: Facts) -> dict[str, Answer]:
    waiting = facts.waiting_for
    what = f"waiting for {names(waiting)} to remove the files" if waiting else "all nodes have removed the files"
    obstacles = [f"{problem.node}: {problem.message}" for problem in obstacles_of(facts)]
    if obstacles:
        what = "; ".join([what, *(text.rstrip(".") for text in obstacles[:NAMES_SHOWN])])
    return {
        "Available": Answer("False", "Deleting", "The model is being removed from all nodes."),
        "Ready": Answer("False", "Deleting", f"Being removed: {what}."),
    }


def _no_source(facts: Facts) -> dict[str, Answer]:
    waiting = facts.waiting_for
    if waiting:
        message = f"The source was removed from the spec: waiting for {names(waiting)} to remove the files."
    else:
        message = (
            "Nothing is cached, only endpoints are tracked; set spec.source.uri to have the model cached on nodes."
        )
    return {"Resolved": Answer("False", "NoSource", message), "Ready": Answer("Unknown", "NoSource", message)}


def _resolved(facts: Facts, target: Target | None) -> Answer:
    if facts.problem is not None:
        return Answer("False", facts.problem.reason, facts.problem.sentence)
    assert facts.request is not None
    if target is None:
        return Answer("Unknown", "Resolving", f"Asking {facts.request.uri} which files are meant.")
    return Answer(
        "True",
        "Resolved",
        f"{facts.request.key} is {target.revision}: {_count(target.files, 'file')}, {quantity(target.size)}.",
    )


def _downloaded(facts: Facts, resolved: Answer, target: Target | None, states: Sequence[NodeState]) -> Answer:
    if target is None:
        return _not_yet(resolved)
    if not facts.wanted:
        return _nowhere(facts)
    have = [state for state in states if state.standing in (Standing.VERIFIED, Standing.READY)]
    if len(have) >= facts.wanted:
        return Answer("True", "DownloadComplete", f"{_count(len(have), 'node')} {_has(have)} all files.")
    problem = worst(states)
    reason = "Downloading" if any(state.standing is Standing.DOWNLOADING for state in states) else "Pending"
    if problem is not None and not is_mismatch(problem):
        reason = problem.reason
    return Answer("False", reason, f"{len(have)} of {_count(facts.wanted, 'node')} have all files.")


def _verified(facts: Facts, resolved: Answer, target: Target | None, states: Sequence[NodeState]) -> Answer:
    for state in states:
        if state.problem and is_mismatch(state.problem):
            return Answer("False", state.problem.reason, f"{state.name}: {state.problem.message}")
    if target is None:
        return Answer("Unknown", resolved.reason, resolved.message)
    if not facts.wanted:
        nowhere = _nowhere(facts)
        return Answer("Unknown", nowhere.reason, nowhere.message)
    have = [state for state in states if state.standing in (Standing.VERIFIED, Standing.READY)]
    if len(have) < facts.wanted or not target.complete:
        message = f"{len(have)} of {_count(facts.wanted, 'node')} have checked all files."
        return Answer("Unknown", "Verifying" if len(have) >= facts.wanted else "Pending", message)
    tree = f" Tree digest sha256:{target.tree_digest}." if target.tree_digest else ""
    return Answer("True", "ChecksumValid", f"All files match their digests on {_count(len(have), 'node')}.{tree}")


def _available(target: Target | None, states: Sequence[NodeState]) -> Answer:
    ready = [state.name for state in states if state.standing is Standing.READY]
    if ready:
        return Answer("True", "NodesReady", f"Pods find the model on {names(ready)}.")
    old = [state for state in states if state.offers and (target is None or state.offers != target.revision)]
    if old:
        where = names([state.name for state in old])
        return Answer(
            "True", "PreviousRevision", f"Pods find revision {old[0].offers} on {where} until the update is done."
        )
    return Answer("False", "NoNodesReady", "No node has the model yet.")


def _ready(facts: Facts, resolved: Answer, target: Target | None, states: Sequence[NodeState]) -> Answer:
    if target is None:
        return _updating(_not_yet(resolved), target, states)
    if not facts.wanted:
        if facts.replicas == 0 and not facts.follows:
            return Answer(
                "True", "NoNodesWanted", "spec.storage.nodeLocal.replicas is 0: no node has to hold the model."
            )
        return _nowhere(facts)
    ready = [state.name for state in states if state.standing is Standing.READY]
    if len(ready) >= facts.wanted:
        return Answer("True", "AllNodesReady", f"Revision {target.revision} is verified on {names(ready)}.")
    counts = f"{len(ready)} of {_count(facts.wanted, 'node')} ready"
    problem = worst(states)
    if facts.problem is not None:
        return Answer("False", facts.problem.reason, f"{counts}. {facts.problem.sentence}")
    if facts.hindrance is not None:
        return Answer("False", facts.hindrance.reason, f"{counts}. {facts.hindrance.sentence}")
    if problem is not None:
        again = f" Next try at {problem.next_try}." if problem.next_try else ""
        return Answer("False", problem.reason, f"{counts}. {problem.node}: {problem.message}{again}")
    if len(states) < facts.wanted and len(ready) == len(states):
        return Answer("False", "NotEnoughNodes", f"{counts}: {_supply(facts)}.")
    standings = {state.standing for state in states}
    if Standing.DOWNLOADING in standings:
        answer = Answer("False", "Downloading", f"{counts}, the others are downloading {target.revision}.")
    elif Standing.VERIFIED in standings:
        answer = Answer("False", "Verifying", f"{counts}, the others have all files and are publishing them.")
    else:
        answer = Answer("False", "Pending", f"{counts}, the others have not begun to download {target.revision} yet.")
    return _updating(answer, target, states)


def _updating(answer: Answer, target: Target | None, states: Sequence[NodeState]) -> Answer:
    """The same, but saying that an older revision is there meanwhile."""
    old = [state for state in states if state.offers and (target is None or state.offers != target.revision)]
    if not old or answer.reason not in ("Downloading", "Verifying", "Pending", "Resolving"):
        return answer
    return Answer(
        answer.status, "Updating", f"{answer.message} Until then {names([s.name for s in old])} keep {old[0].offers}."
    )


def _not_yet(resolved: Answer) -> Answer:
    """An answer that waits for, or fails with, the resolution."""
    return Answer("False", resolved.reason, resolved.message)


def _nowhere(facts: Facts) -> Answer:
    if facts.follows:
        text = f"No worker pod of base model {facts.follows} runs on a node with an agent, and only there is it cached."
        return Answer("False", "NoEndpoints", text)
    if facts.replicas == 0:
        return Answer("False", "NoNodesWanted", "spec.storage.nodeLocal.replicas is 0.")
    return Answer("False", "NoNodes", f"No node can hold the model: {_supply(facts)}.")


def _supply(facts: Facts) -> str:
    """How many nodes there are to choose from, and what to look at when that is too few."""
    selector = ",".join(f"{key}={value}" for key, value in sorted(facts.selector.items()))
    if not facts.agents:
        return "no agent is connected to the controller; see that the agent's DaemonSet runs and can reach it"
    if not selector:
        return f"{_count(facts.agents, 'agent')} connected"
    return (
        f"nodeSelector {selector} matches {facts.matching} of {_count(facts.agents, 'connected agent')}; "
        f"change spec.storage.nodeLocal.nodeSelector or label the nodes"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _has(items: Sequence[object]) -> str:
    return "has" if len(items) == 1 else "have"


def quantity(size: int) -> str:
    """Bytes for people, as a Kubernetes quantity with one decimal: `512`, `87.4Mi`, `1.5Gi`."""
    value, unit = float(size), ""
    for larger in ("Ki", "Mi", "Gi", "Ti", "Pi"):
        if round(value, 1) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + unit
