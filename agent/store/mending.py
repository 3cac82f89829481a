"""Checks published snapshots against the index and their blobs, and puts good files in place of bad ones.

Damage is found in one place (the index says what each file must look like, the manifest what it must contain) and mended
by one rule: whatever is not a link to a good blob becomes one, by rename, so that a process that has the bad file open
keeps what it has. Where the blob itself is bad, it has to be dropped and fetched first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from agent.store import checking
from agent.store.checking import Problem, ProblemKind, take_ownership
from agent.store.durable import fsync_directory, make_directories, place_link, remove_tree, replace_symlink
from agent.store.errors import BlobMissing, io_errors
from agent.store.index import Index
from agent.store.rows import BlobRow, FileRow, PublishedSnapshot
from modelcache.paths import CachePaths

PIECE_BYTES = 16 * 1024 * 1024
"""Size of the ranges whose digests are kept with a blob; the same 16 MiB that agents exchange (design, section 5)."""


def file_row(target: Path, path: str, sha256: str) -> FileRow:
    """What the index is to remember about a published file. Raises OSError."""
    found = (target / path).lstat()
    return FileRow(path, sha256, found.st_size, found.st_mtime_ns, found.st_ino)


def expected_row(index: Index, path: str, sha256: str) -> FileRow:
    """What a published file looks like that is a link to its blob. Raises BlobMissing."""
    blob = index.blob(sha256)
    if blob is None:
        raise BlobMissing(f"the content {sha256} is not in the store; download it first")
    return FileRow(path, sha256, blob.size, blob.mtime_ns, blob.inode)


def is_usable(paths: CachePaths, index: Index, sha256: str) -> bool:
    """Whether a blob is here, was verified, and was not touched since."""
    row = index.blob(sha256)
    if row is None or row.verified_at is None:
        return False
    return checking.compare(paths.blob(sha256), FileRow("", *row[:4])) is None


def usable_blob(paths: CachePaths, index: Index, sha256: str) -> float:
    """When the blob was verified. Raises BlobMissing when it is not here, not verified, or was touched since."""
    row = index.blob(sha256)
    if row is None or row.verified_at is None:
        raise BlobMissing(f"the content {sha256} is not in the store, or was not verified; download it first")
    if checking.compare(paths.blob(sha256), FileRow("", *row[:4])) is not None:
        # Not deleted: reading it decides (`verify_blob`), and published files may share the inode.
        index.add_blobs([row._replace(verified_at=None)])
        raise BlobMissing(f"the blob {sha256} was touched by somebody else since it was verified; download it again")
    return row.verified_at


def quick_check(paths: CachePaths, index: Index, row: PublishedSnapshot) -> list[Problem]:
    """See Store.quick_check."""
    files = index.files(*row.key)
    target = paths.snapshot(*row.key)
    found = [problem for file in files if (problem := checking.compare(f"{target}/{file.path}", file))]
    found += _check_directory(paths, row, files)
    view = hub_directory(paths, row)
    if view is not None:
        found += [problem for file in files if (problem := checking.compare(f"{view}/{file.path}", file, copy=True))]
    found += [
        Problem(target / path, ProblemKind.UNPROVEN, "its content was found to be wrong, or was not read since", sha256)
        for path, sha256 in index.unproven_files(*row.key)
    ]
    return found


def deep_check(
    paths: CachePaths,
    index: Index,
    row: PublishedSnapshot,
    tree: AbstractContextManager[bool],
    clock: Callable[[], float],
    paid: Callable[[int], None],
) -> list[Problem]:
    """See Store.deep_check. `tree` is held while something is changed, not while files are read."""
    target = paths.snapshot(*row.key)
    view = hub_directory(paths, row)
    files = index.files(*row.key)
    problems = _check_directory(paths, row, files)
    for file in files:
        published, blob = target / file.path, paths.blob(file.sha256)
        found = _read(index, file, [published, blob, *([view / file.path] if view is not None else [])], paid)
        with tree, io_errors("mend", blob):
            if [(problem.path, problem.kind) for problem in found] == [(blob, ProblemKind.MISSING)]:
                # Somebody deleted the blob; its content was just read under its other name.
                os.link(published, blob, follow_symlinks=False)
                # Crash after the row is written: the name has to be there.
                fsync_directory(blob.parent)
                found = []
            if not found:
                for place in (published, blob):
                    take_ownership(place, checking.FILE_MODE)
                index.update_file(*row.key, file_row(target, file.path, file.sha256))
                kept = blob.lstat()
                index.add_blobs([BlobRow(file.sha256, kept.st_size, kept.st_mtime_ns, kept.st_ino, clock())])
        problems += found
    if not problems:
        index.set_verified(*row.key, clock())
    return problems


def restore(paths: CachePaths, index: Index, row: PublishedSnapshot) -> list[Path]:
    """See Store.restore. The hub view has to be refreshed afterwards. Raises OSError, BlobMissing."""
    target = paths.snapshot(*row.key)
    files = index.files(*row.key)
    changed: list[Path] = []
    # First: after a crash in between, recovery brings the hub view up to date with what was put in place.
    index.mark_hub_dirty(*row.key)
    for problem in checking.unexpected(target, (file.path for file in files)):
        problem.path.unlink(missing_ok=True)
        changed.append(problem.path)
    for directory in _directories(paths, row, files):
        if checking.compare_directory(directory) is not None:
            take_ownership(Path(directory), checking.DIRECTORY_MODE)
            changed.append(Path(directory))
    for file in files:
        usable_blob(paths, index, file.sha256)
        place, blob = target / file.path, paths.blob(file.sha256)
        if checking.compare(place, file) is None and place.lstat().st_ino == blob.lstat().st_ino:
            continue
        make_directories(place.parent, paths.root, checking.DIRECTORY_MODE)
        if place.is_dir() and not place.is_symlink():
            remove_tree(place)
        place_link(blob, place, paths.staging)
        # Crash after the label is back: the good file has to be what is found.
        fsync_directory(place.parent)
        index.update_file(*row.key, file_row(target, file.path, file.sha256))
        changed.append(place)
    link = paths.current(row.namespace, row.name)
    if row.current and not _leads_to(link, row.snapshot):
        remove_tree(link)
        replace_symlink(link, row.snapshot, paths.staging)
        changed.append(link)
    return changed


def _check_directory(paths: CachePaths, row: PublishedSnapshot, files: list[FileRow]) -> list[Problem]:
    """What is wrong with a snapshot beside its files: foreign ones, directories, and where `current` leads."""
    problems = checking.unexpected(paths.snapshot(*row.key), (file.path for file in files))
    problems += filter(None, map(checking.compare_directory, _directories(paths, row, files)))
    link = paths.current(row.namespace, row.name)
    if row.current and not _leads_to(link, row.snapshot):
        detail = f"it is not a symlink to {row.snapshot}, which is in force"
        problems.append(Problem(link, ProblemKind.CHANGED, detail, ""))
    return problems


def _directories(paths: CachePaths, row: PublishedSnapshot, files: list[FileRow]) -> list[str]:
    """Every directory that a pod has to get through to the files of a snapshot, from the top."""
    target = paths.snapshot(*row.key)
    above = [str(paths.models), str(target.parent.parent), str(target.parent)]
    return above + [f"{target}/{path}".rstrip("/") for path in sorted(checking.directories_of(f.path for f in files))]


def _leads_to(link: Path, target: str) -> bool:
    try:
        return str(link.readlink()) == target
    except OSError:
        return False


def hub_directory(paths: CachePaths, row: PublishedSnapshot) -> Path | None:
    """Where the hub view has the files of a snapshot; None for one that claims no place in it."""
    if row.hub is None:
        return None
    return paths.hub_repo(row.namespace, row.hub.repo_id) / "snapshots" / row.hub.commit


def _read(index: Index, file: FileRow, places: list[Path], paid: Callable[[int], None]) -> list[Problem]:
    """Reads the inodes behind the places of one file, each once."""
    known = index.pieces(file.sha256)
    piece_bytes, pieces = known if known is not None else (PIECE_BYTES, None)
    verdicts: dict[int, Problem | None] = {}
    problems: list[Problem] = []
    for place in places:
        try:
            inode = place.lstat().st_ino
            if inode not in verdicts:
                content = checking.digest_file(place, piece_bytes, paid)
                verdicts[inode] = checking.judge(place, file, content, pieces)
                if pieces is None and verdicts[inode] is None:
                    index.set_pieces([(file.sha256, piece_bytes, content.pieces)])
        except FileNotFoundError:
            problems.append(Problem(place, ProblemKind.MISSING, "the file is gone", file.sha256))
            continue
        except OSError as error:
            detail = error.strerror or str(error)
            problems.append(Problem(place, ProblemKind.UNREADABLE, detail, file.sha256))
            continue
        verdict = verdicts[inode]
        if verdict is not None:
            problems.append(verdict._replace(path=place))
    return problems
