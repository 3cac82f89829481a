"""Which Events a change of status is worth: those that a person looking at `kubectl describe` would miss.

Derived from the difference between the status as it was written before and as it is written now. So an event is sent once
per transition, also over restarts of the controller, and never because something was merely looked at again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from controller.conditions import names
from controller.facts import Facts
from modelcache.api.status import Condition, NodeProblem, Status

REPAIRED = "FilesRepaired"
CHANGED = "FilesChanged"
"""Reasons that agents give: of a finding that is good news, and of a problem that there is a finding about."""
MAX_PER_CHANGE = 5
"""Events about single nodes in one change; the rest is one summary. A model on 1,000 nodes must not flood the namespace."""


@dataclass(frozen=True, slots=True)
class Note:
    """An Event to be sent about a DynamoModel."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def events(old: Status, new: Status) -> list[Note]:
    """The events that the change from `old` to `new` is worth, in the order in which they happened."""
    before = {condition.type: condition for condition in old.conditions}
    after = {condition.type: condition for condition in new.conditions}
    ready = after.get("Ready")
    if ready and ready.reason == "Deleting":
        was = before.get("Ready")
        notes = [] if was and was.reason == "Deleting" else [Note("Normal", "Deleting", ready.message)]
        return notes + _problems(old, new, "RemovalWaits", "Normal")
    notes = _resolution(old, new, before.get("Resolved"), after.get("Resolved"))
    notes += _nodes_chosen(old, new)
    if new.download_start_time and new.download_start_time != old.download_start_time:
        notes.append(Note("Normal", "DownloadStarted", f"Downloading {new.model_size} to {_to(new)}."))
    notes += _problems(old, new)
    notes += _nodes_ready(old, new)
    if ready and ready.status == "True" and not _is_true(before.get("Ready")):
        notes.append(Note("Normal", "Ready", ready.message))
    return notes


def dropped_peers(facts: Facts, told: Collection[tuple[str, str]]) -> list[tuple[Note, tuple[str, str]]]:
    """An event for every agent that has dropped a peer since, with the pair (agent, peer); `told` are those already sent.

    Which agent was lied to is remembered by the controller alone: after a restart it tells once more.
    """
    notes = []
    for node, view in facts.nodes.items():
        for problem in view.report.peer_problems if view.report is not None else ():
            if (node, problem.node) not in told:
                text = f"{node} does not read from {problem.node} any more: {problem.reason}: {problem.message}"
                notes.append((Note("Warning", "PeerDropped", text), (node, problem.node)))
    return notes[:MAX_PER_CHANGE]


def self_checks(facts: Facts, told: Collection[str]) -> list[tuple[Note, str]]:
    """An event for everything that the self-checks of agents have found since, with its id; `told` are those already sent.

    Agents keep a finding in their reports for some minutes. A controller that was restarted in that time tells it once more.
    """
    return [
        (
            Note("Normal" if finding.reason == REPAIRED else "Warning", finding.reason, f"{node}: {finding.message}"),
            finding.id,
        )
        for node, view in facts.nodes.items()
        for finding in (view.report.findings if view.report is not None else ())
        if finding.id not in told
    ]


def _resolution(old: Status, new: Status, before: Condition | None, after: Condition | None) -> list[Note]:
    if after is None:
        return []
    notes = []
    if after.status == "True" and (not _is_true(before) or new.resolved_version != old.resolved_version):
        if old.resolved_version and new.resolved_version != old.resolved_version:
            text = f"From {old.resolved_version} to {new.resolved_version}."
            notes.append(Note("Normal", "RevisionChanged", text))
        notes.append(Note("Normal", "Resolved", after.message))
    unsuccessful = after.status == "False" and after.reason != "NoSource"
    if unsuccessful and (before is None or (before.status, before.reason) != (after.status, after.reason)):
        notes.append(Note("Warning", "ResolveFailed", f"{after.reason}: {after.message}"))
    return notes


def _nodes_chosen(old: Status, new: Status) -> list[Note]:
    added = [node for node in new.assigned_nodes if node not in set(old.assigned_nodes)]
    if not added or new.phase is None:
        return []
    return [Note("Normal", "NodesSelected", f"Chose {names(added, MAX_PER_CHANGE)} to hold the model.")]


def _problems(
    old: Status, new: Status, reason: str = "DownloadFailed", kind: Literal["Normal", "Warning"] = "Warning"
) -> list[Note]:
    known = {(problem.node, problem.reason) for problem in old.node_problems}
    fresh = [
        problem
        for problem in new.node_problems
        if (problem.node, problem.reason) not in known and problem.reason != CHANGED  # told by `self_checks`
    ]
    notes = [Note(kind, reason, _told(problem)) for problem in fresh[:MAX_PER_CHANGE]]
    if len(fresh) > MAX_PER_CHANGE:
        more = len(fresh) - MAX_PER_CHANGE
        notes.append(Note(kind, reason, f"{more} more nodes have problems; see status.nodeProblems."))
    return notes


def _nodes_ready(old: Status, new: Status) -> list[Note]:
    known = set(old.ready_nodes)
    fresh = [node for node in new.ready_nodes if node not in known]
    notes = [Note("Normal", "NodeReady", f"{node} holds {new.resolved_version}.") for node in fresh[:MAX_PER_CHANGE]]
    if len(fresh) > MAX_PER_CHANGE:
        notes.append(
            Note("Normal", "NodeReady", f"{len(fresh) - MAX_PER_CHANGE} more nodes hold {new.resolved_version}.")
        )
    return notes


def _told(problem: NodeProblem) -> str:
    again = f" Next try at {problem.next_try}." if problem.next_try else ""
    return f"{problem.node}: {problem.reason}: {problem.message}{again}"


def _to(status: Status) -> str:
    wanted = status.nodes.wanted if status.nodes else 0
    return "1 node" if wanted == 1 else f"{wanted} nodes"


def _is_true(condition: Condition | None) -> bool:
    return condition is not None and condition.status == "True"
