"""The cache on one node's disk. The layout is `modelcache.paths` and docs/on-disk-format.md.

Content is kept by digest in blobs/, models are published as directories of hard links to it, and an index in SQLite knows
both; the index can be lost. Synchronous and thread-safe: call it through `asyncio.to_thread`.

    with Store.open(root) as store:                         # StoreLocked, StoreUnusable; store.report: RecoveryReport
        with store.hold() as hold:                          # keeps what arrives from garbage collection
            digests = downloader.fetch(namespace, manifest, locate, hold=hold, ...)     # see agent.transfer
            complete = manifest.with_sha256(digests)
            store.publish(namespace, name, complete, hub=HubClaim(repo_id=..., commit=..., ref="main"))
        store.set_current(namespace, name, complete.snapshot)                # atomically; names in the hub view follow
        store.collect_garbage(Keep(blobs=..., partials=..., manifests=...))  # what nothing refers to, but for these

    What is there      published() -> list[PublishedSnapshot], snapshot(ns, name, snapshot), manifest(digest),
                       has_blob(sha256), blob(sha256), blob_for(alias), pieces(sha256)
    Publishing         save_manifest(manifest), publish(...), set_current(...)
    In use             usage.set_users([User]), usage.users(), usage.touch(), users_of(row, users)
    Removing           remove_snapshot(ns, name, snapshot), remove_model(ns, name), collect_garbage(keep) -> Removed
    How much           census.snapshots(), census.blobs(), census.occupied()
    Checking           quick_check(ns, name, snapshot) -> list[Problem]   lstat only, at every start
                       deep_check(ns, name, snapshot, paid) -> list[Problem]   reads everything; `paid` limits and cancels
    Mending            verify_blob(sha256) -> whether there is good content; else fetch (it begins with `remains(sha256)`),
                       then restore(ns, name, snapshot); relink(sha256) for a deleted blob, drop_blob(sha256) for a bad one
    For the transfer   commit_blobs([NewBlob]), verify_blob(sha256), hold()
    For whom           admissions.holds(ns, sha256), admissions.admit(ns, [sha256]), admissions.refuse(ns, sha256)

Errors are the tree in `agent.store.errors`, with StoreError at its root.
"""

from agent.store.checking import Problem, ProblemKind
from agent.store.errors import (
    BlobMissing,
    IncompleteManifest,
    IndexFailed,
    IndexLocked,
    NotAdmitted,
    NotPublished,
    PublishConflict,
    RecordError,
    StoreError,
    StoreFull,
    StoreIOError,
    StoreLocked,
    StoreUnusable,
)
from agent.store.garbage import Garbage, Keep, Removed
from agent.store.hold import Hold
from agent.store.records import DELETED, HubClaim, Policy
from agent.store.recovery import RecoveryReport
from agent.store.repair import Remains
from agent.store.rows import PublishedSnapshot
from agent.store.store import NewBlob, Store
from agent.store.usage import User, users_of

__all__ = [
    "DELETED",
    "BlobMissing",
    "Garbage",
    "Hold",
    "HubClaim",
    "IncompleteManifest",
    "IndexFailed",
    "IndexLocked",
    "Keep",
    "NewBlob",
    "NotAdmitted",
    "NotPublished",
    "Policy",
    "Problem",
    "ProblemKind",
    "PublishConflict",
    "PublishedSnapshot",
    "RecordError",
    "RecoveryReport",
    "Remains",
    "Removed",
    "Store",
    "StoreError",
    "StoreFull",
    "StoreIOError",
    "StoreLocked",
    "StoreUnusable",
    "User",
    "users_of",
]
