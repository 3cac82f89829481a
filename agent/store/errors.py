"""Every way in which the cache on disk can fail.

    StoreError                  base; never raised itself
    ├── StoreLocked             another agent works on the same root
    ├── StoreUnusable           the root is no directory, read-only, or not one file system
    ├── StoreIOError            the file system refused an operation
    │   └── StoreFull           ... because there is no room left
    ├── IndexFailed             SQLite refused an operation (disk error, damaged file)
    │   └── IndexLocked         ... because another process holds the database
    ├── PublishConflict         something else already lies where a snapshot should go
    ├── IncompleteManifest      a digest is missing: nothing may be published that could not be checked
    ├── RecordError             a publication record or a hub claim cannot be used
    ├── BlobMissing             content that is needed is not in blobs/
    ├── NotAdmitted             content is here that the namespace has not shown it may read
    └── NotPublished            no such snapshot on this node

Messages name the path, the reason and what to do about it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StoreError(Exception):
    """Base of everything that the store raises."""


class StoreLocked(StoreError):
    """Another agent holds the lock of this cache root."""


class StoreUnusable(StoreError):
    """The cache root cannot hold a cache."""


class StoreIOError(StoreError):
    """The file system refused an operation; `errno` is its reason."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


class StoreFull(StoreIOError):
    """No space, no inodes or no quota left on the file system of the cache root."""


class IndexFailed(StoreError):
    """SQLite refused an operation on the index."""


class IndexLocked(IndexFailed):
    """Another process holds the database; it goes on by itself when that lets go."""


class PublishConflict(StoreError):
    """The target of a publication is taken by something that is not ours, or by different content."""


class IncompleteManifest(StoreError):
    """A manifest without the sha256 of every file was given where a complete one is needed."""


class RecordError(StoreError):
    """A publication record or a claim in the hub view cannot be used; the message says why."""


class BlobMissing(StoreError):
    """Content that a snapshot needs is not in the store; download it first."""


class NotAdmitted(StoreError):
    """Content is here, but not for the namespace that wants to publish it: its own source has to show that it has it."""


class NotPublished(StoreError):
    """The named snapshot is not published on this node."""


@contextmanager
def io_errors(doing: str, path: Path) -> Iterator[None]:
    """Turns OSError into StoreIOError or StoreFull with a message `cannot <doing> <path>: <reason>`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot {doing} {path}: {reason}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"{message}; free space on the file system of the cache root or evict models", error.errno
            ) from error
        if error.errno == errno.EROFS:
            message += "; remount the file system of the cache root read-write"
        raise StoreIOError(message, error.errno) from error
