"""What this agent can give to others: blobs, and the finished pieces of files that are still on their way.

A download registers each file it works on (`begin`), tells when a piece is there (`arrived`), and takes the file back when
it ends (`end`). The file then usually is a blob, under another name but with the same inode: whoever has it open goes on
reading, and whoever opens it in between finds it in one of the two places, because it is looked for in the old one first.

A piece that was taken over from an earlier run and not read since is not offered: its journal may be wrong, and the wrong
bytes would be blamed on us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.peers.keys import ContentKey
from agent.peers.wire import DIGEST_BYTES, Holding
from agent.store import Store
from agent.store.records import git_alias
from agent.transfer.partial import PartialFile
from agent.transfer.pieces import piece_count


@dataclass(frozen=True)
class Content:
    """One content that is here, at least in part."""

    size: int
    piece_bytes: int
    digest: Callable[[int], bytes | None]
    """The xxh3-128 of a piece; None while the piece is not here."""
    open: Callable[[], int]
    """A new descriptor for reading; the caller closes it. Raises OSError."""

    def holding(self, *, digests: bool) -> Holding:
        """Which pieces there are."""
        here = {
            index: digest
            for index in range(piece_count(self.size, self.piece_bytes))
            if (digest := self.digest(index)) is not None
        }
        return Holding(self.size, self.piece_bytes, frozenset(here), here if digests else {})


class Holdings:
    """Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._live: dict[ContentKey, PartialFile] = {}
        self._computing = threading.Lock()
        self._closed = False

    # For downloads

    def begin(self, keys: Sequence[ContentKey], partial: PartialFile) -> None:
        """`partial` is going to have this content."""
        with self._changed:
            for key in keys:
                self._live[key] = partial

    def arrived(self) -> None:
        """A piece of something is finished."""
        with self._changed:
            self._changed.notify_all()

    def end(self, keys: Sequence[ContentKey], partial: PartialFile) -> None:
        """The file is a blob now, or given up."""
        with self._changed:
            for key in keys:
                if self._live.get(key) is partial:
                    del self._live[key]
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody has to wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # For the server

    def find(self, key: ContentKey, size: int) -> Content | None:
        """What is here of `key`; None when it is neither here nor on its way. Raises StoreError."""
        with self._changed:
            partial = self._live.get(key)
        return self._of_partial(key, partial) if partial is not None else self._of_blob(key, size)

    def wait_for(self, key: ContentKey, size: int, index: int, seconds: float) -> Content | None:
        """`find`, as soon as piece `index` is there or nothing of it is on its way any more; at last after `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                partial = self._live.get(key)
                left = deadline - time.monotonic()
                if partial is None or self._closed or left <= 0 or partial.proven_digest(index) is not None:
                    break
                self._changed.wait(left)
        return self.find(key, size)

    def _of_partial(self, key: ContentKey, partial: PartialFile) -> Content:
        def opened() -> int:
            with contextlib.suppress(FileNotFoundError):
                return os.open(partial.data, _FLAGS)
            # It has become a blob since we looked.
            blob = self._of_blob(key, partial.size)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, "given up, or just becoming a blob", str(partial.data))
            return blob.open()

        return Content(partial.size, partial.piece_bytes, partial.proven_digest, opened)

    def _of_blob(self, key: ContentKey, size: int) -> Content | None:
        algorithm, _, digest = key.partition(":")
        sha256 = digest if algorithm == "sha256" else self._store.blob_for(git_alias(digest, size))
        row = self._store.blob(sha256) if sha256 is not None else None
        if sha256 is None or row is None or row.size != size:
            return None
        known = self._store.pieces(sha256) if row.verified_at is not None else None
        if known is None:
            # Taken over from the disk by recovery: read once before anybody relies on it, and its digests are kept.
            with self._computing:
                known = self._store.pieces(sha256) if self._store.verify_blob(sha256) else None
        if known is None:
            return None
        piece_bytes, digests = known
        path = self._store.paths.blob(sha256)

        def digest_of(index: int) -> bytes:
            return digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

        return Content(row.size, piece_bytes, digest_of, lambda: os.open(path, _FLAGS))


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
