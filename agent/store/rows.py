"""What the index knows about a blob, a file and a published directory, as plain values."""

from __future__ import annotations

from typing import NamedTuple

from agent.store.records import DELETED, HubClaim, Policy, Publication


class BlobRow(NamedTuple):
    """A blob as it was when it was committed: `mtime_ns` and `inode` recognise later changes without reading it."""

    sha256: str
    size: int
    mtime_ns: int
    inode: int
    verified_at: float | None


class FileRow(NamedTuple):
    """One file of a snapshot and what `lstat` said about it when it was published."""

    path: str
    sha256: str
    size: int
    mtime_ns: int
    inode: int


class PublishedSnapshot(NamedTuple):
    """One published directory. Sizes in bytes, times in Unix seconds; `verified_at` is None until content was re-read.

    `last_used` is when it was published, switched to, or last seen in use by a pod, whichever was last. `policy` is
    the one that its DynamoModel had last. `current` pointed at it from
    `current_since` (None: never) until `current_until` (None: still, or not known because the index was rebuilt).
    """

    namespace: str
    name: str
    snapshot: str
    manifest_digest: str
    source: str
    size: int
    file_count: int
    published_at: float
    verified_at: float | None
    current: bool
    hub: HubClaim | None
    last_used: float = 0.0
    policy: Policy = DELETED
    current_since: float | None = None
    current_until: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Namespace, name and snapshot: what identifies it on this node."""
        return (self.namespace, self.name, self.snapshot)

    @property
    def publication(self) -> Publication:
        """Its record."""
        return Publication(
            namespace=self.namespace,
            name=self.name,
            snapshot=self.snapshot,
            manifest_digest=self.manifest_digest,
            published_at=self.published_at,
            hub=self.hub,
            retain=self.policy.retain,
            pinned=self.policy.pinned,
            keyless=self.policy.keyless,
        )
