"""When a report is sent, and what is told about a worker."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report import same_essence, seconds_until_due
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_READY,
    Capacity,
    FileDigest,
    ModelKey,
    ModelReport,
    Phase,
    Problem,
    Report,
)

examples = settings(deadline=None, derandomize=True, max_examples=50)


def report(
    phase: Phase.ValueType = PHASE_DOWNLOADING,
    *,
    nonce: str = "n1",
    done: int = 0,
    message: str = "",
    next_try: int = 0,
    free: int = 0,
) -> Report:
    model = ModelReport(model=ModelKey(namespace="a", name="b"), phase=phase, bytes_done=done, bytes_total=100)
    if message:
        model.problem.CopyFrom(Problem(reason="Unreachable", message=message))
        model.problem.next_try.seconds = next_try
    return Report(nonce=nonce, models=[model], capacity=Capacity(free_bytes=free))


def due(last: Report | None, now: Report, since: float) -> float:
    return seconds_until_due(last, now, since=since, heartbeat=10.0)


def test_the_first_report_of_a_stream_goes_out_at_once() -> None:
    assert due(None, report(), since=0.0) <= 0


def test_what_matters_goes_out_at_once() -> None:
    assert due(report(), report(PHASE_READY), since=0.0) <= 0
    assert due(report(), report(nonce="n2"), since=0.0) <= 0
    assert due(report(), report(message="the source does not answer"), since=0.0) <= 0
    assert due(report(), Report(nonce="n1"), since=0.0) <= 0
    completed = report()
    completed.models[0].digests.append(FileDigest(path="x", sha256="0" * 64))
    assert due(report(), completed, since=0.0) <= 0


def test_progress_goes_out_once_a_second() -> None:
    assert due(report(done=1), report(done=2), since=0.25) == 0.75
    assert due(report(done=1), report(done=2), since=1.0) <= 0
    waiting, later = report(message="no answer", next_try=5), report(message="no answer", next_try=9)
    assert due(waiting, later, since=0.25) == 0.75


def test_silence_is_broken_by_the_heartbeat_alone() -> None:
    assert due(report(done=1), report(done=1), since=4.0) == 6.0
    assert due(report(free=1), report(free=2), since=4.0) == 6.0
    assert due(report(done=1), report(done=1), since=10.0) <= 0


def test_a_heartbeat_shorter_than_the_pace_of_progress_wins() -> None:
    assert seconds_until_due(report(done=1), report(done=2), since=0.0, heartbeat=0.5) == 0.5


@examples
@given(st.integers(0, 100), st.integers(0, 2**40), st.integers(0, 2**40))
def test_the_essence_leaves_out_only_what_changes_all_the_time(done: int, rate: int, origin: int) -> None:
    quiet, busy = report(), report(done=done, free=rate)
    busy.models[0].bytes_per_second, busy.models[0].origin_bytes = rate, origin
    assert same_essence(quiet, busy)
    assert busy.models[0].bytes_done == done, "the report itself is untouched"
