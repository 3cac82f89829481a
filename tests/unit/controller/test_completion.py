"""The sha256 of the first node that has everything become the manifest's."""

from __future__ import annotations

from types import MappingProxyType

from controller.completion import complete
from controller.reports import NodeReport, Phase
from controller.request import Pinned, Problem
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256

LARGE, SMALL, OTHER = (Sha256(letter * 64) for letter in "abc")
MANIFEST = Manifest.build(
    "hf://org/name",
    "rev1",
    [ManifestFile(path="large", size=9, sha256=LARGE), ManifestFile(path="small", size=1, git_oid=GitOid("1" * 40))],
)
PINNED = Pinned.of(MANIFEST)
COMPLETED = Pinned.of(MANIFEST.with_sha256({"small": SMALL}))


def report(digests: dict[str, str], *, phase: Phase = Phase.VERIFIED, tree: str = "", about: str = "") -> NodeReport:
    return NodeReport(about or PINNED.digest, phase, digests=MappingProxyType(digests), tree_digest=tree)


def test_nothing_while_nobody_has_everything() -> None:
    assert complete(PINNED, []) is None
    assert complete(PINNED, [("a", report({"small": SMALL}, phase=Phase.DOWNLOADING))]) is None
    assert complete(PINNED, [("a", report({}))]) is None
    assert complete(PINNED, [("a", report({"small": SMALL}, about="f" * 64))]) is None


def test_the_digests_of_a_verified_node_complete_it() -> None:
    done = complete(PINNED, [("a", report({"small": SMALL}, tree=COMPLETED.tree_digest or ""))])
    assert done == COMPLETED
    assert done.complete


def test_the_first_by_name_decides_and_the_order_of_reports_does_not() -> None:
    reports = [("b", report({"small": OTHER})), ("a", report({"small": SMALL}))]
    assert complete(PINNED, reports) == complete(PINNED, reversed(reports)) == COMPLETED


def test_a_report_that_cannot_be_right_is_passed_over() -> None:
    liars = [
        ("a", report({"small": SMALL, "large": OTHER})),
        ("b", report({"unknown": SMALL})),
        ("c", report({"small": SMALL}, tree="f" * 64)),
    ]
    assert complete(PINNED, [*liars, ("d", report({"small": SMALL}))]) == COMPLETED
    problem = complete(PINNED, liars)
    assert isinstance(problem, Problem)
    assert problem.reason == "DigestMismatch"
    assert LARGE in problem.message
    assert OTHER in problem.message
    missing = complete(PINNED, liars[1:2])
    assert isinstance(missing, Problem)
    assert "small" in missing.message
    tree = complete(PINNED, liars[2:])
    assert isinstance(tree, Problem)
    assert "tree digest" in tree.message
