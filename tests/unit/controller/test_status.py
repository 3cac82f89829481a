"""Every status that a user may see, from facts alone."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from controller.conditions import quantity
from controller.facts import Facts, NodeView
from controller.placement import Presence
from controller.problems import AgentProblem
from controller.reports import NodeReport, Phase
from controller.request import Pinned, Problem, Request
from controller.status import EMPTY, build_status, progress_only
from modelcache.api.spec import Spec
from modelcache.api.status import Condition, Endpoint, Status
from modelcache.manifest import Manifest, ManifestFile, Sha256

THEN, NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"
SIZE = 100 * 1024 * 1024
OLD_REVISION = "0" * 40


def asked(version: str | None = None) -> Request:
    spec = msgspec.convert({"modelName": "m", "version": version, "source": {"uri": "hf://org/name"}}, Spec)
    request = Request.of(spec, "ns")
    assert request is not None
    return request


def pinned(revision: str = "1" * 40, *, complete: bool = True) -> Pinned:
    sha256 = Sha256("a" * 64) if complete else None
    return Pinned.of(Manifest.build("hf://org/name", revision, [ManifestFile(path="a", size=SIZE, sha256=sha256)]))


PINNED = pinned()


def node(
    phase: Phase = Phase.READY, done: int = 0, *, of: Pinned = PINNED, revision: str | None = None, **fields: Any
) -> NodeView:
    if revision is None:
        revision = of.revision if phase is Phase.READY else ""
    report = NodeReport(of.digest, phase, bytes_done=done, revision=revision, **fields)
    return NodeView(Presence.CONNECTED, reported=True, report=report)


def failed(reason: str, message: str, **fields: Any) -> NodeView:
    return node(Phase.FAILED, problem=AgentProblem(reason, message), **fields)


def facts(nodes: dict[str, NodeView] | None = None, **changes: Any) -> Facts:
    nodes = {"a": node(), "b": node()} if nodes is None else nodes
    values: dict[str, Any] = {
        "generation": 3,
        "now": NOW,
        "path": "/var/lib/dynamo-models/models/ns/m/current",
        "request": asked(),
        "pinned": PINNED,
        "agents": 4,
        "matching": len(nodes),
        "assigned": tuple(sorted(nodes)),
        "nodes": MappingProxyType(nodes),
    }
    return Facts(**{**values, **changes})


def conditions(status: Status) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


def message(status: Status, kind: str) -> str:
    return next(condition.message for condition in status.conditions if condition.type == kind)


READY = build_status(facts(), EMPTY)


def test_ready_everywhere() -> None:
    assert conditions(READY) == {
        "Resolved": ("True", "Resolved"),
        "Downloaded": ("True", "DownloadComplete"),
        "Verified": ("True", "ChecksumValid"),
        "Available": ("True", "NodesReady"),
        "Ready": ("True", "AllNodesReady"),
    }
    assert all(condition.observed_generation == 3 for condition in READY.conditions)
    assert READY.phase == "Ready"
    assert READY.observed_generation == 3
    assert READY.nodes is not None
    assert (READY.nodes.summary, READY.nodes.where) == ("2/2", "a, b")
    assert READY.progress is not None
    assert (READY.progress.percent, READY.progress.summary, READY.progress.eta_seconds) == (100, "100%", None)
    assert READY.resolved_version == PINNED.revision
    assert READY.manifest_digest == f"sha256:{PINNED.digest}"
    assert READY.tree_digest == f"sha256:{PINNED.tree_digest}"
    assert (READY.model_size, READY.model_size_bytes, READY.files) == ("100Mi", SIZE, 1)
    assert READY.storage_ref is not None
    assert READY.storage_ref.path.endswith("/ns/m/current")
    assert READY.download_complete_time == NOW
    assert (READY.ready_endpoints, READY.total_endpoints) == (0, 0)
    written = msgspec.json.decode(msgspec.json.encode(READY))
    assert written["readyEndpoints"] == written["totalEndpoints"] == 0, "the published shape demands both counters"


def test_a_second_look_changes_nothing_even_later() -> None:
    assert build_status(facts(now=LATER), READY) == READY


def test_resolving_is_unknown_and_not_ready() -> None:
    status = build_status(facts({}, pinned=None), EMPTY)
    assert status.phase == "Pending"
    assert conditions(status)["Resolved"] == ("Unknown", "Resolving")
    assert conditions(status)["Verified"] == ("Unknown", "Resolving")
    assert conditions(status)["Ready"] == ("False", "Resolving")
    assert status.resolved_version is None


def test_a_source_that_refuses_is_told_with_the_time_of_the_next_try() -> None:
    problem = Problem("NotFound", "There is no org/name.", LATER)
    status = build_status(facts({}, pinned=None, problem=problem), EMPTY)
    assert status.phase == "Failed"
    for kind in ("Resolved", "Ready", "Downloaded"):
        assert conditions(status)[kind] == ("False", "NotFound")
        assert message(status, kind) == f"There is no org/name. Next try at {LATER}."


def test_downloading_counts_bytes_of_all_nodes() -> None:
    nodes = {
        "a": node(Phase.DOWNLOADING, SIZE // 2, bytes_per_second=1000, started_at=THEN),
        "b": node(Phase.VERIFIED),
        "c": node(Phase.PENDING),
    }
    status = build_status(facts(nodes), EMPTY)
    assert status.phase == "Downloading"
    assert conditions(status)["Ready"] == ("False", "Downloading")
    assert conditions(status)["Available"] == ("False", "NoNodesReady")
    assert status.progress is not None
    assert status.progress.bytes_total == 3 * SIZE
    assert status.progress.bytes_done == SIZE + SIZE // 2
    assert status.progress.percent == 50
    assert status.progress.eta_seconds == -(-(SIZE + SIZE // 2) // 1000)
    assert status.nodes is not None
    assert (status.nodes.ready, status.nodes.downloading, status.nodes.wanted) == (0, 2, 3)
    assert status.download_start_time == THEN
    assert status.download_complete_time is None


def test_percent_is_rounded_down_so_that_100_means_all() -> None:
    status = build_status(facts({"a": node(Phase.DOWNLOADING, SIZE - 1)}), EMPTY)
    assert status.progress is not None
    assert status.progress.percent == 99


def test_an_agent_cannot_report_more_than_there_is() -> None:
    status = build_status(facts({"a": node(Phase.DOWNLOADING, 10 * SIZE)}), EMPTY)
    assert status.progress is not None
    assert status.progress.bytes_done == SIZE


def test_where_bytes_came_from_is_counted_over_all_nodes_and_not_forgotten() -> None:
    def came_from(nodes: dict[str, NodeView], previous: Status, **changes: Any) -> tuple[Status, object]:
        status = build_status(facts(nodes, **changes), previous)
        assert status.progress is not None
        return status, (status.progress.origin_bytes, status.progress.peer_bytes)

    nothing = {"a": node(Phase.PENDING), "b": node(Phase.PENDING)}
    assert came_from(nothing, EMPTY)[1] == (None, None)
    nodes = {"a": node(origin_bytes=60, peer_bytes=5), "b": node(origin_bytes=40, peer_bytes=95)}
    read, numbers = came_from(nodes, EMPTY)
    assert numbers == (100, 100)
    # An agent that was restarted has read nothing, and one that has gone says nothing.
    assert came_from({"a": node(), "b": node(peer_bytes=1)}, read)[1] == (100, 100)
    assert came_from({"a": node(origin_bytes=160)}, read)[1] == (160, 100)
    # Another revision has been read from nowhere yet; what is said of the one before does not count for it.
    newer = pinned("2" * 40)
    nodes = {"a": node(of=PINNED, origin_bytes=60), "b": node(Phase.DOWNLOADING, of=newer, origin_bytes=3)}
    assert came_from(nodes, read, pinned=newer)[1] == (3, None)


def test_one_node_is_available_all_nodes_are_ready() -> None:
    status = build_status(facts({"a": node(), "b": node(Phase.DOWNLOADING)}), EMPTY)
    assert conditions(status)["Available"] == ("True", "NodesReady")
    assert conditions(status)["Ready"] == ("False", "Downloading")
    assert conditions(status)["Downloaded"][0] == "False"
    assert status.ready_nodes == ("a",)


def test_transition_times_move_only_when_a_status_flips() -> None:
    worse = build_status(facts({"a": node(), "b": node(Phase.DOWNLOADING)}, now=LATER), READY)
    times = {condition.type: condition.last_transition_time for condition in worse.conditions}
    assert times["Ready"] == times["Downloaded"] == LATER
    assert times["Resolved"] == times["Available"] == NOW
    failing = build_status(facts({"a": node(), "b": failed("DiskFull", "No room.")}, now="x"), worse)
    assert conditions(failing)["Ready"] == ("False", "DiskFull")
    assert {c.type: c.last_transition_time for c in failing.conditions}["Ready"] == LATER


def test_wrong_bytes_are_told_with_the_file_and_both_digests() -> None:
    text = f"model.safetensors: sha256 is {'b' * 64}, the manifest says {'a' * 64}"
    nodes = {"a": node(Phase.DOWNLOADING), "b": failed("DigestMismatch", text)}
    status = build_status(facts(nodes), EMPTY)
    assert status.phase == "Failed"
    assert conditions(status)["Verified"] == ("False", "DigestMismatch")
    assert text in message(status, "Verified")
    assert conditions(status)["Ready"] == ("False", "DigestMismatch")
    assert status.node_problems[0].node == "b"
    assert status.nodes is not None
    assert status.nodes.failed == 1


def test_a_checksum_that_differs_takes_ready_away() -> None:
    nodes = {name: failed("ChecksumMismatch", "Tree digest differs.", revision=PINNED.revision) for name in "ab"}
    status = build_status(facts(nodes), READY)
    assert status.phase == "Failed"
    assert conditions(status)["Ready"] == ("False", "ChecksumMismatch")
    assert status.ready_nodes == ()


def test_a_problem_that_is_waited_out_is_shown_but_is_no_failure() -> None:
    waiting = node(Phase.DOWNLOADING, problem=AgentProblem("Unreachable", "No answer.", LATER))
    status = build_status(facts({"a": waiting}), EMPTY)
    assert status.phase == "Downloading"
    assert conditions(status)["Ready"] == ("False", "Unreachable")
    assert LATER in message(status, "Ready")
    assert status.nodes is not None
    assert (status.nodes.failed, status.nodes.downloading) == (0, 1)
    assert status.node_problems[0].next_try == LATER


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"agents": 0}, ["no agent is connected"]),
        ({"agents": 5, "matching": 0, "selector": {"gpu": "h100"}}, ["gpu=h100", "0 of 5", "nodeSelector"]),
    ],
)
def test_no_node_to_hold_it(changes: dict[str, Any], said: list[str]) -> None:
    status = build_status(facts({}, **changes), EMPTY)
    assert conditions(status)["Ready"] == ("False", "NoNodes")
    assert status.phase == "Pending"
    for words in said:
        assert words in message(status, "Ready")


def test_fewer_nodes_than_replicas() -> None:
    status = build_status(facts(replicas=3, matching=2, selector={"gpu": "h100"}), EMPTY)
    assert conditions(status)["Ready"] == ("False", "NotEnoughNodes")
    assert "2 of 3 nodes ready" in message(status, "Ready")
    assert status.nodes is not None
    assert status.nodes.summary == "2/3"
    assert status.progress is not None
    assert status.progress.percent == 66


def test_no_replicas_are_always_there() -> None:
    status = build_status(facts({}, replicas=0), EMPTY)
    assert status.phase == "Ready"
    assert conditions(status)["Ready"] == ("True", "NoNodesWanted")
    assert status.progress is None


def test_a_new_version_is_not_ready_while_the_old_one_is_offered() -> None:
    old = build_status(
        facts(pinned=pinned(OLD_REVISION), nodes={n: node(of=pinned(OLD_REVISION)) for n in "ab"}), EMPTY
    )
    assert old.phase == "Ready"
    still = {name: node(of=pinned(OLD_REVISION)) for name in "ab"}
    resolving = build_status(facts(still, request=asked("v2"), pinned=None, generation=4), old)
    assert conditions(resolving)["Resolved"] == ("Unknown", "Resolving")
    assert conditions(resolving)["Ready"] == ("False", "Updating")
    assert conditions(resolving)["Available"] == ("True", "PreviousRevision")
    assert resolving.ready_nodes == ()
    assert resolving.resolved_version == OLD_REVISION, "it still says what resolvedFrom was resolved to"
    assert resolving.resolved_from == asked().key
    arriving = {name: node(Phase.DOWNLOADING, 5, revision=OLD_REVISION) for name in "ab"}
    downloading = build_status(facts(arriving, request=asked("v2"), generation=4, now=LATER), resolving)
    assert conditions(downloading)["Ready"] == ("False", "Updating")
    assert OLD_REVISION in message(downloading, "Ready")
    assert downloading.resolved_version == PINNED.revision
    assert downloading.download_start_time == LATER
    assert downloading.download_complete_time is None
    done = build_status(facts(request=asked("v2"), generation=4), downloading)
    assert conditions(done)["Ready"] == ("True", "AllNodesReady")


def test_ready_survives_a_restart_of_the_controller() -> None:
    unheard = {"a": NodeView(Presence.AWAITED), "b": NodeView(Presence.CONNECTED)}
    assert build_status(facts(unheard, now=LATER), READY) == READY
    begun = build_status(facts({"a": node(Phase.DOWNLOADING, 70), "b": node(Phase.DOWNLOADING, 30)}), EMPTY)
    again = build_status(facts({"a": node(Phase.DOWNLOADING, 71), "b": NodeView(Presence.AWAITED)}), begun)
    assert begun.progress is not None
    assert again.progress is not None
    assert again.progress.bytes_done == begun.progress.bytes_done


def test_ready_survives_an_agent_that_looks_again_at_what_it_has() -> None:
    for phase in (Phase.PENDING, Phase.DOWNLOADING, Phase.VERIFIED):
        nodes = {"a": node(), "b": node(phase, revision=PINNED.revision)}
        assert build_status(facts(nodes), READY).phase == "Ready"
    gone = {"a": node(), "b": node(Phase.DOWNLOADING, revision="")}
    assert build_status(facts(gone), READY).phase == "Downloading", "the agent has withdrawn its labels"


def test_ready_survives_a_manifest_that_is_lost_and_read_again() -> None:
    lost = build_status(facts(pinned=None), READY)
    assert lost.phase == "Ready"
    assert lost.manifest_digest == READY.manifest_digest
    unreachable = build_status(facts(pinned=None, problem=Problem("Unreachable", "No answer.")), READY)
    assert conditions(unreachable)["Resolved"] == ("False", "Unreachable")
    assert conditions(unreachable)["Ready"] == ("True", "AllNodesReady")
    again = pinned(complete=False)
    assert again.digest != PINNED.digest
    relisted = build_status(
        facts({name: node(Phase.PENDING, revision=PINNED.revision) for name in "ab"}, pinned=again), READY
    )
    assert relisted.phase == "Ready"


def test_an_incomplete_manifest_is_never_ready() -> None:
    incomplete = pinned(complete=False)
    status = build_status(facts({"a": node(of=incomplete)}, pinned=incomplete), EMPTY)
    assert conditions(status)["Ready"] == ("False", "Verifying")
    assert conditions(status)["Downloaded"] == ("True", "DownloadComplete")
    assert conditions(status)["Verified"][0] == "Unknown"
    assert status.tree_digest is None


def test_a_report_about_another_manifest_proves_nothing() -> None:
    other = pinned("2" * 40)
    status = build_status(facts({"a": node(of=other)}), EMPTY)
    assert status.nodes is not None
    assert status.nodes.ready == 0
    stale_failure = failed("DiskFull", "No room.", of=other)
    assert build_status(facts({"a": stale_failure}), EMPTY).node_problems == ()


def test_a_model_without_source_is_nobodys_failure() -> None:
    previous = msgspec.structs.replace(
        READY,
        ready_endpoints=1,
        total_endpoints=2,
        endpoints=(Endpoint(address="http://10.0.0.1:9090", pod_name="p", ready=True),),
        conditions=(
            *READY.conditions,
            Condition(type="EndpointsReady", status="True", last_transition_time=THEN, reason="AllEndpointsReady"),
        ),
    )
    status = build_status(facts({}, request=None, pinned=None), previous)
    found = conditions(status)
    assert found["Resolved"] == ("False", "NoSource")
    assert found["Ready"] == ("Unknown", "NoSource")
    assert found["EndpointsReady"] == ("True", "AllEndpointsReady")
    assert "Downloaded" not in found
    assert status.phase is None
    assert status.nodes is None
    assert (status.ready_endpoints, status.total_endpoints, len(status.endpoints)) == (1, 2, 1)
    assert status.resolved_version is None


def test_a_deletion_says_whom_it_waits_for() -> None:
    waiting = tuple(f"node-{index}" for index in range(5))
    status = build_status(facts({}, request=None, pinned=None, deleting=True, waiting_for=waiting), READY)
    assert conditions(status)["Ready"] == ("False", "Deleting")
    assert "node-0, node-1, node-2 and 2 more" in message(status, "Ready")
    assert conditions(status)["Resolved"] == ("True", "Resolved"), "what was known stays readable"
    assert status.ready_nodes == ()
    assert status.assigned_nodes == ("a", "b"), "a restarted controller must know whom to wait for"


def test_a_missing_secret_is_told_while_nodes_still_need_it() -> None:
    problem = Problem("SecretNotFound", "The Secret ns/s does not exist.")
    status = build_status(facts({"a": node(Phase.DOWNLOADING)}, hindrance=problem), EMPTY)
    assert conditions(status)["Ready"] == ("False", "SecretNotFound")
    assert build_status(facts(hindrance=problem), EMPTY).phase == "Ready", "nobody needs it any more"


def test_what_only_moves_is_told_apart_from_what_changes() -> None:
    one = build_status(facts({"a": node(Phase.DOWNLOADING, 1)}), EMPTY)
    two = build_status(facts({"a": node(Phase.DOWNLOADING, SIZE // 2)}), one)
    assert one != two
    assert progress_only(one, two)
    assert not progress_only(two, build_status(facts({"a": node()}), two))


def test_messages_fit_the_api_whatever_agents_say() -> None:
    nodes = {f"node-{index:03}": failed("R", "x" * 2048) for index in range(200)}
    status = build_status(facts(nodes), EMPTY)
    assert len(status.node_problems) == 50
    assert all(len(condition.message) <= 32768 for condition in status.conditions)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1Ki"),
        (91_600_000, "87.4Mi"),
        (1024**2 - 1, "1Mi"),
        (3 * 1024**3 // 2, "1.5Gi"),
        (16 * 1024**4, "16Ti"),
        (2 * 1024**5, "2Pi"),
        (5000 * 1024**5, "5000Pi"),
    ],
)
def test_sizes_for_people_are_quantities(size: int, text: str) -> None:
    assert quantity(size) == text
