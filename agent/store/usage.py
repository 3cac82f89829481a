"""Who uses what on this node, and when it was used last: what eviction and removal are decided on.

The controller tells which pods use which models and since when; the agent keeps it here, so that a restart without a
controller does not forget it. A pod uses a *directory*, and which one that is follows from time: `current` is a symbolic
link that a process resolves when it pleases, so a pod counts as a user of every revision that was current at any moment
since it started. That may be one more than it really reads, never one less. A pod that mounts the directory of one
snapshot uses exactly that one.

`last_used` is kept twice, because the index can be lost: in the index and as the mtime of the record of the publication.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

from agent.store.index import Index
from agent.store.rows import PublishedSnapshot
from modelcache.paths import CachePaths

CLOCK_SLACK = 2.0
"""Seconds. The API has start times in whole seconds, and a pod starts a moment before or after what it says."""

_COLUMNS = "pod_uid, pod, kind, since, namespace, name, snapshot"


class User(NamedTuple):
    """One pod's use of a model. `pod` is `namespace/name`; `kind` says how it is known (`mount`, `annotation`, `lora`, ...).

    `since` is when the pod started, in Unix seconds. `name` empty: every model of `namespace`. `snapshot` is the directory
    that is used, empty for whatever was current since then.
    """

    pod_uid: str
    pod: str
    kind: str
    since: float
    namespace: str
    name: str
    snapshot: str = ""

    def uses_model(self, namespace: str, name: str) -> bool:
        """Whether this is about a model."""
        return self.namespace == namespace and self.name in ("", name)

    def uses(self, row: PublishedSnapshot) -> bool:
        """Whether a published directory has to stay for this pod."""
        if not self.uses_model(row.namespace, row.name):
            return False
        if self.snapshot:
            return row.snapshot == self.snapshot
        if row.current:
            return True
        began = row.current_since is not None
        return began and (row.current_until is None or row.current_until >= self.since - CLOCK_SLACK)


def users_of(row: PublishedSnapshot, users: Iterable[User]) -> tuple[str, ...]:
    """The pods (`namespace/name`, sorted) for which a published directory has to stay."""
    return tuple(sorted({user.pod for user in users if user.uses(row)}))


class Usage:
    """The users of one store. Thread-safe; blocks for the disk. Raises IndexFailed."""

    def __init__(
        self,
        paths: CachePaths,
        index: Index,
        tree: AbstractContextManager[bool],
        clock: Callable[[], float],
    ) -> None:
        """`tree` is the lock of the store under which published directories change."""
        self._paths = paths
        self._index = index
        self._tree = tree
        self._clock = clock

    def users(self) -> list[User]:
        """Everybody, as told last; also by a former process."""
        return [User(*row) for row in self._index.rows(f"SELECT {_COLUMNS} FROM users ORDER BY pod, {_COLUMNS}")]  # noqa: S608

    def set_users(self, users: Collection[User]) -> None:
        """Replace them all. What was in use until now, or is from now on, was used now."""
        with self._tree:
            before = self.users()
            if set(before) != set(users):
                with self._index.transaction() as cursor:
                    cursor.execute("DELETE FROM users")
                    cursor.executemany(
                        f"INSERT OR REPLACE INTO users ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                        users,
                    )
            self._touch({*before, *users})

    def touch(self) -> None:
        """Everything that is in use was used now. Call it now and then, so that a crash loses little."""
        with self._tree:
            self._touch(set(self.users()))

    def _touch(self, users: set[User]) -> None:
        self.note(row.key for row in self._index.published() if any(user.uses(row) for user in users))

    def note(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """These snapshots (namespace, name, snapshot) were used now."""
        now = self._clock()
        used = list(keys)
        with self._index.transaction() as cursor:
            cursor.executemany(
                "UPDATE snapshots SET last_used = ? WHERE namespace = ? AND name = ? AND snapshot = ?",
                [(now, *key) for key in used],
            )
        for key in used:
            with suppress(OSError):  # a record that is missing is written again at the next start
                os.utime(self._paths.record(*key), (now, now))
