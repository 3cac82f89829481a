"""What to do at start: compare what lies on the disk with what the index says, in both directions.

Every change of the store is ordered so that a crash leaves one of a few states, each of which is recognised here:

    state found                                   what happened                          what is done
    directory and record, no row                  crash after the rename of a publish    adopt it
    row, no directory                             crash after the rename of a removal    forget the row
    record, no directory                          either, one step earlier or later      remove the record
    directory and row, no record                  the record was lost                    write it again
    row and record with different claims          crash while a claim changed            believe the record
    directory, neither record nor row             not ours                               report, do not touch
    blob without row                              crash after a commit's rename          adopt it
    row without blob, a link to it is published   somebody deleted it                    link it back
    row without blob                              crash in garbage collection            forget the row
    anything in staging/                          crash while building or deleting       delete it

The disk is the truth; the index only saves looking at it. That is why a lost index is rebuilt by the same steps: then
every directory is "without row".

Only names and records (some hundred bytes each) are read here, never content, and `lstat` is used only for what has to
be adopted: 1,000 snapshots with 20,000 files take a fraction of a second.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agent.store import hubtree, repair
from agent.store.durable import fsync_directory, make_directories, remove_empty_parents, remove_tree, write_file
from agent.store.errors import RecordError
from agent.store.index import Index
from agent.store.records import Publication, alias_keys
from agent.store.rows import BlobRow, FileRow, PublishedSnapshot
from modelcache.manifest import Manifest, ManifestError
from modelcache.paths import CachePaths

Key = tuple[str, str, str]
"""Namespace, name and snapshot."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
CURRENT = "current"


class OnDisk(NamedTuple):
    """Names found below the cache root. `currents` holds what the symlink of a model points at."""

    snapshots: AbstractSet[Key]
    currents: Mapping[tuple[str, str], str]
    records: AbstractSet[Key]
    blobs: AbstractSet[str]
    strangers: tuple[Path, ...]


class Plan(NamedTuple):
    """What recovery does, as sets of keys and digests. `strangers` are published directories that nobody knows."""

    adopt: AbstractSet[Key]
    forget: AbstractSet[Key]
    write_records: AbstractSet[Key]
    remove_records: AbstractSet[Key]
    strangers: AbstractSet[Key]
    adopt_blobs: AbstractSet[str]
    forget_blobs: AbstractSet[str]


@dataclass
class RecoveryReport:
    """What was found and done when the store was opened; for the log, the metrics, Events and the tests."""

    rebuilt: bool = False
    """The index was missing or unusable and was built anew from the disk: content should be re-read in the background."""
    reason: str = ""
    """Why it was rebuilt; empty for a cache root that is new."""
    adopted: list[Key] = field(default_factory=list)
    forgotten: list[Key] = field(default_factory=list)
    removed: list[tuple[Key, str]] = field(default_factory=list)
    """Published directories that had to go because it cannot be known any more what they should contain, and why."""
    adopted_blobs: int = 0
    forgotten_blobs: int = 0
    relinked_blobs: int = 0
    staging_removed: int = 0
    strangers: list[Path] = field(default_factory=list)
    """Files and directories that are not ours. They are left alone."""

    @property
    def clean(self) -> bool:
        """Whether nothing had to be mended."""
        return not (
            self.reason
            or self.adopted
            or self.forgotten
            or self.removed
            or self.adopted_blobs
            or self.forgotten_blobs
            or self.relinked_blobs
            or self.staging_removed
            or self.strangers
        )


def recovery_plan(disk: OnDisk, indexed_snapshots: AbstractSet[Key], indexed_blobs: AbstractSet[str]) -> Plan:
    """What has to be done so that disk and index agree."""
    return Plan(
        adopt=(disk.snapshots & disk.records) - indexed_snapshots,
        forget=indexed_snapshots - disk.snapshots,
        write_records=(disk.snapshots & indexed_snapshots) - disk.records,
        remove_records=disk.records - disk.snapshots,
        strangers=disk.snapshots - disk.records - indexed_snapshots,
        adopt_blobs=disk.blobs - indexed_blobs,
        forget_blobs=indexed_blobs - disk.blobs,
    )


