"""Reads content again and again, the longest unread first: only reading finds what a disk has done by itself.

A blob and its published files are one inode, so the scrub goes by content, not by model: each inode is read once, however
many revisions share it. When a blob was read last is in the index, so a restart does not begin anew. The age of a
verification decides, and one that lies in the future (the clock was set back since) has no age that could be trusted: it
counts as due, which costs a read and no more.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from agent.store import checking, repair
from agent.store.checking import Problem
from agent.store.durable import fsync_directory, place_link
from agent.store.errors import io_errors
from agent.store.index import Index
from agent.store.mending import PIECE_BYTES, hub_directory, quick_check
from agent.store.rows import BlobRow, FileRow
from agent.store.watching import Touched
from modelcache.paths import CachePaths, hub_directory_name

Key = tuple[str, str, str]
"""Namespace, name and snapshot."""


class Schedule(NamedTuple):
    """The contents to be read now, the longest unread first, and the seconds until the next one is due (None: never).

    `total` is the number of all contents; all of them have been read since `oldest` (Unix seconds; None: not all).
    """

    due: tuple[str, ...]
    wait: float | None
    total: int
    oldest: float | None


def schedule(blobs: Iterable[BlobRow], now: float, interval: float) -> Schedule:
    """What is to be read when everything is to be read every `interval` seconds. `now` in Unix seconds."""
    due: list[tuple[float, str]] = []
    wait: float | None = None
    total, oldest = 0, now
    for blob in blobs:
        since = blob.verified_at
        total += 1
        oldest = min(oldest, float("-inf") if since is None else since)
        if since is None or since > now:
            due.append((float("-inf"), blob.sha256))
        elif since + interval <= now:
            due.append((since, blob.sha256))
        else:
            left = since + interval - now
            wait = left if wait is None else min(wait, left)
    read = total and oldest != float("-inf")
    return Schedule(tuple(sha256 for _, sha256 in sorted(due)), 0.0 if due else wait, total, oldest if read else None)


class Patrol:
    """Looks at a store from the outside in. Blocking; from any thread. Raises IndexFailed and StoreIOError."""

    def __init__(
        self, paths: CachePaths, index: Index, tree: AbstractContextManager[bool], clock: Callable[[], float]
    ) -> None:
        self._paths = paths
        self._index = index
        self._tree = tree
        self._clock = clock

    def schedule(self, interval: float) -> Schedule:
        """See the function."""
        return schedule(self._index.blobs(), self._clock(), interval)

    def altered_blobs(self) -> list[str]:
        """The contents whose file in blobs/ is not as it was. Reads nothing."""
        return [
            blob.sha256
            for blob in self._index.blobs()
            if checking.compare(str(self._paths.blob(blob.sha256)), FileRow("", *blob[:4])) is not None
        ]

    def concerned(self, touched: Touched) -> list[Key]:
        """The snapshots that may have changed where something was touched."""
        if touched.sha256:
            return sorted({user[:3] for user in self._index.users_of(touched.sha256)})
        return [
            row.key
            for row in self._index.published()
            if touched.namespace in ("", row.namespace)
            and touched.name in ("", row.name)
            and (not touched.repo or (row.hub is not None and hub_directory_name(row.hub.repo_id) == touched.repo))
        ]

    def look(self, key: Key) -> list[Problem]:
        """What is wrong with a snapshot at first sight; nothing when it is not published (any more)."""
        with self._tree:
            row = self._index.snapshot(*key)
            return quick_check(self._paths, self._index, row) if row is not None else []

    def scrub(self, sha256: str, paid: Callable[[int], None]) -> list[Key]:
        """Reads every file with this content; the snapshots that have to be put right because of what was found.

        Damage is remembered before this returns, so that no crash makes anybody believe in it again. `paid` is called with
        the bytes of each read: it limits, and may raise to stop.
        """
        users = self._index.users_of(sha256)
        if not repair.heal(self._paths, self._index, sha256, self._tree, self._clock, paid):
            return sorted({user[:3] for user in users})
        good = self._paths.blob(sha256)
        damaged: set[Key] = set()
        for *snapshot, path in users:
            key = (snapshot[0], snapshot[1], snapshot[2])
            row = self._index.snapshot(*key)
            published = self._paths.snapshot(*key) / path
            if not self._is_right(published, good, sha256, paid):
                damaged.add(key)
                with self._tree:
                    # No file has this inode: from now on the quick check finds a difference.
                    blob = good.stat()
                    self._index.update_file(*key, FileRow(path, sha256, blob.st_size, blob.st_mtime_ns, 0))
            view = hub_directory(self._paths, row) if row is not None else None
            if view is not None and not self._is_right(view / path, good, sha256, paid):
                # Nothing remembers this one: it is put right on the spot.
                with self._tree, io_errors("restore", view / path):
                    place_link(good, view / path, self._paths.staging)
                    fsync_directory((view / path).parent)
                damaged.add(key)
        return sorted(damaged)

    def _is_right(self, place: Path, good: Path, sha256: str, paid: Callable[[int], None]) -> bool:
        """Whether `place` is the inode that was just found good, or a file of its own with the same content."""
        try:
            found, blob = place.lstat(), good.lstat()
            if found.st_ino == blob.st_ino:
                return True
            if not stat.S_ISREG(found.st_mode):
                return True  # the quick check sees that
            return checking.digest_file(place, PIECE_BYTES, paid).sha256 == sha256
        except OSError:
            return True  # as before
