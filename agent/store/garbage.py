"""What may be deleted: everything that no published snapshot refers to and nobody has asked to keep.

Pure: from sets to sets. `agent.store.store` collects the sets and deletes.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple

NOTHING: frozenset[str] = frozenset()


class Keep(NamedTuple):
    """What must stay although no snapshot refers to it: digests of blobs, keys of partials, digests of manifests."""

    blobs: AbstractSet[str] = NOTHING
    partials: AbstractSet[str] = NOTHING
    manifests: AbstractSet[str] = NOTHING


class Existing(NamedTuple):
    """What lies on the disk."""

    blobs: AbstractSet[str]
    partials: AbstractSet[str]
    manifests: AbstractSet[str]


class Garbage(NamedTuple):
    """What may go, sorted."""

    blobs: tuple[str, ...]
    partials: tuple[str, ...]
    manifests: tuple[str, ...]


class Removed(NamedTuple):
    """What garbage collection deleted, and how many bytes of the disk that freed."""

    garbage: Garbage
    bytes: int


def garbage(
    existing: Existing, referenced_blobs: AbstractSet[str], referenced_manifests: AbstractSet[str], keep: Keep
) -> Garbage:
    """What may be deleted."""
    return Garbage(
        blobs=tuple(sorted(existing.blobs - referenced_blobs - keep.blobs)),
        partials=tuple(sorted(existing.partials - keep.partials)),
        manifests=tuple(sorted(existing.manifests - referenced_manifests - keep.manifests)),
    )
