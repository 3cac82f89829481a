"""What goes when room is needed: least recently used first, and only what nothing and nobody wants.

Pure: from what is there to what goes. The order is strict: nothing goes while something that was used earlier, and whose
going frees room as well, stays. Content that several snapshots share counts once, and is freed only with the last of them;
a snapshot that frees nothing, because something that stays shares everything it has, is not among the victims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

Key = tuple[str, str, str]


class Revision(NamedTuple):
    """A published snapshot. `blobs`: bytes on the disk by digest. `kept`: why it has to stay, empty when it may go."""

    key: Key
    last_used: float
    blobs: Mapping[str, int]
    kept: str = ""


class Eviction(NamedTuple):
    """Which snapshots go, in this order, and how many bytes of the disk that frees."""

    victims: tuple[Key, ...] = ()
    bytes: int = 0


NOTHING = Eviction()


def evict(revisions: Sequence[Revision], need: int) -> Eviction:
    """What has to go to free `need` bytes; all that may go when that is not enough."""
    if need <= 0:
        return NOTHING
    references = Counter(digest for revision in revisions for digest in revision.blobs)
    chosen: list[Revision] = []
    freed = 0
    for revision in in_order(revisions):
        if freed >= need:
            break
        chosen.append(revision)
        freed += _let_go(revision, references)
    return Eviction(tuple(revision.key for revision in chosen if _frees(revision, references)), freed)


def evictable(revisions: Sequence[Revision]) -> int:
    """Bytes of the disk that become free when everything goes that may go."""
    stays = {digest for revision in revisions if revision.kept for digest in revision.blobs}
    goes = {digest: size for revision in revisions if not revision.kept for digest, size in revision.blobs.items()}
    return sum(size for digest, size in goes.items() if digest not in stays)


def just(revisions: Sequence[Revision], keys: Collection[Key]) -> Eviction:
    """These, but for those that have to stay."""
    chosen = [r if r.key in keys else r._replace(kept="not asked for") for r in revisions]
    return Eviction(tuple(r.key for r in chosen if not r.kept), evictable(chosen))


def in_order(revisions: Iterable[Revision]) -> list[Revision]:
    """Those that may go, in the order in which they go. Names decide where the times are equal."""
    return sorted((r for r in revisions if not r.kept), key=lambda revision: (revision.last_used, revision.key))


def _let_go(revision: Revision, references: Counter[str]) -> int:
    freed = 0
    for digest, size in revision.blobs.items():
        references[digest] -= 1
        freed += size if not references[digest] else 0
    return freed


def _frees(revision: Revision, references: Mapping[str, int]) -> bool:
    """Whether one of the chosen has content that goes. `references` are those that are left."""
    return any(not references[digest] for digest in revision.blobs)


class Watermarks(NamedTuple):
    """Parts of the limit, from 0 to 1: above `high` room is made until no more than `low` is taken."""

    high: float
    low: float


def excess(occupied: int, limit: int | None, free: int, reserve: int, marks: Watermarks) -> int:
    """Bytes that have to go now, 0 for none.

    `occupied` is what the cache takes, `limit` what it may take (None: no limit), `free` what the file system has left, of
    which `reserve` belongs to others.
    """
    over = occupied - int(limit * marks.low) if limit is not None and occupied > limit * marks.high else 0
    return max(0, over, reserve - free)
