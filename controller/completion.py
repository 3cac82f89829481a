"""Completing a manifest: the sha256 of the files for which the source publishes none.

Hugging Face names small files by their git blob id, which is a sha1. Agents check that on arrival and compute the sha256;
those of the first agent that has everything become the manifest's, and every other agent has to arrive at the same ones.
"First" means the first by name among those that have reported at this moment: which one it is makes no difference unless
somebody lies, and then there is no right one.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.reports import NodeReport, Phase
from controller.request import Pinned, Problem
from modelcache.manifest import ManifestError


def complete(pinned: Pinned, reports: Iterable[tuple[str, NodeReport]]) -> Pinned | Problem | None:
    """The completed manifest from the reports of nodes (name, report).

    None while nobody has everything; a Problem when those who say so report digests that cannot be right.
    """
    problem: Problem | None = None
    for node, report in sorted(reports, key=lambda pair: pair[0]):
        if report.phase is not Phase.VERIFIED or report.manifest_digest != pinned.digest or not report.digests:
            continue
        try:
            manifest = pinned.manifest.with_sha256(report.digests)
        except ManifestError as error:
            problem = problem or Problem(
                "DigestMismatch", f"{node} reports digests that contradict the manifest: {error}."
            )
            continue
        if not manifest.complete:
            missing = next(file.path for file in manifest.files if file.sha256 is None)
            problem = problem or Problem("DigestsMissing", f"{node} reports no sha256 for {ascii(missing)[:200]}.")
            continue
        completed = Pinned.of(manifest)
        if report.tree_digest and report.tree_digest != completed.tree_digest:
            text = f"{node} reports tree digest {report.tree_digest}, but its digests give {completed.tree_digest}."
            problem = problem or Problem("DigestMismatch", text)
            continue
        return completed
    return problem
