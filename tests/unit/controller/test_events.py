"""Events are sent for transitions, once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec

from controller.events import MAX_PER_CHANGE, events, self_checks
from controller.facts import Facts, NodeView
from controller.placement import Presence
from controller.problems import Finding
from controller.reports import NodeReport, Phase
from controller.status import EMPTY
from modelcache.api.status import Condition, NodeCounts, NodeProblem, Status

TIME = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str, reason: str, message: str = "m") -> Condition:
    return msgspec.convert(
        {"type": kind, "status": status, "lastTransitionTime": TIME, "reason": reason, "message": message}, Condition
    )


def status(*conditions: Condition, **fields: object) -> Status:
    return msgspec.structs.replace(EMPTY, conditions=conditions, phase="Pending", **fields)


RESOLVED = condition("Resolved", "True", "Resolved")
READY = condition("Ready", "True", "AllNodesReady")


def reasons(old: Status, new: Status) -> list[str]:
    return [note.reason for note in events(old, new)]


def test_nothing_happened() -> None:
    assert events(EMPTY, EMPTY) == []
    everything = status(RESOLVED, READY, resolved_version="r", ready_nodes=("a",), assigned_nodes=("a",))
    assert events(everything, everything) == []


def test_the_life_of_a_model_in_order() -> None:
    start = status(condition("Resolved", "Unknown", "Resolving"))
    resolved = status(RESOLVED, resolved_version="r1", assigned_nodes=("a", "b"))
    loading = msgspec.structs.replace(
        resolved,
        download_start_time=TIME,
        model_size="1Gi",
        nodes=NodeCounts(wanted=2, ready=0, downloading=2, failed=0, summary="0/2"),
    )
    ready = msgspec.structs.replace(loading, conditions=(RESOLVED, READY), ready_nodes=("a", "b"))
    assert reasons(EMPTY, start) == []
    assert reasons(start, resolved) == ["Resolved", "NodesSelected"]
    assert reasons(resolved, loading) == ["DownloadStarted"]
    assert reasons(loading, ready) == ["NodeReady", "NodeReady", "Ready"]
    assert all(note.type == "Normal" for note in events(EMPTY, ready))


def test_a_failure_is_a_warning_once_per_reason() -> None:
    def refused(reason: str, message: str) -> Status:
        return status(condition("Resolved", "False", reason, message))

    notes = events(EMPTY, refused("NotFound", "No such repository. Next try at 1."))
    assert [(note.type, note.reason) for note in notes] == [("Warning", "ResolveFailed")]
    assert "NotFound" in notes[0].message
    assert events(refused("NotFound", "Next try at 1."), refused("NotFound", "Next try at 2.")) == []
    assert reasons(refused("NotFound", ""), refused("Unauthorized", "")) == ["ResolveFailed"]


def test_a_model_without_source_warns_nobody() -> None:
    assert events(EMPTY, status(condition("Resolved", "False", "NoSource"))) == []


def test_a_change_of_revision_is_told() -> None:
    old = status(RESOLVED, resolved_version="r1")
    assert reasons(old, status(RESOLVED, resolved_version="r2")) == ["RevisionChanged", "Resolved"]


def test_many_nodes_do_not_flood_the_namespace() -> None:
    names = tuple(f"node-{index:04}" for index in range(1000))
    problems = tuple(NodeProblem(node=name, reason="DiskFull", message="No room.") for name in names[:50])
    new = status(ready_nodes=names, assigned_nodes=names, node_problems=problems, resolved_version="r")
    notes = events(EMPTY, new)
    assert len(notes) == 1 + 2 * (MAX_PER_CHANGE + 1)
    assert any("995 more nodes" in note.message for note in notes)


def test_a_node_problem_is_told_once_per_node_and_reason() -> None:
    def troubled(reason: str, message: str) -> Status:
        return status(node_problems=(NodeProblem(node="a", reason=reason, message=message, next_try=TIME),))

    notes = events(EMPTY, troubled("Unreachable", "No answer."))
    assert [(note.type, note.reason) for note in notes] == [("Warning", "DownloadFailed")]
    assert TIME in notes[0].message
    assert events(troubled("Unreachable", "x"), troubled("Unreachable", "y")) == []
    assert reasons(troubled("Unreachable", "x"), troubled("DiskFull", "x")) == ["DownloadFailed"]


def test_a_deletion_is_told_when_it_begins() -> None:
    deleting = status(condition("Ready", "False", "Deleting", "Being removed: waiting for a."))
    assert reasons(status(READY), deleting) == ["Deleting"]
    assert events(deleting, deleting) == []


def test_a_file_that_was_found_damaged_is_no_failed_download() -> None:
    problem = NodeProblem(node="a", reason="FilesChanged", message="m")
    assert reasons(status(RESOLVED), status(RESOLVED, node_problems=(problem,))) == []


def test_findings_of_self_checks_are_told_once_each() -> None:
    damaged, repaired = Finding("1", "FilesDamaged", "files changed"), Finding("2", "FilesRepaired", "good again")
    report = NodeReport("d" * 64, Phase.READY, findings=(damaged, repaired))
    facts = SimpleNamespace(
        nodes={"a": NodeView(Presence.CONNECTED, True, report), "b": NodeView(Presence.CONNECTED, False, None)}
    )
    told = self_checks(cast(Facts, facts), ())
    assert [(note.type, note.reason, note.message, identity) for note, identity in told] == [
        ("Warning", "FilesDamaged", "a: files changed", "1"),
        ("Normal", "FilesRepaired", "a: good again", "2"),
    ]
    assert [identity for _, identity in self_checks(cast(Facts, facts), {"1"})] == ["2"]
    assert self_checks(cast(Facts, facts), {"1": None, "2": None}) == []