def look(paths: CachePaths) -> OnDisk:
    """Reads the names below the cache root. Raises OSError."""
    strangers: list[Path] = []
    snapshots: set[Key] = set()
    currents: dict[tuple[str, str], str] = {}
    for namespace, name, entry in _third_level(paths.models, strangers):
        if entry.is_symlink() and entry.name == CURRENT:
            currents[namespace, name] = str(Path(entry.path).readlink())
        elif entry.is_dir(follow_symlinks=False):
            snapshots.add((namespace, name, entry.name))
        else:
            strangers.append(Path(entry.path))
    records: set[Key] = set()
    for namespace, name, entry in _third_level(paths.records, strangers):
        if entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
            records.add((namespace, name, entry.name.removesuffix(".json")))
        else:
            strangers.append(Path(entry.path))
    blobs: set[str] = set()
    for fan in _directories(paths.blobs, strangers):
        for entry in os.scandir(fan.path):
            if (
                _SHA256.fullmatch(entry.name)
                and entry.name.startswith(fan.name)
                and entry.is_file(follow_symlinks=False)
            ):
                blobs.add(entry.name)
            else:
                strangers.append(Path(entry.path))
    return OnDisk(snapshots, currents, records, blobs, tuple(strangers))


def _third_level(top: Path, strangers: list[Path]) -> list[tuple[str, str, os.DirEntry[str]]]:
    """Entries of `top/<namespace>/<name>/` with namespace and name."""
    return [
        (namespace.name, name.name, entry)
        for namespace in _directories(top, strangers)
        for name in _directories(Path(namespace.path), strangers)
        for entry in os.scandir(name.path)
    ]


def _directories(top: Path, strangers: list[Path]) -> list[os.DirEntry[str]]:
    found = []
    for entry in os.scandir(top):
        if entry.is_dir(follow_symlinks=False):
            found.append(entry)
        else:
            strangers.append(Path(entry.path))
    return found


def recover(paths: CachePaths, index: Index, reason: str | None, now: float) -> RecoveryReport:
    """Empties staging and brings index and disk into agreement. `reason` says why the index is new, None if it is not.

    `now` is in Unix seconds. Raises OSError and IndexFailed. May be interrupted at any point and repeated.
    """
    report = RecoveryReport()
    for entry in list(os.scandir(paths.staging)):
        remove_tree(Path(entry.path))
        report.staging_removed += 1
    disk = look(paths)
    report.strangers.extend(disk.strangers)
    if reason is not None and (disk.snapshots or disk.blobs):
        report.rebuilt, report.reason = True, reason
    plan = recovery_plan(disk, {row.key for row in index.published()}, index.blob_digests())
    report.strangers.extend(paths.snapshot(*key) for key in sorted(plan.strangers))

    lost = {digest for digest in plan.forget_blobs if not repair.relink(paths, index, digest)}
    index.forget_blobs(lost)
    # Not verified: they were complete when they were renamed into blobs/, but nobody knows what happened since.
    index.add_blobs(_blob_row(paths, digest) for digest in plan.adopt_blobs)
    report.relinked_blobs = len(plan.forget_blobs) - len(lost)
    report.forgotten_blobs, report.adopted_blobs = len(lost), len(plan.adopt_blobs)

    index.remove_snapshots(plan.forget)
    report.forgotten.extend(sorted(plan.forget))
    for key in sorted(plan.adopt):
        problem = _adopt(paths, index, key)
        if problem is None:
            report.adopted.append(key)
        else:
            _remove_unusable(paths, key)
            report.removed.append((key, problem))
    for row in index.published():
        if row.key not in plan.adopt:
            _settle(paths, index, row, lost=row.key in plan.write_records)
    for key in sorted(plan.remove_records):
        remove_record(paths, key)
    _recover_currents(paths, index, disk, now)
    if report.rebuilt:
        _remove_unclaimed_hub(paths, index.hub_repos())
    for namespace, repo in index.hub_dirty():
        hubtree.refresh(paths, index, namespace, repo)
    return report


def write_record(paths: CachePaths, record: Publication, last_used: float) -> None:
    """Keeps the record of a publication, durably. Its mtime is the time of the last use, in Unix seconds."""
    target = paths.record(record.namespace, record.name, record.snapshot)
    make_directories(target.parent, paths.records, 0o700)
    write_file(target, record.encode(), paths.staging, 0o600)
    os.utime(target, (last_used, last_used))


