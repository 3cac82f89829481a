"""The Hugging Face hub view: what `hub/<namespace>/` has to contain, as pure functions over all claims.

`huggingface_hub` finds a model offline by name and revision: `refs/<branch>` holds a commit id, `snapshots/<commit>/`
holds the files. Several DynamoModels of one namespace may claim the same repository, at the same commit with different
files (`include`), at different commits, or under different branches. The view is therefore never edited in place by one
model's coming or going: it is computed from all claims that exist, and the disk is made to agree. What is computed does
not depend on the order in which models came, so an agent that rebuilds its index arrives at the same view.

Rules:

- files of a commit are the union over all snapshots that claim it;
- refs follow only snapshots in force (`current`): while a new revision is being checked, names lead to the old one;
- a ref that several models ask for and that was resolved to different commits goes to the latest publication;
- where no model asks for `main`, the model whose name sorts first gets it as well, so that a worker that was started with
  nothing but the repository's name finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

DEFAULT_REF = "main"
"""What huggingface_hub looks for when no revision is given (`huggingface_hub.constants.DEFAULT_REVISION`)."""


class Claim(NamedTuple):
    """One snapshot's claim on a repository of its namespace. `files` maps path to sha256."""

    model: str
    snapshot: str
    commit: str
    ref: str | None
    current: bool
    published_at: float
    files: Mapping[str, str]


class HubFile(NamedTuple):
    """Where a file of the hub view comes from: the published file `path` of `model`/`snapshot`."""

    sha256: str
    model: str
    snapshot: str


def hub_refs(claims: Iterable[Claim]) -> dict[str, str]:
    """The refs of one repository: branch or tag -> commit."""
    in_force = [claim for claim in claims if claim.current]
    refs: dict[str, str] = {}
    for claim in sorted(in_force, key=_age):
        if claim.ref is not None:
            refs[claim.ref] = claim.commit
    if in_force and DEFAULT_REF not in refs:
        refs[DEFAULT_REF] = min(in_force, key=lambda claim: (claim.model, claim.snapshot)).commit
    # `refs/a` cannot be a file and the directory of `refs/a/b`. Git has the same rule, so only a lying source gets here.
    return {ref: commit for ref, commit in refs.items() if not any(parent in refs for parent in _parents(ref))}


def hub_files(claims: Iterable[Claim]) -> dict[str, dict[str, HubFile]]:
    """The files of one repository: commit -> path -> origin.

    A commit has one content; should two sources of one name disagree, the latest publication wins.
    """
    commits: dict[str, dict[str, HubFile]] = {}
    for claim in sorted(claims, key=_age):
        files = commits.setdefault(claim.commit, {})
        for path, sha256 in claim.files.items():
            files[path] = HubFile(sha256, claim.model, claim.snapshot)
    return {commit: _without_conflicts(files) for commit, files in commits.items()}


def _age(claim: Claim) -> tuple[float, str, str]:
    return (claim.published_at, claim.model, claim.snapshot)


def _parents(path: str) -> Sequence[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _without_conflicts(files: dict[str, HubFile]) -> dict[str, HubFile]:
    """Without files whose directory another claim lists as a file: one commit cannot contain both."""
    return {path: file for path, file in files.items() if not any(parent in files for parent in _parents(path))}
