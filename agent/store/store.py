"""The cache on one node's disk: content by digest, published directories, and the index that knows both.

Every public method may be called from any thread, and blocks for disk I/O. The order of writes inside each is chosen for
the crash after it (see `agent.store.recovery` for the list of states); the comment at each sync says which crash it is
for.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from agent.store import checking, hubtree, layout, mending, recovery, repair
from agent.store.admission import Admissions
from agent.store.census import Census
from agent.store.checking import Problem
from agent.store.durable import (
    blocks_of,
    fsync_directory,
    link_tree,
    make_all,
    make_directories,
    remove_empty_parents,
    remove_tree,
    replace_symlink,
    sync_all,
    unlink_freeing,
    write_file,
)
from agent.store.errors import (
    IncompleteManifest,
    NotAdmitted,
    NotPublished,
    PublishConflict,
    StoreIOError,
    io_errors,
)
from agent.store.garbage import Existing, Keep, Removed, garbage
from agent.store.hold import Hold
from agent.store.index import Index
from agent.store.mending import PIECE_BYTES
from agent.store.records import DELETED, HubClaim, Policy, Publication
from agent.store.repair import Remains
from agent.store.rows import BlobRow, PublishedSnapshot
from agent.store.scrub import Patrol
from agent.store.usage import Usage
from agent.store.vitals import Vitals, vitals
from modelcache.manifest import Manifest, ManifestError
from modelcache.paths import CachePaths


class NewBlob(NamedTuple):
    """A file with checked content that is to become a blob.

    `piece_digests` are the xxh3-128 of each `piece_bytes` (16 bytes each, one after the other), empty when not known.
    `aliases` are other keys under which the content will be asked for (see `agent.store.records.alias_keys`).
    """

    path: Path
    sha256: str
    size: int
    piece_bytes: int = PIECE_BYTES
    piece_digests: bytes = b""
    aliases: tuple[str, ...] = ()


class Store:
    """A cache root that this process owns. Get one with `Store.open`; close it, or use it as a context manager."""

    def __init__(self, paths: CachePaths, index: Index, lock: int, clock: Callable[[], float]) -> None:
        self.paths = paths
        self.report = recovery.RecoveryReport()
        self._index = index
        self._lock_descriptor = lock
        self._clock = clock
        # One writer of the tree at a time. Never held while the content of files is read, hashed or synced.
        self._tree = threading.RLock()
        self.patrol = Patrol(paths, index, self._tree, clock)
        """Finds out what is not as it should be, see there."""
        self._holds: list[Hold] = []
        self.census = Census(paths, index)
        self.usage = Usage(paths, index, self._tree, clock)
        self.admissions = Admissions(index)
        """Which namespaces may be given which content."""

    @staticmethod
    def open(root: Path, clock: Callable[[], float] = time.time) -> Store:
        """Takes possession of `root` and brings disk and index into agreement; `report` says what was done.

        Raises StoreLocked (another agent is on it), StoreUnusable (it cannot hold a cache), StoreIOError or IndexFailed.
        """
        paths = CachePaths(root.absolute())
        lock = layout.acquire_lock(paths)
        try:
            layout.prepare(paths)
            index, reason = layout.open_index(paths)
            try:
                store = Store(paths, index, lock, clock)
                with io_errors("recover", paths.root):
                    store.report = recovery.recover(paths, index, reason, clock())
            except BaseException:
                index.close()
                raise
            return store
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Closes the index and lets another agent have the root."""
        self._index.close()
        os.close(self._lock_descriptor)

    def vitals(self) -> Vitals:
        """Whether the root is still there, and still ours."""
        return vitals(self.paths, self._lock_descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Blobs

    def blob(self, sha256: str) -> BlobRow | None:
        """What is known about a blob. `verified_at` None: the index was rebuilt since; `verify_blob` before use."""
        return self._index.blob(sha256)

    def has_blob(self, sha256: str) -> bool:
        """Whether the content with this digest is here and verified."""
        row = self._index.blob(sha256)
        return row is not None and row.verified_at is not None

    def blob_for(self, key: str) -> str | None:
        """The digest of the blob that is also known as `key` (see `agent.store.records.alias_keys`)."""
        digest = self._index.alias(key)
        return digest if digest is not None and self._index.blob(digest) is not None else None

    def pieces(self, sha256: str) -> tuple[int, bytes] | None:
        """Bytes of a piece and the xxh3-128 of all pieces of a blob (16 bytes each); None when they are not known."""
        return self._index.pieces(sha256)

    def hold(self) -> Hold:
        """Keeps what is added to it from `collect_garbage` while it is entered."""
        return Hold(self._holds, self._tree)

    def commit_blobs(self, new: Sequence[NewBlob]) -> None:
        """Moves files with checked content into blobs/. Idempotent; many at once share their syncs.

        The files must lie below the cache root and must not be written any more. Raises StoreIOError.
        """
        rows = {}
        for blob in new:
            with io_errors("make a blob of", blob.path):
                descriptor = os.open(blob.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fchmod(descriptor, 0o444)
                    found = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
            if found.st_size != blob.size:
                raise StoreIOError(
                    f"{blob.path} has {found.st_size} bytes, {blob.size} were written: somebody changed it"
                )
            rows[blob.sha256] = BlobRow(blob.sha256, found.st_size, found.st_mtime_ns, found.st_ino, self._clock())
        with io_errors("sync", self.paths.partial):
            # Crash after the renames below: what has a digest for a name must have its content.
            sync_all([blob.path for blob in new])
        with self._tree:
            with io_errors("create directories in", self.paths.blobs):
                fans = {self.paths.blob(blob.sha256).parent for blob in new}
                make_all(fans, self.paths.blobs, layout.PRIVATE)
            for blob in new:
                with io_errors("make a blob of", blob.path):
                    if mending.is_usable(self.paths, self._index, blob.sha256):
                        # Kept: published files are links to it, and two inodes of one content would be wasted space.
                        blob.path.unlink()
                        rows.pop(blob.sha256, None)
                    else:
                        blob.path.rename(self.paths.blob(blob.sha256))
            with io_errors("sync", self.paths.blobs):
                # Crash after the index says that a blob is here: its name has to be on disk as well.
                sync_all(fans)
            self._index.add_blobs(rows.values())
            self._index.set_pieces((b.sha256, b.piece_bytes, b.piece_digests) for b in new if b.piece_digests)
            self._index.set_aliases((alias, blob.sha256) for blob in new for alias in blob.aliases)

    def verify_blob(self, sha256: str, paid: Callable[[int], None] = lambda count: None) -> bool:
        """Reads a blob and compares its digest; whether it is here and right afterwards.

        In place of a damaged or missing one, a published file with the right content becomes the blob. Where there is
        none, it is dropped, so that it is fetched again; `remains` says what of it need not be. Raises StoreIOError.
        """
        return repair.heal(self.paths, self._index, sha256, self._tree, self._clock, paid)

    def remains(self, sha256: str) -> Remains | None:
        """What is left of content that was dropped because it was damaged: a download begins with what is good in it."""
        return repair.remains(self.paths, self._index, sha256)

    def relink(self, sha256: str) -> bool:
        """Gives a blob that somebody deleted its name back from a published file; whether it is in its place. Quick."""
        with self._tree, io_errors("link back", self.paths.blob(sha256)):
            return repair.relink(self.paths, self._index, sha256)

    def check_pieces(self, sha256: str, paid: Callable[[int], None] = lambda count: None) -> tuple[int, ...] | None:
        """Reads a blob and compares the recorded digests of its pieces: the numbers of those that are damaged.

        None when no digests are recorded; `verify_blob` does that. Fast, see `checking.damaged_pieces`, but no proof
        against an attacker: nothing becomes verified by it. `paid` is called from several threads. Raises StoreIOError.
        """
        known = self._index.pieces(sha256)
        if known is None:
            return None
        path = self.paths.blob(sha256)
        with io_errors("read", path):
            return checking.damaged_pieces(path, *known, paid)

    def drop_blob(self, sha256: str) -> None:
        """Removes a blob that is known to be damaged. Published links to it stay until `restore` replaces them."""
        path = self.paths.blob(sha256)
        with self._tree, io_errors("remove", path):
            # Row first: after a crash in between, recovery adopts the file as unverified, and it is read before use.
            self._index.drop_blob(sha256)
            path.unlink(missing_ok=True)
            # Crash after we return: a damaged blob must not come back.
            fsync_directory(path.parent)

    # Manifests

    def save_manifest(self, manifest: Manifest) -> str:
        """Keeps a manifest and returns its digest."""
        digest = manifest.digest
        path = self.paths.manifest(digest)
        with io_errors("write", path):
            if not path.exists():
                write_file(path, manifest.encode(), self.paths.staging, 0o600)
        return digest

    def manifest(self, digest: str) -> Manifest | None:
        """A kept manifest, checked; None when it is not here or was damaged."""
        try:
            return Manifest.decode_known(self.paths.manifest(digest).read_bytes(), digest)
        except (OSError, ManifestError):
            return None

    # Snapshots

    def published(self) -> list[PublishedSnapshot]:
        """Everything that is published, from the index alone."""
        return self._index.published()

    def snapshot(self, namespace: str, name: str, snapshot: str) -> PublishedSnapshot | None:
        """One published snapshot."""
        return self._index.snapshot(namespace, name, snapshot)

    def publish(
        self,
        namespace: str,
        name: str,
        manifest: Manifest,
        hub: HubClaim | None = None,
        policy: Policy = DELETED,
    ) -> PublishedSnapshot:
        """Makes a complete manifest visible as `models/<namespace>/<name>/<snapshot>` and in the hub view. Idempotent.

        A reader sees the whole directory or none. `current` is not changed. All blobs have to be here and verified, and
        admitted for the namespace. `policy` is taken over for all snapshots of the model.
        Raises IncompleteManifest, BlobMissing, NotAdmitted, PublishConflict, RecordError (a claim that is not a safe path),
        StoreIOError.
        """
        if not manifest.complete:
            raise IncompleteManifest(f"{manifest.source} at {manifest.revision} has files without sha256")
        if hub is not None:
            hub.check()
        digest = manifest.digest
        target = self.paths.snapshot(namespace, name, manifest.snapshot)
        with self._tree, io_errors("publish", target):
            existing = self._index.snapshot(namespace, name, manifest.snapshot)
            if existing is not None:
                if existing.manifest_digest != digest:
                    raise PublishConflict(f"{target} is published with other content; remove that snapshot first")
                self.save_manifest(manifest)  # it may have been lost
                self._claim(existing, hub)
                self._set_policy(namespace, name, policy)
                return self._required(*existing.key)
            verified_at = min(mending.usable_blob(self.paths, self._index, str(file.sha256)) for file in manifest.files)
            for file in manifest.files:
                if not self.admissions.holds(namespace, str(file.sha256)):
                    raise NotAdmitted(
                        f"{file.path}: {namespace} has not shown that it may read {file.sha256}; download it"
                    )
            # In this order, so that recovery finds manifest and record for every directory that became visible.
            self.save_manifest(manifest)
            record = Publication(
                namespace=namespace,
                name=name,
                snapshot=manifest.snapshot,
                manifest_digest=digest,
                published_at=self._clock(),
                hub=hub,
                retain=policy.retain,
                pinned=policy.pinned,
                keyless=policy.keyless,
            )
            if os.path.lexists(target):
                # Ours, if the index failed in the last step of an earlier call.
                if not recovery.has_record(self.paths, record):
                    raise PublishConflict(f"{target} exists and was not made by this agent; move it away")
                recovery.write_record(self.paths, record, record.published_at)
                files = [mending.expected_row(self._index, file.path, str(file.sha256)) for file in manifest.files]
            else:
                self._build(target, record, manifest)
                files = [mending.file_row(target, file.path, str(file.sha256)) for file in manifest.files]
            # Crash after the node is labelled: the directory has to be there.
            fsync_directory(target.parent)
            self._index.add_snapshot(record, manifest.source, files, verified_at)
            self._set_policy(namespace, name, policy)
            self._refresh_hub()
        return self._required(namespace, name, manifest.snapshot)

    def set_current(self, namespace: str, name: str, snapshot: str) -> None:
        """Flips `current` of a model; names in the hub view follow. Raises NotPublished, StoreIOError."""
        link = self.paths.current(namespace, name)
        with self._tree, io_errors("switch", link):
            self._required(namespace, name, snapshot)
            replace_symlink(link, snapshot, self.paths.staging)
            self._index.set_current(namespace, name, snapshot, self._clock())
            self.usage.note([(namespace, name, snapshot)])
            self._refresh_hub()

    def release(self, namespace: str, name: str) -> None:
        """Takes `current` of a model away; its snapshots stay, as cache. Idempotent. Raises StoreIOError."""
        link = self.paths.current(namespace, name)
        with self._tree, io_errors("remove", link):
            if link.is_symlink():
                link.unlink()
                # Crash after the finalizer is gone: nobody may be sent to a model that is no more.
                fsync_directory(link.parent)
            self._index.set_current(namespace, name, None, self._clock())
            self._refresh_hub()

    def remove_snapshot(self, namespace: str, name: str, snapshot: str, *, spare_current: bool = False) -> None:
        """Takes one snapshot out of the published tree and the hub view. Blobs stay until `collect_garbage`. Idempotent.

        With `spare_current`, one that is in force stays as it is.
        """
        target = self.paths.snapshot(namespace, name, snapshot)
        with self._tree, io_errors("remove", target):
            row = self._index.snapshot(namespace, name, snapshot)
            if row is not None and row.current:
                if spare_current:
                    return
                self.paths.current(namespace, name).unlink(missing_ok=True)
            self._take_away(target, [(namespace, name, snapshot)])

    def remove_model(self, namespace: str, name: str) -> None:
        """Takes all snapshots of a model away, by one rename. Blobs stay until `collect_garbage`. Idempotent."""
        target = self.paths.model(namespace, name)
        with self._tree, io_errors("remove", target):
            keys = [row.key for row in self._index.published() if (row.namespace, row.name) == (namespace, name)]
            self._take_away(target, keys)

    def collect_garbage(self, keep: Keep = Keep()) -> Removed:  # noqa: B008 -- immutable
        """Deletes blobs, partials and manifests that nothing refers to, nobody holds, and `keep` does not name."""
        freed = 0
        with self._tree, io_errors("collect garbage in", self.paths.root):
            everything = Keep(
                blobs=set(keep.blobs).union(*(hold.blobs for hold in self._holds)),
                partials=set(keep.partials).union(*(hold.partials for hold in self._holds)),
                manifests=keep.manifests,
            )
            existing = Existing(
                blobs=self._index.blob_digests(),
                partials={entry.name for entry in os.scandir(self.paths.partial)},
                manifests={entry.name for entry in os.scandir(self.paths.manifests)},
            )
            manifests = {row.manifest_digest for row in self._index.published()}
            chosen = garbage(existing, self._index.referenced(), manifests, everything)
            for path in (*map(self.paths.blob, chosen.blobs), *map(self.paths.manifest, chosen.manifests)):
                freed += unlink_freeing(path)
            # After the files: a crash in between leaves rows without files, which recovery forgets.
            self._index.forget_blobs(chosen.blobs)
            self._index.forget_pieces()
            for key in chosen.partials:
                path = self.paths.partial_file(key)
                freed += blocks_of(path)
                remove_tree(path)
        return Removed(chosen, freed)

    # Checking and mending

    def quick_check(self, namespace: str, name: str, snapshot: str) -> list[Problem]:
        """Compares a snapshot and its part of the hub view with the index, without reading content.

        Raises NotPublished.
        """
        with self._tree:  # not in the middle of a change of our own
            return mending.quick_check(self.paths, self._index, self._required(namespace, name, snapshot))

    def deep_check(
        self, namespace: str, name: str, snapshot: str, paid: Callable[[int], None] = lambda count: None
    ) -> list[Problem]:
        """Reads every file of a snapshot, its blobs and its part of the hub view, each inode once.

        `paid` is called with the bytes of each read: let it wait for a bandwidth limit, or raise to stop. Files whose
        content is right although they were touched are taken as they are; a lost blob of right content is linked back.
        When everything is right, `verified_at` is set. Raises NotPublished, StoreIOError.
        """
        row = self._required(namespace, name, snapshot)
        return mending.deep_check(self.paths, self._index, row, self._tree, self._clock, paid)

    def restore(self, namespace: str, name: str, snapshot: str) -> list[Path]:
        """Puts a link to its blob in place of every published file that is not one, and removes what does not belong.

        Readers that have the old file open keep it. Returns what was changed. Raises NotPublished, StoreIOError;
        BlobMissing when content has to be fetched first.
        """
        with self._tree, io_errors("restore", self.paths.snapshot(namespace, name, snapshot)):
            changed = mending.restore(self.paths, self._index, self._required(namespace, name, snapshot))
            self._refresh_hub()
        return changed

    # Parts

    def _required(self, namespace: str, name: str, snapshot: str) -> PublishedSnapshot:
        row = self._index.snapshot(namespace, name, snapshot)
        if row is None:
            raise NotPublished(f"{namespace}/{name} has no snapshot {snapshot} on this node")
        return row

    def _build(self, target: Path, record: Publication, manifest: Manifest) -> None:
        """Record and directory of a publication, in this order, so that recovery knows what became visible."""
        recovery.write_record(self.paths, record, record.published_at)
        staged = self.paths.staging / uuid.uuid4().hex
        try:
            link_tree(((file.path, self.paths.blob(str(file.sha256))) for file in manifest.files), staged)
            make_directories(target.parent, self.paths.root, layout.PUBLIC)
            # The moment of publication.
            staged.rename(target)
        except BaseException:
            remove_tree(staged)
            recovery.remove_record(self.paths, (record.namespace, record.name, record.snapshot))
            raise

    def _claim(self, existing: PublishedSnapshot, hub: HubClaim | None) -> None:
        """The same content under another branch or tag: only the claim changes."""
        if existing.hub != hub:
            recovery.write_record(self.paths, existing._replace(hub=hub).publication, existing.last_used)
            self._index.set_hub(*existing.key, hub)
        self._refresh_hub()  # also where an earlier call failed just there

    def _set_policy(self, namespace: str, name: str, policy: Policy) -> None:
        for row in self._index.published():
            if (row.namespace, row.name) == (namespace, name) and row.policy != policy:
                recovery.write_record(self.paths, row._replace(policy=policy).publication, row.last_used)
        self._index.set_policy(namespace, name, policy)

    def _refresh_hub(self) -> None:
        for namespace, repo in self._index.hub_dirty():
            hubtree.refresh(self.paths, self._index, namespace, repo)

    def _take_away(self, target: Path, keys: list[tuple[str, str, str]]) -> None:
        """Out of sight by one rename, then the index, then the hub view, then the files."""
        staged = self.paths.staging / uuid.uuid4().hex
        if os.path.lexists(target):
            # The moment of removal: a crash afterwards is completed by recovery, which finds no directory.
            target.rename(staged)
            # Crash after the finalizer is gone: the directory must not come back.
            fsync_directory(target.parent)
        try:
            remove_empty_parents(target.parent, self.paths.models)
            self._index.remove_snapshots(keys)
            self._refresh_hub()
            for key in keys:
                recovery.remove_record(self.paths, key)
        finally:
            # Also when the index fails: it is out of sight, and whoever tries again finds nothing to move here.
            remove_tree(staged)