def has_record(paths: CachePaths, record: Publication) -> bool:
    """Whether the record on disk says the same, but for the time and the claim in the hub view."""
    try:
        found = Publication.decode(paths.record(record.namespace, record.name, record.snapshot).read_bytes())
    except (OSError, RecordError):
        return False
    return found.manifest_digest == record.manifest_digest


def _settle(paths: CachePaths, index: Index, row: PublishedSnapshot, *, lost: bool) -> None:
    """Makes index and record of a snapshot agree: its claim may have changed between the two."""
    try:
        record = None if lost else Publication.decode(paths.record(*row.key).read_bytes())
    except (OSError, RecordError):
        record = None
    if record is None or record.manifest_digest != row.manifest_digest:
        write_record(paths, row.publication, row.last_used)
        return
    if record.hub != row.hub:
        index.set_hub(*row.key, record.hub)
    if record.policy != row.policy:
        index.set_policy(row.namespace, row.name, record.policy)


def _blob_row(paths: CachePaths, digest: str) -> BlobRow:
    found = paths.blob(digest).lstat()
    return BlobRow(digest, found.st_size, found.st_mtime_ns, found.st_ino, None)


def _adopt(paths: CachePaths, index: Index, key: Key) -> str | None:
    """Inserts a published directory into the index; the reason why that is impossible, None when it worked."""
    try:
        record = Publication.decode(paths.record(*key).read_bytes())
        last_used = paths.record(*key).stat().st_mtime
        data = paths.manifest(record.manifest_digest).read_bytes()
        manifest = Manifest.decode(data)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (RecordError, ManifestError) as error:
        return str(error)
    if (record.namespace, record.name, record.snapshot) != key or manifest.snapshot != record.snapshot:
        return "its record belongs to another snapshot"
    if manifest.digest != record.manifest_digest or not manifest.complete:
        return f"the manifest {record.manifest_digest} is damaged"
    files = []
    aliases = []
    for file in manifest.files:
        digest = str(file.sha256)
        blob = index.blob(digest)
        # What should be there, not what is: the first quick check then finds every difference.
        expected = (blob.size, blob.mtime_ns, blob.inode) if blob else _stat(paths.snapshot(*key) / file.path)
        files.append(FileRow(file.path, digest, *expected))
        if blob:
            aliases += [(alias, digest) for alias in alias_keys(file, key[0], manifest.source, manifest.revision)]
    # It may have been current at any time since it was published; whoever started since then may be using it.
    index.add_snapshot(record, manifest.source, files, None, last_used=last_used, current_since=record.published_at)
    index.set_aliases(aliases)
    return None


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.lstat()
    except OSError:
        return (0, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def _remove_unusable(paths: CachePaths, key: Key) -> None:
    """Takes a directory away whose content cannot be known. Nothing is lost: its bytes are still in blobs/."""
    staged = paths.staging / uuid.uuid4().hex
    paths.snapshot(*key).rename(staged)
    remove_record(paths, key)
    remove_tree(staged)


def remove_record(paths: CachePaths, key: Key) -> None:
    """Removes the record of a publication. Idempotent."""
    path = paths.record(*key)
    path.unlink(missing_ok=True)
    remove_empty_parents(path.parent, paths.records)


def _recover_currents(paths: CachePaths, index: Index, disk: OnDisk, now: float) -> None:
    """`current` on disk decides what is in force; one that leads nowhere is removed."""
    published = index.published()
    known = {row.key for row in published}
    indexed = {row.key[:2]: row.snapshot for row in published if row.current}
    for model in {row.key[:2] for row in published} | set(disk.currents):
        target = disk.currents.get(model)
        if target is not None and (*model, target) not in known:
            link = paths.current(*model)
            link.unlink()
            fsync_directory(link.parent)
            remove_empty_parents(link.parent, paths.models)
            target = None
        if indexed.get(model) != target:
            index.set_current(*model, target, now)


def _remove_unclaimed_hub(paths: CachePaths, claimed: Iterable[tuple[str, str]]) -> None:
    """Removes repositories of the hub view that no snapshot claims. Only after a rebuild: otherwise the index knows."""
    wanted = {paths.hub_repo(namespace, repo) for namespace, repo in claimed}
    for namespace in _directories(paths.hub, []):
        for repo in _directories(Path(namespace.path), []):
            if Path(repo.path) not in wanted and repo.name.startswith("models--"):
                remove_tree(Path(repo.path))
        remove_empty_parents(Path(namespace.path), paths.hub)
