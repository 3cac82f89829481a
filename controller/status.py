"""From facts to the status of a DynamoModel: pure, so that every sentence a user may read can be tested without a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from controller.conditions import ORDER, Answer, answers, quantity, to_conditions
from controller.endpoints import view_endpoints
from controller.facts import Facts, NodeState, Standing, Target, judge, obstacles_of
from modelcache.api.status import NodeCounts, Phase, Progress, Status, StorageRef

PROBLEMS_SHOWN = 50
"""As the CRD documents."""
NAMES_SHOWN = 3

EMPTY = Status(ready_endpoints=0, total_endpoints=0)
"""Of an object that nobody has looked at. The counters of endpoints are always written (the published shape demands it)."""


def build_status(facts: Facts, previous: Status) -> Status:
    """The status to write. What other parts of the controller own (last use) is taken over from `previous`."""
    target = Target.of(facts, previous)
    states = judge(facts, previous)
    content = answers(facts, target, states)
    view = view_endpoints(facts.serving, facts, target, states, previous) if facts.serving else None
    if view is not None:
        content |= view.answers
        previous = msgspec.structs.replace(
            previous,
            ready_endpoints=view.ready,
            total_endpoints=len(view.endpoints),
            endpoints=view.endpoints,
            adapter=view.adapter,
        )
    kept = previous.conditions
    if facts.request is None and not facts.deleting:
        # What was said about a source that was taken away means nothing any more.
        kept = tuple(condition for condition in kept if condition.type in content or condition.type not in ORDER)
    status = msgspec.structs.replace(
        previous,
        observed_generation=facts.generation,
        conditions=to_conditions(content, kept, facts.generation, facts.now),
    )
    if facts.deleting:
        # What was known stays readable while the nodes clean up; who was assigned is needed after a restart.
        return msgspec.structs.replace(
            status,
            phase="Pending",
            ready_nodes=(),
            progress=None,
            node_problems=tuple(obstacles_of(facts)[:PROBLEMS_SHOWN]),
        )
    if facts.request is None and facts.problem is None:
        return _without_source(status, facts)
    ready = tuple(state.name for state in states if state.standing is Standing.READY)
    status = msgspec.structs.replace(
        status,
        phase=_phase(facts, content, states),
        nodes=_counts(facts, states, ready),
        assigned_nodes=facts.assigned,
        ready_nodes=ready,
        node_problems=tuple(state.problem for state in states if state.problem)[:PROBLEMS_SHOWN],
        progress=_progress(facts, target, states, previous),
        storage_ref=StorageRef(path=facts.path) if facts.path else previous.storage_ref,
    )
    if target is None:
        return msgspec.structs.replace(status, download_start_time=None, download_complete_time=None)
    return _with_target(status, facts, target, states, previous)


def progress_only(old: Status, new: Status) -> bool:
    """Whether nothing but the progress of the download differs."""
    return msgspec.structs.replace(new, progress=old.progress) == old


def _without_source(status: Status, facts: Facts) -> Status:
    """Only endpoints are tracked: no phase, because that summarizes the cache and there is none."""
    kept = {name: getattr(status, name) for name in ("ready_endpoints", "total_endpoints", "endpoints", "conditions")}
    bare = Status(**kept, observed_generation=status.observed_generation, referenced_by=status.referenced_by)
    # Nodes that still hold files from before the source was removed.
    return msgspec.structs.replace(bare, assigned_nodes=facts.waiting_for)


def _phase(facts: Facts, content: Mapping[str, Answer], states: Sequence[NodeState]) -> Phase:
    if content["Ready"].status == "True":
        return "Ready"
    # Wrong bytes on one node: the others get them from the same source, so nothing good comes of waiting for them.
    if facts.problem is not None or content["Verified"].status == "False":
        return "Failed"
    standings = {state.standing for state in states}
    if Standing.DOWNLOADING in standings or Standing.VERIFIED in standings:
        return "Downloading"
    if Standing.FAILED in standings:
        return "Failed"
    return "Pending"


def _counts(facts: Facts, states: Sequence[NodeState], ready: tuple[str, ...]) -> NodeCounts:
    active = (Standing.DOWNLOADING, Standing.VERIFIED)
    where = ", ".join(ready[:NAMES_SHOWN])
    return NodeCounts(
        wanted=facts.wanted,
        ready=len(ready),
        downloading=sum(1 for state in states if state.standing in active),
        failed=sum(1 for state in states if state.standing is Standing.FAILED),
        summary=f"{len(ready)}/{facts.wanted}",
        where=f"{where} +{len(ready) - NAMES_SHOWN}" if len(ready) > NAMES_SHOWN else where,
    )


def _progress(facts: Facts, target: Target | None, states: Sequence[NodeState], previous: Status) -> Progress | None:
    if target is None or not states:
        return None
    total = target.size * facts.wanted
    done = min(sum(state.bytes_done for state in states), total)
    old = previous.progress if target.is_that_of(facts, previous) else None
    if old and not all(state.reported for state in states):
        # After a restart of the controller: agents that have not spoken yet have not lost their bytes.
        done = min(max(done, old.bytes_done), total)
    all_ready = all(state.standing is Standing.READY for state in states) and len(states) >= facts.wanted
    percent = done * 100 // total if total else (100 if all_ready else 0)
    rate = sum(state.bytes_per_second for state in states) if done < total else 0
    # What has been read stays so, also when those who did it know nothing of it any more (a restart) or have gone.
    origin = max(sum(state.origin_bytes for state in states), (old.origin_bytes or 0) if old else 0)
    peers = max(sum(state.peer_bytes for state in states), (old.peer_bytes or 0) if old else 0)
    return Progress(
        bytes_done=done,
        bytes_total=total,
        percent=percent,
        summary=f"{percent}%",
        bytes_per_second=rate or None,
        eta_seconds=-((done - total) // rate) if rate else None,
        origin_bytes=origin or None,
        peer_bytes=peers or None,
    )


def _with_target(status: Status, facts: Facts, target: Target, states: Sequence[NodeState], previous: Status) -> Status:
    assert facts.request is not None
    same = target.is_that_of(facts, previous)
    started = previous.download_start_time if same else None
    if started is None:
        began = [state.started_at for state in states if state.started_at]
        active = any(state.standing in (Standing.DOWNLOADING, Standing.VERIFIED) for state in states)
        started = min(began) if began else (facts.now if active else None)
    completed = previous.download_complete_time if same else None
    if completed is None and status.phase == "Ready" and states:
        completed = facts.now
    return msgspec.structs.replace(
        status,
        resolved_version=target.revision,
        resolved_from=facts.request.key,
        manifest_digest=f"sha256:{target.digest}",
        tree_digest=f"sha256:{target.tree_digest}" if target.tree_digest else None,
        model_size=quantity(target.size),
        model_size_bytes=target.size,
        files=target.files,
        download_start_time=started,
        download_complete_time=completed,
    )
