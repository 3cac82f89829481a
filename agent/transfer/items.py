"""The contents that a download has to bring: what a manifest's files come down to when each content counts once."""

from __future__ import annotations

from dataclasses import dataclass

from agent.transfer.errors import IntegrityError
from agent.transfer.hashing import Digests, Follower
from agent.transfer.partial import PartialFile
from agent.transfer.pieces import piece_count
from modelcache.manifest import Manifest, ManifestFile
from modelcache.paths import partial_key


@dataclass(slots=True)
class Item:
    """One content that is to be fetched, for one or more files of the manifest. There may be 200,000 of them.

    `partial` exists while the file is under way.
    """

    key: str
    file: ManifestFile
    paths: tuple[str, ...]
    pieces: int
    partial: PartialFile | None = None
    follower: Follower | None = None
    claimed: bool = False
    fetched_again: bool = False
    synced_at: float = 0.0
    """When its finished pieces were last made durable, or when it was begun: seconds of the monotonic clock."""


def itemize(namespace: str, manifest: Manifest, piece_bytes: int) -> list[Item]:
    """One item for each content, the largest first (see `agent.transfer.plan`)."""
    items: dict[str, Item] = {}
    for file in manifest.files:
        key = partial_key(namespace, manifest.source, manifest.revision, file.path, file.sha256)
        if key in items:
            items[key].paths += (file.path,)
        else:
            items[key] = Item(key, file, (file.path,), piece_count(file.size, piece_bytes))
    return sorted(items.values(), key=lambda item: (-item.file.size, item.file.path))


def mismatch(file: ManifestFile, digests: Digests) -> IntegrityError | None:
    """What is wrong with content that has these digests; None when it is what the manifest says."""
    for kind, expected, actual in (
        ("sha256", file.sha256, digests.sha256),
        ("git blob id", file.git_oid, digests.git_oid),
        ("checksum", file.checksum if file.sha256 is None else None, digests.checksum),
    ):
        if expected is not None and expected != actual:
            return IntegrityError(file.path, kind=kind, expected=expected, actual=str(actual))
    return None
