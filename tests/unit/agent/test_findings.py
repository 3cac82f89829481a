"""What users are told of damage, and for how long."""

from pathlib import Path

from agent.findings import KEPT_COUNT, KEPT_SECONDS, Findings, described
from agent.store import Problem, ProblemKind
from modelcache.kube.resources import ObjectKey

KEY = ObjectKey("team", "llama")
PROBLEM = Problem(Path("/cache/models/team/llama/abc/w"), ProblemKind.CHANGED, "size is 1, was 2", "0" * 64)


def test_damage_and_repair_are_told_in_order_for_some_minutes() -> None:
    findings = Findings()
    findings.repaired(KEY, "abc", 0.0)
    assert findings.recent(KEY, 0.0) == [], "nothing was damaged"
    findings.damaged(KEY, "abc", [PROBLEM], 10.0)
    findings.repaired(KEY, "abc", 20.0)
    findings.repaired(KEY, "abc", 21.0)
    recent = findings.recent(KEY, 20.0)
    assert [finding.reason for finding in recent] == ["FilesDamaged", "FilesRepaired"]
    assert "/cache/models/team/llama/abc/w: size is 1, was 2" in recent[0].message
    assert recent[0].id != recent[1].id
    assert [finding.reason for finding in findings.recent(KEY, 10.0 + KEPT_SECONDS)] == ["FilesRepaired"]
    assert findings.recent(KEY, 20.0 + KEPT_SECONDS) == []
    assert (findings.damages, findings.repairs) == (1, 1)
    findings.forget(KEY)
    assert findings.recent(KEY, 20.0) == []
    assert (findings.damages, findings.repairs) == (1, 1)


def test_a_lost_index_is_told_with_what_follows_from_it() -> None:
    findings = Findings()
    findings.rebuilt(KEY, "abc", 0.0)
    findings.repaired(KEY, "abc", 1.0)
    (told,) = findings.recent(KEY, 1.0)
    assert told.reason == "IndexRebuilt"
    assert "revision abc is read again" in told.message


def test_a_dying_disk_does_not_fill_the_reports() -> None:
    findings = Findings()
    for number in range(100):
        findings.damaged(KEY, "abc", [PROBLEM] * number, float(number))
    assert len(findings.recent(KEY, 100.0)) == KEPT_COUNT
    assert findings.damages == 100
    message = described("abc", [PROBLEM] * 10)
    assert message.count("size is 1") == 3
    assert "and 7 more" in message
