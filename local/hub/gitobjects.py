"""The object ids that git would give: of a blob, of directories, of a commit.

They are the real ones (git hashes what it stores), so that ids published here can be checked with git, and the same
files always give the same commit.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

_AUTHOR = "local.hub <local.hub@localhost>"
FIRST_COMMIT_TIME = 1_700_000_000
"""Unix seconds. Fixed, because a commit's id includes its time."""


def blob_hash(size: int) -> "hashlib._Hash":
    """Return a running sha1 that becomes the blob's id once the `size` bytes of the content have been added."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def blob_id(content: bytes) -> str:
    """Return the id of a blob, 40 hex digits."""
    digest = blob_hash(len(content))
    digest.update(content)
    return digest.hexdigest()


def tree_ids(blobs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Return the id of every directory by its path, the root's under the empty path, from (path, blob id) pairs.

    Paths are split at `/` and not judged: a listing that no git would ever hold still gets some id.
    """
    entries: dict[str, list[tuple[bytes, bytes]]] = {"": []}
    for path, oid in blobs:
        parent, _, name = path.rpartition("/")
        for directory in _with_ancestors(parent):
            entries.setdefault(directory, [])
        entries[parent].append(_entry(b"100644", name, oid))
    ids: dict[str, str] = {}
    # Deepest first: a directory's id contains those of its children.
    for path in sorted(entries, key=lambda p: p.count("/") + 1 if p else 0, reverse=True):
        content = b"".join(entry for _, entry in sorted(entries[path]))
        ids[path] = hashlib.sha1(b"tree %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if path:
            parent, _, name = path.rpartition("/")
            entries[parent].append(_entry(b"40000", name, ids[path]))
    return ids


def commit_time(generation: int) -> int:
    """Return the time of the commit that has `generation` ancestors, in Unix seconds: a minute after its parent's."""
    return FIRST_COMMIT_TIME + 60 * generation


def commit_id(tree: str, parent: str | None, generation: int, message: str) -> str:
    """Return the id of a commit of directory `tree`, 40 hex digits."""
    stamp = f"{_AUTHOR} {commit_time(generation)} +0000"
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else []), f"author {stamp}", f"committer {stamp}"]
    content = "\n".join([*lines, "", message, ""]).encode()
    return hashlib.sha1(b"commit %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _with_ancestors(directory: str) -> Iterator[str]:
    while directory:
        yield directory
        directory = directory.rpartition("/")[0]


def _entry(mode: bytes, name: str, oid: str) -> tuple[bytes, bytes]:
    """Return the sort key and the bytes of one line of a tree object; git sorts directories as if they ended in `/`."""
    encoded = name.encode("utf-8", "surrogatepass")
    key = encoded + (b"/" if mode == b"40000" else b"")
    return key, mode + b" " + encoded + b"\0" + bytes.fromhex(oid)
