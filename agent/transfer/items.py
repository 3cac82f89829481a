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
    flights: tuple[str, ...]
    """What other downloads do not fetch at the same time; see `agent.transfer.flights`."""
    partial: PartialFile | None = None
    follower: Follower | None = None
    claimed: bool = False
    fetched_again: bool = False
    synced_at: float = 0.0
    """When its finished pieces were last made durable, or when it was begun: seconds of the monotonic clock."""


def itemize(namespace: str, manifest: Manifest, piece_bytes: int, together: str = "") -> list[Item]:
    """One item for each content, the largest first (see `agent.transfer.plan`). `together` as in `flight_keys`."""
    items: dict[str, Item] = {}
    for file in manifest.files:
        key = partial_key(namespace, manifest.source, manifest.revision, file.path, file.sha256)
        if key in items:
            items[key].paths += (file.path,)
        else:
            pieces = piece_count(file.size, piece_bytes)
            items[key] = Item(key, file, (file.path,), pieces, flight_keys(key, file, together))
    return sorted(items.values(), key=lambda item: (-item.file.size, item.file.path))


def flight_keys(key: str, file: ManifestFile, together: str) -> tuple[str, ...]:
    """The keys of a content's flight: that of its partial, and with `together` one for all namespaces.

    Two tenants who want the same are better served by one download, and by a proof for the second. But whoever waits depends
    on the other's source: a tenant with a source of his own could name the content that he does not want another to get, and
    send it slowly. So `together` is the name of an origin that no tenant controls, or empty.
    """
    return (key, f"{together} {file.sha256}") if together and file.sha256 is not None else (key,)


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
