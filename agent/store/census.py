"""How much there is of what: bytes of the disk by snapshot and altogether, from the index and the partials."""

from __future__ import annotations

import os
from contextlib import suppress

from agent.store.garbage import Keep
from agent.store.index import Index
from agent.store.rows import PublishedSnapshot
from modelcache.paths import CachePaths

BLOCK_BYTES = 4096
"""Files take whole blocks; 4 KiB is the block size of ext4 and xfs on every common machine."""

_ON_DISK = f"(size + {BLOCK_BYTES - 1}) / {BLOCK_BYTES} * {BLOCK_BYTES}"


class Census:
    """The sizes in one store. Thread-safe; blocks for the disk. Raises IndexFailed and OSError."""

    def __init__(self, paths: CachePaths, index: Index) -> None:
        self._paths = paths
        self._index = index

    def snapshots(self) -> list[tuple[PublishedSnapshot, dict[str, int]]]:
        """Everything published, with the bytes on the disk of its content by digest."""
        blobs: dict[tuple[str, str, str], dict[str, int]] = {}
        rows = self._index.rows(
            f"SELECT s.namespace, s.name, s.snapshot, f.sha256, (f.size + {BLOCK_BYTES - 1}) / {BLOCK_BYTES} * {BLOCK_BYTES} "  # noqa: S608 -- constants
            "FROM files f JOIN snapshots s ON f.snapshot_id = s.id"
        )
        for namespace, name, snapshot, sha256, size in rows:
            blobs.setdefault((namespace, name, snapshot), {})[sha256] = size
        return [(row, blobs.get(row.key, {})) for row in self._index.published()]

    def blobs(self) -> dict[str, int]:
        """Bytes on the disk of all blobs, by digest."""
        return dict(self._index.rows(f"SELECT sha256, {_ON_DISK} FROM blobs"))  # noqa: S608 -- constants

    def unneeded(self, keep: Keep) -> int:
        """Bytes on the disk of blobs and files under way that no published file needs and `keep` does not name."""
        needed = self._index.referenced() | keep.blobs
        blobs = sum(size for digest, size in self.blobs().items() if digest not in needed)
        names = {entry.name for entry in os.scandir(self._paths.partial)} - keep.partials
        return blobs + sum(_blocks(str(self._paths.partial / name)) for name in names)

    def occupied(self) -> int:
        """Bytes of the disk that content takes: blobs, and files under way."""
        total = self._index.rows(f"SELECT COALESCE(SUM({_ON_DISK}), 0) FROM blobs")  # noqa: S608 -- constants
        return int(total[0][0]) + self.partials()

    def partials(self) -> int:
        """Bytes of the disk that files under way take. They come and go while this looks."""
        return _blocks(str(self._paths.partial))


def _blocks(path: str) -> int:
    """Bytes of the disk that a file takes, or everything below a directory; 0 for what is gone."""
    try:
        with os.scandir(path) as entries:
            return sum(_blocks(entry.path) for entry in entries)
    except NotADirectoryError:
        with suppress(FileNotFoundError):
            return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        pass
    return 0
