"""Makes `hub/<namespace>/models--org--name/` on disk agree with what `agent.store.hubview` says it should be.

Called after every change of a claim, and at start for the repositories whose change was interrupted. Level-triggered: it
looks at the whole directory, so it does not matter what was interrupted where.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path

from agent.store.durable import (
    files_below,
    fsync_directory,
    link_tree,
    make_directories,
    place_link,
    remove_empty_parents,
    remove_tree,
    write_file,
)
from agent.store.hubview import Claim, HubFile, hub_files, hub_refs
from agent.store.index import Index
from modelcache.paths import CachePaths


def refresh(paths: CachePaths, index: Index, namespace: str, repo_id: str) -> None:
    """Makes the view of one repository agree with the claims in the index. Raises OSError and IndexFailed."""
    claims = [
        Claim(
            model=row.name,
            snapshot=row.snapshot,
            commit=row.hub.commit,
            ref=row.hub.ref,
            current=row.current,
            published_at=row.published_at,
            files={file.path: file.sha256 for file in index.files(*row.key)},
        )
        for row in index.of_repo(namespace, repo_id)
        if row.hub is not None
    ]
    reconcile(paths, namespace, repo_id, claims)
    index.hub_clean(namespace, repo_id)


def reconcile(paths: CachePaths, namespace: str, repo_id: str, claims: list[Claim]) -> None:
    """Brings the view of one repository up to date. Raises OSError; may be repeated."""
    repo = paths.hub_repo(namespace, repo_id)
    if not claims:
        _discard(paths, repo)
        remove_empty_parents(repo.parent, paths.hub)
        return
    snapshots, refs = repo / "snapshots", repo / "refs"
    for directory in (snapshots, refs):
        make_directories(directory, paths.root, 0o755)
    # Files before refs: a name must never lead to files that are not there yet ...
    wanted = hub_files(claims)
    for commit, files in wanted.items():
        _reconcile_commit(paths, namespace, snapshots / commit, files)
    _reconcile_refs(paths, refs, hub_refs(claims))
    # ... and removed files after refs, for the same reason.
    for entry in list(os.scandir(snapshots)):
        if entry.name not in wanted:
            _discard(paths, snapshots / entry.name)
        else:
            _remove_extra(snapshots / entry.name, set(wanted[entry.name]))


def _reconcile_commit(paths: CachePaths, namespace: str, target: Path, files: Mapping[str, HubFile]) -> None:
    sources = {
        path: paths.snapshot(namespace, file.model, file.snapshot) / path
        for path, file in files.items()
        if (paths.snapshot(namespace, file.model, file.snapshot) / path).exists()
    }
    if not target.exists():
        staged = paths.staging / uuid.uuid4().hex
        link_tree(sources.items(), staged)
        staged.rename(target)
        # Crash after a ref is written: the commit that it names has to be there.
        fsync_directory(target.parent)
        return
    changed: set[Path] = set()
    for path, source in sources.items():
        place = target / path
        if _same(place, source):
            continue
        make_directories(place.parent, target, 0o755)
        if place.is_dir():
            _discard(paths, place)
        place_link(source, place, paths.staging)
        changed.add(place.parent)
    for directory in changed:
        # Crash after we return: the files just placed have to be there when a ref leads to them.
        fsync_directory(directory)


def _reconcile_refs(paths: CachePaths, refs: Path, wanted: Mapping[str, str]) -> None:
    for existing in list(files_below(refs)):
        if existing not in wanted:
            (refs / existing).unlink()
            remove_empty_parents((refs / existing).parent, refs)
    for ref, commit in wanted.items():
        path = refs / ref
        if path.is_file() and path.read_bytes() == commit.encode():
            continue
        make_directories(path.parent, refs, 0o755)
        write_file(path, commit.encode(), paths.staging, 0o444)


def _remove_extra(directory: Path, wanted: set[str]) -> None:
    for existing in list(files_below(directory)):
        if existing not in wanted:
            (directory / existing).unlink()
            remove_empty_parents((directory / existing).parent, directory)


def _discard(paths: CachePaths, path: Path) -> None:
    """Removes a directory: out of sight first, by one rename, then file by file where no reader looks."""
    if not path.exists() and not path.is_symlink():
        return
    staged = paths.staging / uuid.uuid4().hex
    path.rename(staged)
    remove_tree(staged)


def _same(place: Path, source: Path) -> bool:
    """Whether `place` is the source's inode, or the copy that was made when no link was left (same size and mtime)."""
    try:
        ours, theirs = place.lstat(), source.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(ours.st_mode):
        return False
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
