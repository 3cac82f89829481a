"""The index: what is in the cache, in SQLite, so that an agent with 20,000 files knows it in milliseconds.

Everything in here can be derived from the disk (`agent.store.recovery` does it), so the index is never the only place
where a fact is kept, and losing it costs a re-check, not a download. That decides its settings:

- WAL, so that readers and the writer do not wait for each other and a commit is one append;
- `synchronous=NORMAL`: a crash of the *process* loses nothing; a power failure may lose the last transactions but never
  corrupts the file. Recovery compares index and disk at every start anyway and repairs both directions, so `FULL`
  would buy an fsync per transaction for a guarantee that the file system operations already give.

One connection, used under one lock from any thread: SQLite serialises writers anyway, and transactions here are short.

`PRAGMA user_version` is the version of the schema. A file with another version is brought to this one where that is a matter
of adding a table or a column, and else set aside and rebuilt from the disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.store.errors import IndexFailed, IndexLocked, StoreFull
from agent.store.records import HubClaim, Policy, Publication
from agent.store.rows import BlobRow, FileRow, PublishedSnapshot

SCHEMA_VERSION = 4
BUSY_SECONDS = 5.0
"""How long a statement waits for another process (a `sqlite3` shell of an administrator) that holds the database."""

_SCHEMA = """
CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, verified_at REAL
) WITHOUT ROWID;
CREATE TABLE blob_pieces (sha256 TEXT PRIMARY KEY, piece_bytes INTEGER NOT NULL, digests BLOB NOT NULL);
CREATE TABLE aliases (key TEXT PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX aliases_by_blob ON aliases (sha256);
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, snapshot TEXT NOT NULL,
    manifest_digest TEXT NOT NULL, source TEXT NOT NULL, size INTEGER NOT NULL, file_count INTEGER NOT NULL,
    published_at REAL NOT NULL, verified_at REAL, current INTEGER NOT NULL DEFAULT 0,
    hub_repo TEXT, hub_commit TEXT, hub_ref TEXT,
    last_used REAL NOT NULL, retain INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0,
    current_since REAL, current_until REAL,
    UNIQUE (namespace, name, snapshot)
);
CREATE INDEX snapshots_by_repo ON snapshots (namespace, hub_repo);
CREATE TABLE files (
    snapshot_id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, path)
) WITHOUT ROWID;
CREATE INDEX files_by_blob ON files (sha256);
CREATE TABLE users (
    pod_uid TEXT, namespace TEXT, name TEXT, snapshot TEXT, kind TEXT, pod TEXT NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (pod_uid, namespace, name, snapshot, kind)
) WITHOUT ROWID;
CREATE TABLE hub_dirty (namespace TEXT, repo TEXT, PRIMARY KEY (namespace, repo)) WITHOUT ROWID;
"""
_ADMISSIONS = """
CREATE TABLE admissions (
    sha256 TEXT, namespace TEXT, refused INTEGER NOT NULL, PRIMARY KEY (sha256, namespace)
) WITHOUT ROWID;
"""
_KEYLESS = """
ALTER TABLE snapshots ADD COLUMN keyless INTEGER NOT NULL DEFAULT 0;
"""
_UPGRADES = {2: _ADMISSIONS, 3: _KEYLESS}
"""What leads from one version of the schema to the next, where nothing has to be looked up on the disk for it."""
_NEWEST = _SCHEMA + _ADMISSIONS + _KEYLESS
"""In the same steps, so that the definitions of a new file and of one that was upgraded are the same."""

_SNAPSHOT_COLUMNS = (
    "namespace, name, snapshot, manifest_digest, source, size, file_count, published_at, verified_at, current, "
    "hub_repo, hub_commit, hub_ref, last_used, retain, pinned, keyless, current_since, current_until"
)


class Index:
    """The connection and every statement. Methods raise IndexFailed when SQLite refuses, StoreFull when the disk is full."""

    def __init__(self, connection: sqlite3.Connection, path: Path, new: bool) -> None:
        self.new = new
        """Whether it was made just now, so that what is on the disk has to be taken in."""
        self._connection = connection
        self._path = path
        self._lock = threading.RLock()

    @staticmethod
    def open(path: Path) -> Index:
        """The index in `path`, created when there is none.

        Raises IndexFailed when the file is damaged or has another schema version: set it aside and open again.
        """
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {pragma}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            new = version == 0 and not _tables(connection)
            if new:
                connection.executescript(f"BEGIN; {_NEWEST} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            while version in _UPGRADES:
                connection.executescript(f"BEGIN; {_UPGRADES[version]} PRAGMA user_version={version + 1}; COMMIT;")
                version += 1
            if not new and version != SCHEMA_VERSION:
                raise IndexFailed(f"{path} has schema version {version}, this agent writes {SCHEMA_VERSION}")
            if _tables(connection) != _expected_tables():
                raise IndexFailed(f"{path} has other tables than this agent makes: somebody changed it")
            # Pages that cannot be read are found now, not in the middle of a publication. A few ms for 20,000 files.
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise IndexFailed(f"{path} is damaged: {verdict}")
        except sqlite3.Error as error:
            connection.close()
            raise _failure("open", path, error) from error
        except IndexFailed:
            connection.close()
            raise
        return Index(connection, path, new)

    def close(self) -> None:
        """Checkpoints and closes; later calls fail."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """All statements inside take effect together or not at all."""
        with self._lock:
            cursor = self._connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.rollback()
                if isinstance(error, sqlite3.Error):
                    raise _failure("write", self._path, error) from error
                raise
            finally:
                # A statement that failed lives as long as the traceback, and keeps the files open beyond `close`.
                cursor.close()

    def rows(self, statement: str, *values: object) -> list[Any]:
        """The rows that a SELECT gives."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise _failure("read", self._path, error) from error

    # Blobs

    def blob(self, sha256: str) -> BlobRow | None:
        """The blob with this digest."""
        rows = self.rows("SELECT sha256, size, mtime_ns, inode, verified_at FROM blobs WHERE sha256 = ?", sha256)
        return BlobRow(*rows[0]) if rows else None

    def blob_digests(self) -> set[str]:
        """The digests of all blobs."""
        return {row[0] for row in self.rows("SELECT sha256 FROM blobs")}

    def referenced(self) -> set[str]:
        """The digests of all blobs that a published file needs."""
        return {row[0] for row in self.rows("SELECT DISTINCT sha256 FROM files")}

    def add_blobs(self, rows: Iterable[BlobRow]) -> None:
        """Inserts blobs, replacing what was known about the same digests."""
        with self.transaction() as cursor:
            cursor.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)", rows)

    def forget_blobs(self, digests: Iterable[str]) -> None:
        """Removes blobs with all that is known about them."""
        keys = [(digest,) for digest in digests]
        with self.transaction() as cursor:
            for table in ("blobs", "blob_pieces", "aliases", "admissions"):
                cursor.executemany(f"DELETE FROM {table} WHERE sha256 = ?", keys)  # noqa: S608 -- names from above

    def drop_blob(self, sha256: str) -> None:
        """Removes a blob that is damaged, but not the digests of its pieces: what is left of it is worth something."""
        with self.transaction() as cursor:
            cursor.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))

    def forget_pieces(self) -> None:
        """Removes the digests of pieces of content that is neither here nor published."""
        with self.transaction() as cursor:
            cursor.execute(
                "DELETE FROM blob_pieces WHERE sha256 NOT IN (SELECT sha256 FROM blobs) "
                "AND sha256 NOT IN (SELECT sha256 FROM files)"
            )

    def blobs(self) -> list[BlobRow]:
        """All blobs."""
        return [BlobRow(*row) for row in self.rows("SELECT sha256, size, mtime_ns, inode, verified_at FROM blobs")]

    def set_pieces(self, rows: Iterable[tuple[str, int, bytes]]) -> None:
        """Remembers piece digests: (sha256 of the blob, bytes of a piece, 16 bytes xxh3-128 for each piece)."""
        with self.transaction() as cursor:
            cursor.executemany("INSERT OR REPLACE INTO blob_pieces VALUES (?, ?, ?)", rows)

    def pieces(self, sha256: str) -> tuple[int, bytes] | None:
        """Bytes of a piece and the digests of all pieces of a blob; None when they are not known."""
        rows = self.rows("SELECT piece_bytes, digests FROM blob_pieces WHERE sha256 = ?", sha256)
        return (int(rows[0][0]), bytes(rows[0][1])) if rows else None

    def set_aliases(self, rows: Iterable[tuple[str, str]]) -> None:
        """Remembers other names of blobs: (key, sha256)."""
        with self.transaction() as cursor:
            cursor.executemany("INSERT OR REPLACE INTO aliases VALUES (?, ?)", rows)

    def alias(self, key: str) -> str | None:
        """The sha256 of the blob that is also known as `key`."""
        rows = self.rows("SELECT sha256 FROM aliases WHERE key = ?", key)
        return rows[0][0] if rows else None

    # Snapshots

    def published(self) -> list[PublishedSnapshot]:
        """All snapshots, sorted by namespace, name and time of publication."""
        rows = self.rows(f"SELECT {_SNAPSHOT_COLUMNS} FROM snapshots ORDER BY namespace, name, published_at")  # noqa: S608
        return [_snapshot(row) for row in rows]

    def snapshot(self, namespace: str, name: str, snapshot: str) -> PublishedSnapshot | None:
        """One snapshot."""
        where = "namespace = ? AND name = ? AND snapshot = ?"
        rows = self.rows(f"SELECT {_SNAPSHOT_COLUMNS} FROM snapshots WHERE {where}", namespace, name, snapshot)  # noqa: S608
        return _snapshot(rows[0]) if rows else None

    def of_repo(self, namespace: str, repo_id: str) -> list[PublishedSnapshot]:
        """All snapshots that claim a repository in the hub view of a namespace."""
        where = "namespace = ? AND hub_repo = ? ORDER BY name, snapshot"
        rows = self.rows(f"SELECT {_SNAPSHOT_COLUMNS} FROM snapshots WHERE {where}", namespace, repo_id)  # noqa: S608
        return [_snapshot(row) for row in rows]

    def files(self, namespace: str, name: str, snapshot: str) -> list[FileRow]:
        """The files of one snapshot in byte order of their paths; empty when it is not published."""
        rows = self.rows(
            "SELECT f.path, f.sha256, f.size, f.mtime_ns, f.inode FROM files f JOIN snapshots s ON f.snapshot_id = s.id "
            "WHERE s.namespace = ? AND s.name = ? AND s.snapshot = ? ORDER BY f.path",
            namespace,
            name,
            snapshot,
        )
        return [FileRow(*row) for row in rows]

    def unproven_files(self, namespace: str, name: str, snapshot: str) -> list[tuple[str, str]]:
        """The files (path, sha256) of one snapshot that are not known to have the content that they should have.

        Their blob is gone, was dropped because it was damaged, was not read since (said only of a snapshot that was read as a
        whole: another one has to be read anyway), or is another file than the published one: neither the same inode nor a
        copy of it, which has its size and mtime (see `durable.link_or_copy`).
        """
        rows = self.rows(
            "SELECT f.path, f.sha256 FROM files f JOIN snapshots s ON f.snapshot_id = s.id "
            "LEFT JOIN blobs b ON b.sha256 = f.sha256 WHERE s.namespace = ? AND s.name = ? AND s.snapshot = ? "
            "AND (b.sha256 IS NULL OR (b.verified_at IS NULL AND s.verified_at IS NOT NULL) "
            "OR (b.inode != f.inode AND (b.mtime_ns, b.size) != (f.mtime_ns, f.size))) "
            "ORDER BY f.path",
            namespace,
            name,
            snapshot,
        )
        return [(row[0], row[1]) for row in rows]

    def users_of(self, sha256: str) -> list[tuple[str, str, str, str]]:
        """Where a blob is published: (namespace, name, snapshot, path)."""
        rows = self.rows(
            "SELECT s.namespace, s.name, s.snapshot, f.path FROM files f JOIN snapshots s ON f.snapshot_id = s.id "
            "WHERE f.sha256 = ? ORDER BY s.namespace, s.name, s.snapshot, f.path",
            sha256,
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def add_snapshot(
        self,
        record: Publication,
        source: str,
        files: Sequence[FileRow],
        verified_at: float | None,
        *,
        last_used: float | None = None,
        current_since: float | None = None,
    ) -> None:
        """Inserts a snapshot with its files, or replaces it; its part of the hub view has to be brought up to date.

        `last_used` is the time of its publication where nothing else is known.
        """
        key = (record.namespace, record.name, record.snapshot)
        hub = (record.hub.repo_id, record.hub.commit, record.hub.ref) if record.hub else (None, None, None)
        with self.transaction() as cursor:
            _mark_hub_dirty(cursor, key[0], key[1], key[2])
            cursor.execute("DELETE FROM snapshots WHERE namespace = ? AND name = ? AND snapshot = ?", key)
            cursor.execute(
                f"INSERT INTO snapshots ({_SNAPSHOT_COLUMNS}) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    *key,
                    record.manifest_digest,
                    source,
                    sum(file.size for file in files),
                    len(files),
                    record.published_at,
                    verified_at,
                    *hub,
                    record.published_at if last_used is None else last_used,
                    *record.policy,
                    current_since,
                ),
            )
            row = cursor.lastrowid
            cursor.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", [(row, *file) for file in files])
            _mark_hub_dirty(cursor, key[0], key[1], key[2])

    def set_hub(self, namespace: str, name: str, snapshot: str, hub: HubClaim | None) -> None:
        """Changes the claim of a snapshot in the hub view."""
        values = (hub.repo_id, hub.commit, hub.ref) if hub else (None, None, None)
        with self.transaction() as cursor:
            _mark_hub_dirty(cursor, namespace, name, snapshot)
            cursor.execute(
                "UPDATE snapshots SET hub_repo = ?, hub_commit = ?, hub_ref = ? "
                "WHERE namespace = ? AND name = ? AND snapshot = ?",
                (*values, namespace, name, snapshot),
            )
            _mark_hub_dirty(cursor, namespace, name, snapshot)

    def set_policy(self, namespace: str, name: str, policy: Policy) -> None:
        """Changes the policy of all snapshots of a model."""
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE snapshots SET retain = ?, pinned = ?, keyless = ? WHERE namespace = ? AND name = ?",
                (*policy, namespace, name),
            )

    def remove_snapshots(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """Forgets snapshots; their parts of the hub view have to be brought up to date."""
        with self.transaction() as cursor:
            for key in keys:
                _mark_hub_dirty(cursor, *key)
                cursor.execute("DELETE FROM snapshots WHERE namespace = ? AND name = ? AND snapshot = ?", key)

    def set_current(self, namespace: str, name: str, snapshot: str | None, when: float) -> None:
        """Remembers which snapshot of a model is in force from `when` on, and until when another one was."""
        with self.transaction() as cursor:
            cursor.execute(
                "INSERT OR IGNORE INTO hub_dirty SELECT DISTINCT namespace, hub_repo FROM snapshots "
                "WHERE namespace = ? AND name = ? AND hub_repo IS NOT NULL",
                (namespace, name),
            )
            # Not before a pod that uses the model had started: a clock that was set back must not make it younger than the
            # revision that it has found.
            cursor.execute(
                "UPDATE snapshots SET current = 0, current_until = MAX(?, COALESCE("
                "(SELECT MAX(since) FROM users WHERE namespace = ? AND name IN ('', ?)), 0)) "
                "WHERE namespace = ? AND name = ? AND current AND snapshot IS NOT ?",
                (when, namespace, name, namespace, name, snapshot),
            )
            # One that comes back keeps its first `current_since`: whoever started in between may have resolved it.
            cursor.execute(
                "UPDATE snapshots SET current = 1, current_since = COALESCE(current_since, ?), current_until = NULL "
                "WHERE namespace = ? AND name = ? AND snapshot = ?",
                (when, namespace, name, snapshot),
            )

    def set_verified(self, namespace: str, name: str, snapshot: str, when: float) -> None:
        """Remembers that the content of a snapshot and of its blobs was read and found right."""
        key = (namespace, name, snapshot)
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE snapshots SET verified_at = ? WHERE namespace = ? AND name = ? AND snapshot = ?", (when, *key)
            )
            cursor.execute(
                "UPDATE blobs SET verified_at = ? WHERE sha256 IN (SELECT f.sha256 FROM files f "
                "JOIN snapshots s ON f.snapshot_id = s.id WHERE s.namespace = ? AND s.name = ? AND s.snapshot = ?)",
                (when, *key),
            )

    def update_file(self, namespace: str, name: str, snapshot: str, file: FileRow) -> None:
        """Remembers what a file that was put back into a snapshot looks like."""
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE files SET size = ?, mtime_ns = ?, inode = ? WHERE path = ? AND snapshot_id = "
                "(SELECT id FROM snapshots WHERE namespace = ? AND name = ? AND snapshot = ?)",
                (file.size, file.mtime_ns, file.inode, file.path, namespace, name, snapshot),
            )

    # Hub view

    def hub_repos(self) -> set[tuple[str, str]]:
        """All (namespace, repository) that some snapshot claims."""
        rows = self.rows("SELECT DISTINCT namespace, hub_repo FROM snapshots WHERE hub_repo IS NOT NULL")
        return {(row[0], row[1]) for row in rows}

    def hub_dirty(self) -> list[tuple[str, str]]:
        """The (namespace, repository) whose hub view may differ from the claims."""
        return [(row[0], row[1]) for row in self.rows("SELECT namespace, repo FROM hub_dirty")]

    def mark_hub_dirty(self, namespace: str, name: str, snapshot: str) -> None:
        """Says that files of a snapshot changed, so that the hub view has to follow."""
        with self.transaction() as cursor:
            _mark_hub_dirty(cursor, namespace, name, snapshot)

    def hub_clean(self, namespace: str, repo_id: str) -> None:
        """Remembers that a hub view agrees with the claims again."""
        with self.transaction() as cursor:
            cursor.execute("DELETE FROM hub_dirty WHERE namespace = ? AND repo = ?", (namespace, repo_id))


