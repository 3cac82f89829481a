"""Reports of agents are bounded and sanitized, and never raise."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from controller.problems import MAX_MESSAGE
from controller.reports import MAX_FINDINGS, NodeReport, Phase, read_report
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

KEY = ObjectKey("ns", "model")
DIGEST = "d" * 64
SHA = "a" * 64


def entry(**fields: Any) -> pb.ModelReport:
    return pb.ModelReport(model=pb.ModelKey(namespace="ns", name="model"), **fields)


def read(one: pb.ModelReport) -> NodeReport:
    return read_report(pb.Report(models=[one]), {})[KEY]


def test_a_good_report_is_taken_as_it_is() -> None:
    found = read(
        entry(
            manifest_digest=DIGEST,
            phase=pb.PHASE_VERIFIED,
            bytes_done=5,
            bytes_per_second=7,
            problem=pb.Problem(reason="DiskFull", message="No room.", next_try=Timestamp(seconds=1_000_000_000)),
            digests=[pb.FileDigest(path="a", sha256=SHA)],
            tree_digest=SHA,
            current_revision="abc",
            started_at=Timestamp(seconds=1_000_000_001),
        )
    )
    assert (found.manifest_digest, found.phase, found.bytes_done, found.revision) == (DIGEST, Phase.VERIFIED, 5, "abc")
    assert found.problem is not None
    assert (found.problem.reason, found.problem.next_try) == ("DiskFull", "2001-09-09T01:46:40Z")
    assert dict(found.digests) == {"a": SHA}
    assert found.started_at == "2001-09-09T01:46:41Z"


def test_nonsense_is_clamped_replaced_or_left_out() -> None:
    found = read(
        entry(
            manifest_digest="../../etc/passwd",
            phase=99,
            bytes_done=2**64 - 1,
            problem=pb.Problem(reason="not a reason\n", message="x\x1b[31m\n" * 5000, next_try=Timestamp(seconds=-5)),
            digests=[pb.FileDigest(path="a", sha256="nonsense")],
            tree_digest="z",
            current_revision="a/../b",
            started_at=Timestamp(seconds=2**60),
        )
    )
    assert found.manifest_digest == found.tree_digest == found.revision == ""
    assert found.phase is Phase.PENDING
    assert found.bytes_done < 2**62
    assert found.problem is not None
    assert found.problem.reason == "AgentError"
    assert len(found.problem.message) <= MAX_MESSAGE
    assert found.problem.message.isprintable()
    assert found.problem.next_try is None
    assert not found.digests
    assert found.started_at is None


def test_digests_count_only_when_all_bytes_are_there() -> None:
    digests = [pb.FileDigest(path="a", sha256=SHA)]
    assert not read(entry(phase=pb.PHASE_DOWNLOADING, digests=digests)).digests
    assert read(entry(phase=pb.PHASE_VERIFIED, digests=digests)).digests


def test_models_without_a_name_are_left_out() -> None:
    assert read_report(pb.Report(models=[pb.ModelReport()]), {}) == {}


def test_progress_is_not_material_but_everything_else_is() -> None:
    base = read(entry(manifest_digest=DIGEST, phase=pb.PHASE_DOWNLOADING, bytes_done=1))
    more = read(entry(manifest_digest=DIGEST, phase=pb.PHASE_DOWNLOADING, bytes_done=2, bytes_per_second=5))
    assert base != more
    assert not more.differs_materially(base)
    assert more.differs_materially(None)
    for changed in (
        entry(manifest_digest=DIGEST, phase=pb.PHASE_READY),
        entry(manifest_digest=SHA, phase=pb.PHASE_DOWNLOADING),
        entry(manifest_digest=DIGEST, phase=pb.PHASE_DOWNLOADING, problem=pb.Problem(reason="R", message="m")),
        entry(manifest_digest=DIGEST, phase=pb.PHASE_DOWNLOADING, current_revision="abc"),
    ):
        assert read(changed).differs_materially(base)


@given(st.binary(max_size=300))
def test_whatever_parses_is_read(data: bytes) -> None:
    report = pb.Report()
    try:
        report.ParseFromString(data)
    except Exception:
        return
    assert all(key.namespace and key.name for key in read_report(report, {}))


def test_findings_are_bounded_and_printable() -> None:
    many = [pb.Finding(id=f"{n}" * 100, reason="not a reason", message="x\x1b[31m\n" * 5000) for n in range(50)]
    found = read(entry(findings=many)).findings
    assert len(found) == MAX_FINDINGS
    assert {finding.reason for finding in found} == {"SelfCheck"}
    assert all(len(finding.id) <= 64 and len(finding.message) <= MAX_MESSAGE for finding in found)
    assert all(finding.message.isprintable() for finding in found)
    other = read(entry(findings=many[:1]))
    assert other.differs_materially(read(entry()))


def test_what_is_as_it_was_is_not_read_again() -> None:
    quiet = pb.ModelReport(model=pb.ModelKey(namespace="a", name="quiet"), phase=pb.PHASE_READY)
    busy = pb.ModelReport(model=pb.ModelKey(namespace="a", name="busy"), phase=pb.PHASE_DOWNLOADING, bytes_done=1)
    before = read_report(pb.Report(models=[quiet, busy]), {})
    busy.bytes_done = 2
    after = read_report(pb.Report(models=[quiet, busy]), before)
    assert after[ObjectKey("a", "quiet")] is before[ObjectKey("a", "quiet")]
    assert after[ObjectKey("a", "busy")].bytes_done == 2
    assert read_report(pb.Report(models=[busy]), after).keys() == {ObjectKey("a", "busy")}
