"""Finds good content among what is left of a damaged blob, or says what is worth keeping of it.

A blob and the published files that are made from it are names of one inode, so damage to one is mostly damage to all. Not
always: where somebody replaced one of them, another one still has the right bytes. So before anything is fetched, every
inode that bears the name of the content is read; the first good one becomes the blob again (by rename: whoever has the bad
one open keeps it), and `agent.store.mending.restore` makes the others links to it.

Where none is good, the blob is dropped: its row first, so that from then on nobody believes in it, whatever crash follows.
What stays is the published file with its bad bytes (nothing may vanish under a pod that reads it) and the digests of its
pieces. A download begins with what is good in there (`agent.transfer.seeding`), and fetches the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from agent.store import checking
from agent.store.checking import ContentDigest, take_ownership
from agent.store.durable import fsync_directory, make_directories, place_link
from agent.store.errors import io_errors
from agent.store.index import Index
from agent.store.mending import PIECE_BYTES, hub_directory
from agent.store.rows import BlobRow, FileRow
from modelcache.paths import CachePaths


class Remains(NamedTuple):
    """What is left of damaged content: a file, and the digests (16 bytes each) of the pieces that it should have."""

    path: Path
    piece_bytes: int
    digests: bytes


def heal(
    paths: CachePaths,
    index: Index,
    sha256: str,
    tree: AbstractContextManager[bool],
    clock: Callable[[], float],
    paid: Callable[[int], None],
) -> bool:
    """Whether blobs/ has the content afterwards, read and found right. See Store.verify_blob. Raises StoreIOError."""
    known = index.pieces(sha256)
    blob = paths.blob(sha256)
    read: set[int] = set()
    for place in _places(paths, index, sha256):
        try:
            before = place.lstat()
            if before.st_ino in read:
                continue
            read.add(before.st_ino)
            content = checking.digest_file(place, known[0] if known else PIECE_BYTES, paid)
        except OSError:
            continue
        if content.sha256 == sha256 and _adopt(paths, index, sha256, place, before, content, tree, clock):
            return True
    with tree, io_errors("remove", blob):
        # Row first: after a crash in between, recovery adopts the file as unverified, and it is read before use.
        index.drop_blob(sha256)
        blob.unlink(missing_ok=True)
        if blob.parent.is_dir():
            # Crash after we return: a damaged blob must not come back.
            fsync_directory(blob.parent)
    return False


def relink(paths: CachePaths, index: Index, sha256: str) -> bool:
    """Gives a blob that somebody deleted its name back, from a published link to it. Reads nothing: it is the same inode.

    Returns whether the blob is in its place afterwards, as the index knows it. Raises OSError.
    """
    row = index.blob(sha256)
    if row is None:
        return False
    blob, expected = paths.blob(sha256), FileRow("", *row[:4])
    if checking.compare(blob, expected) is None:
        return True
    if os.path.lexists(blob):
        return False
    for place in _places(paths, index, sha256):
        if place != blob and checking.compare(place, expected) is None:
            make_directories(blob.parent, paths.blobs, 0o700)
            os.link(place, blob, follow_symlinks=False)
            # Crash after this: the row says that the name is there.
            fsync_directory(blob.parent)
            return True
    return False


def remains(paths: CachePaths, index: Index, sha256: str) -> Remains | None:
    """What a download of this content may begin with; None where nothing is left, or nobody knows what it should be."""
    known = index.pieces(sha256)
    if known is None:
        return None
    for place in _places(paths, index, sha256):
        if place.is_file() and not place.is_symlink():
            return Remains(place, *known)
    return None


def _places(paths: CachePaths, index: Index, sha256: str) -> Iterator[Path]:
    """Every path at which this content should be found."""
    yield paths.blob(sha256)
    for namespace, name, snapshot, path in index.users_of(sha256):
        yield paths.snapshot(namespace, name, snapshot) / path
        row = index.snapshot(namespace, name, snapshot)
        view = hub_directory(paths, row) if row is not None else None
        if view is not None:
            yield view / path


def _adopt(
    paths: CachePaths,
    index: Index,
    sha256: str,
    place: Path,
    before: os.stat_result,
    content: ContentDigest,
    tree: AbstractContextManager[bool],
    clock: Callable[[], float],
) -> bool:
    """Makes a file that was read and found right the blob. False when it is not that file any more, or cannot be ours."""
    blob = paths.blob(sha256)
    with tree, io_errors("make a blob of", place):
        try:
            now = place.lstat()
            if (now.st_ino, now.st_mtime_ns, now.st_size) != (before.st_ino, before.st_mtime_ns, content.size):
                return False
            take_ownership(place, checking.FILE_MODE)
        except (FileNotFoundError, PermissionError):
            # Somebody else's file: its owner may change it again at any time. A new one will be ours.
            return False
        if place != blob:
            make_directories(blob.parent, paths.blobs, 0o700)
            place_link(place, blob, paths.staging)
            # Crash after the row is written: the name has to be there.
            fsync_directory(blob.parent)
        found = blob.lstat()
        index.add_blobs([BlobRow(sha256, found.st_size, found.st_mtime_ns, found.st_ino, clock())])
        if index.pieces(sha256) is None:
            index.set_pieces([(sha256, PIECE_BYTES, content.pieces)])
    return True
