"""Where objects survive a restart: one SQLite file that mirrors the store.

The store's memory is the truth for every read; the journal is only written, and read once at start. A write returns when
SQLite has committed. In WAL mode with `synchronous=NORMAL` a commit is in the operating system's hands: it survives
`kill -9` of this process, not a power failure, which is the right price for a development server (a commit costs some
50 us instead of a disk flush).
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

FORMAT = 1


class JournalError(Exception):
    """The data directory cannot be used; the message says which one, why, and what to do."""


class Journal(Protocol):
    """What the store needs from a place that keeps objects."""

    def load(self) -> tuple[int, Iterator[tuple[str, str, dict[str, Any]]]]:
        """The last version, and every object as (storage, key, object)."""

    def write(self, storage: str, key: str, version: int, encoded: bytes | None) -> None:
        """Keep one object (None: forget it) and the version, both or neither. Raises OSError when it cannot."""

    def close(self) -> None:
        """Give the resources back."""


class NoJournal:
    """Keeps nothing: the server without `--data`."""

    def load(self) -> tuple[int, Iterator[tuple[str, str, dict[str, Any]]]]:
        """Nothing was kept."""
        return 0, iter(())

    def write(self, storage: str, key: str, version: int, encoded: bytes | None) -> None:
        """Forget it at once."""

    def close(self) -> None:
        """Nothing to give back."""


class SqliteJournal:
    """Keeps the objects in `<directory>/kube.sqlite3`; one process at a time."""

    def __init__(self, directory: Path) -> None:
        """Open or create the file. Raises JournalError when the directory cannot be used."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "kube.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(
                f"--data {directory}: {error.strerror}: choose a directory that can be written"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise JournalError(
                f"--data {directory}: another server is using it: stop that one or choose another directory"
            ) from None
        path = directory / "kube.sqlite3"
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._prepare()
        except sqlite3.Error as error:
            os.close(self._lock)
            raise JournalError(f"{path}: {error}: move the file away to start empty") from None
        except JournalError:
            os.close(self._lock)
            raise

    def _prepare(self) -> None:
        (found,) = self._database.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise JournalError(
                f"{self._file}: written in format {found}, this program reads {FORMAT}: use the program that wrote it, "
                "or another --data directory"
            )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS objects"
            " (storage TEXT NOT NULL, key TEXT NOT NULL, object BLOB NOT NULL, PRIMARY KEY (storage, key)) WITHOUT ROWID"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 0), version INTEGER)"
        )
        self._database.execute("INSERT OR IGNORE INTO counter VALUES (0, 0)")
        self._database.execute(f"PRAGMA user_version={FORMAT}")

    @property
    def _file(self) -> str:
        return str(self._database.execute("PRAGMA database_list").fetchone()[2])

    def load(self) -> tuple[int, Iterator[tuple[str, str, dict[str, Any]]]]:
        """The last version, and every object as (storage, key, object). Raises JournalError on unreadable content."""
        (version,) = self._database.execute("SELECT version FROM counter").fetchone()
        return version, self._objects()

    def _objects(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        decoder = msgspec.json.Decoder(dict[str, Any])
        try:
            for storage, key, encoded in self._database.execute("SELECT storage, key, object FROM objects"):
                yield storage, key, decoder.decode(encoded)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise JournalError(f"{self._file}: {error}: the file is damaged, move it away to start empty") from None

    def write(self, storage: str, key: str, version: int, encoded: bytes | None) -> None:
        """Keep one object (None: forget it) and the version, in one transaction. Raises OSError when SQLite cannot."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            if encoded is None:
                self._database.execute("DELETE FROM objects WHERE storage = ? AND key = ?", (storage, key))
            else:
                self._database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", (storage, key, encoded))
            self._database.execute("UPDATE counter SET version = ?", (version,))
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise OSError(f"cannot keep {storage}/{key} in {self._file}: {error}") from error

    def close(self) -> None:
        """Close the file and let the next server in."""
        self._database.close()
        os.close(self._lock)