def _failure(doing: str, path: Path, error: sqlite3.Error) -> IndexFailed | StoreFull:
    """What a refusal of SQLite is for the rest of the agent."""
    message = f"cannot {doing} the index {path}: {error}"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # extended codes have more above
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"{message}; free space on the file system of the cache root")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLocked(f"{message}; another process (an open sqlite3 shell?) holds it: end that")
    return IndexFailed(message)


def _tables(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Name and definition of all tables and indexes, but for those that SQLite makes for itself."""
    return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"))


def _expected_tables() -> set[tuple[str, str]]:
    memory = sqlite3.connect(":memory:")
    try:
        memory.executescript(_NEWEST)
        return _tables(memory)
    finally:
        memory.close()


def _mark_hub_dirty(cursor: sqlite3.Cursor, namespace: str, name: str, snapshot: str) -> None:
    """In the same transaction as the change itself, so that a crash before the hub view follows is noticed at start."""
    cursor.execute(
        "INSERT OR IGNORE INTO hub_dirty SELECT namespace, hub_repo FROM snapshots "
        "WHERE namespace = ? AND name = ? AND snapshot = ? AND hub_repo IS NOT NULL",
        (namespace, name, snapshot),
    )


def _snapshot(row: Any) -> PublishedSnapshot:
    hub = None if row[10] is None else HubClaim(repo_id=row[10], commit=row[11], ref=row[12])
    policy = Policy(*map(bool, row[14:17]))
    return PublishedSnapshot._make((*row[:9], bool(row[9]), hub, row[13], policy, *row[17:]))
