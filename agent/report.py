"""What is told to the controller, and when: from the state of workers to the wire's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from agent import plan
from agent.content import Known, missing_digests
from agent.findings import Finding
from agent.peers.keys import ContentKey
from agent.plan import View, phase_of
from agent.progress import RateMeter
from agent.worker import ModelWorker
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_READY,
    AdapterUnload,
    FileDigest,
    ModelKey,
    ModelReport,
    PeerProblem,
    Phase,
    Problem,
    Report,
)
from modelcache.rpc.modelcache_pb2 import Finding as ReportedFinding

PODS_SHOWN = 5
"""Names of pods in one message."""

MIN_PROGRESS_SECONDS = 1.0
"""Reports that only tell progress are at least this far apart (see the contract in modelcache.proto)."""

_PROGRESS = ("bytes_done", "bytes_per_second", "origin_bytes", "peer_bytes")


@dataclass(slots=True)
class ModelFacts:
    """What reports about one model remember from one to the next."""

    meter: RateMeter = field(default_factory=RateMeter)
    offered: tuple[str, Mapping[ContentKey, int]] | None = None
    """What peers may read of it, with the digest of the manifest that this follows from."""
    kept: tuple[tuple[object, ...], ModelReport] | None = None
    """The last report, with everything that it was made from, while nothing in it changes with time."""


def model_report(
    worker: ModelWorker,
    facts: ModelFacts,
    *,
    now: float,
    unix: float,
    findings: Sequence[Finding] = (),
    label_problem: str = "",
    label_next_try: float | None = None,
) -> ModelReport:
    """The report about one model, not to be changed. `now` is monotonic, `unix` the wall clock of the same moment."""
    arrival = worker.arrival
    inputs = (
        worker.view, worker.current and worker.current.row, worker.trouble, worker.working, worker.since, arrival.traffic,
        arrival.digests, arrival.tree_digest, len(arrival.peer_problems), tuple(findings), label_problem, worker.unanswered,
    )  # fmt: skip
    if facts.kept is not None and arrival.fetch is None and facts.kept[0] == inputs:
        return facts.kept[1]
    report = _made_report(worker, facts, now, unix, findings, label_problem, label_next_try)
    quiet = arrival.fetch is None and not report.HasField("problem")
    facts.kept = (inputs, report) if quiet else None
    return report


def _made_report(
    worker: ModelWorker,
    facts: ModelFacts,
    now: float,
    unix: float,
    findings: Sequence[Finding],
    label_problem: str,
    label_next_try: float | None,
) -> ModelReport:
    view, current, arrival = worker.view, worker.current, worker.arrival
    now_in = phase(worker)
    known = _subject(worker)
    report = ModelReport(
        model=ModelKey(namespace=worker.key.namespace, name=worker.key.name),
        manifest_digest=worker.wanted_digest or (current.row.manifest_digest if current is not None else ""),
        phase=now_in,
        bytes_total=known.size if known is not None else 0,
        bytes_done=_bytes_done(worker, view, known),
        origin_bytes=arrival.traffic.origin_bytes,
        peer_bytes=arrival.traffic.peer_bytes,
        peer_problems=[
            PeerProblem(node=problem.node, reason=problem.reason, message=problem.message)
            for problem in arrival.peer_problems.values()
        ],
        current_revision=current.snapshot.revision if current is not None else "",
        findings=[
            ReportedFinding(id=finding.id, reason=finding.reason, message=finding.message) for finding in findings
        ],
    )
    if now_in == PHASE_DOWNLOADING:
        report.bytes_per_second = facts.meter.sample(now, report.bytes_done)
    if known is not None and view.fetched:
        report.tree_digest = arrival.tree_digest
        missing = missing_digests(known.manifest, arrival.digests)
        report.digests.extend(FileDigest(path=path, sha256=sha256) for path, sha256 in missing.items())
    elif known is not None and _is_here(view, known):
        report.tree_digest = known.tree_digest or ""
    if worker.since is not None:
        report.started_at.CopyFrom(_timestamp(worker.since))
    if now_in == PHASE_READY and current is not None:
        report.ready_at.CopyFrom(_timestamp(current.row.published_at))
    problem = _problem(worker, view, unix - now, label_problem, label_next_try)
    if problem is not None:
        report.problem.CopyFrom(problem)
    return report


def phase(worker: ModelWorker) -> Phase.ValueType:
    """How far the model of this worker is."""
    failed = worker.trouble is not None and worker.trouble.failure.permanent
    return phase_of(worker.view, failed=failed, working=worker.working)


def _subject(worker: ModelWorker) -> Known | None:
    """The manifest that the report is about."""
    if worker.wanted_digest is None:
        return worker.current.known if worker.current is not None else None
    return worker.known if worker.known is not None and worker.known.digest == worker.wanted_digest else None


def _is_here(view: View, known: Known) -> bool:
    return any(snapshot.manifest_digest == known.digest and snapshot.sound for snapshot in view.snapshots)


def _bytes_done(worker: ModelWorker, view: View, known: Known | None) -> int:
    if known is None:
        return 0
    if view.fetched or _is_here(view, known):
        return known.size
    progress = worker.arrival.fetch.progress() if worker.arrival.fetch is not None else None
    return min(known.size, max(0, progress.received_bytes)) if progress is not None else 0


def _problem(
    worker: ModelWorker, view: View, unix_offset: float, label_problem: str, label_next_try: float | None
) -> Problem | None:
    """The one thing that keeps the model from getting on; `unix_offset` makes Unix seconds of monotonic ones."""
    if worker.trouble is not None:
        failure, until = worker.trouble
        return Problem(reason=failure.reason, message=failure.message, next_try=_timestamp(until + unix_offset))
    step = plan.next_step(view)
    if isinstance(step, plan.Refuse):
        return Problem(reason=step.reason, message=step.message)
    if isinstance(step, plan.Download):
        progress = worker.arrival.fetch.progress() if worker.arrival.fetch is not None else None
        if progress is not None and progress.waiting is not None:
            reason, message, until = progress.waiting
            return Problem(reason=reason, message=message, next_try=_timestamp(until))
    if isinstance(step, plan.Announce | plan.Withdraw) and label_problem:
        problem = Problem(reason="NodeLabelFailed", message=label_problem)
        if label_next_try is not None:
            problem.next_try.CopyFrom(_timestamp(label_next_try + unix_offset))
        return problem
    if isinstance(step, plan.AwaitUsers):
        return Problem(reason="InUse", message=_in_use(worker, step, known=view.users_known))
    if isinstance(step, plan.AwaitAnswer) and worker.unanswered and plan.announced(view) is None:
        return Problem(reason="InUse", message=_unknown(worker.unanswered))
    if view.current is not None and not view.current.sound:
        return Problem(
            reason="FilesChanged",
            message=f"Files of revision {view.current.revision} on the node are not as they were published; the node does "
            "not count as ready until they are put right.",
        )
    return None


def _in_use(worker: ModelWorker, step: plan.AwaitUsers, *, known: bool) -> str:
    if not known:
        return _unknown("pods have not been read")
    pods = worker.pods_using(step.snapshots)
    shown = ", ".join(pods[:PODS_SHOWN]) + (f" and {len(pods) - PODS_SHOWN} more" if len(pods) > PODS_SHOWN else "")
    return f"The files are in use by {'pod' if len(pods) == 1 else 'pods'} {shown}; they go when the pods are gone."


def _unknown(why: str) -> str:
    return (
        f"The files stay until it is known that no pod uses them, and the controller cannot tell at the moment ({why}); see "
        "that it may list and watch pods."
    )


def _timestamp(unix: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(int(unix * 1e9))
    return timestamp


def seconds_until_due(last: Report | None, report: Report, *, since: float, heartbeat: float) -> float:
    """In how many seconds a report should be sent, if it stays as it is; 0 or less: now.

    `last` was sent `since` seconds ago on the same stream; None: this is the first. A change of a phase, a problem or of
    what was taken over goes out at once, progress once a second, and otherwise only the sign of life.
    """
    if last is None or not same_essence(last, report):
        return 0.0
    # Most of a hundred models are as they were: only the others are worth looking into.
    moved = any(
        old != new and _progress(old) != _progress(new) for old, new in zip(last.models, report.models, strict=True)
    )
    return (min(MIN_PROGRESS_SECONDS, heartbeat) if moved else heartbeat) - since


def same_essence(last: Report, report: Report) -> bool:
    """Whether two reports differ only in what changes all the time: progress, rates, times of tries, free space."""
    return (
        last.nonce == report.nonce
        and last.uses_question == report.uses_question
        and len(last.models) == len(report.models)
        and len(last.unloads) == len(report.unloads)
        and all(old == new or _essence(old) == _essence(new) for old, new in zip(last.models, report.models, strict=True))
        and all(old == new or _timeless(old) == _timeless(new) for old, new in zip(last.unloads, report.unloads, strict=True))
    )  # fmt: skip


def _essence(model: ModelReport) -> ModelReport:
    kept = ModelReport()
    kept.CopyFrom(model)
    for name in _PROGRESS:
        kept.ClearField(name)  # type: ignore[arg-type]  # the stub lists the names as literals
    problems = [pod.problem for pod in kept.adapter.pods if pod.HasField("problem")]
    for problem in [*([kept.problem] if kept.HasField("problem") else []), *problems]:
        problem.ClearField("next_try")
    return kept


def _timeless(unload: AdapterUnload) -> AdapterUnload:
    kept = AdapterUnload()
    kept.CopyFrom(unload)
    kept.problem.ClearField("next_try")
    return kept


def _progress(model: ModelReport) -> tuple[int, int, int, int]:
    return (model.bytes_done, model.bytes_total, model.origin_bytes + model.peer_bytes, _next_try(model))


def _next_try(model: ModelReport) -> int:
    return model.problem.next_try.seconds if model.HasField("problem") else 0
