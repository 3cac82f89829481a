"""What this agent can give to others: blobs, and the finished pieces of files that are still on their way.

A download says which content it expects (`Expecting`: of 200,000 files most only wait for their turn, and take no more than
their name here), registers each file that it works on (`begin`), tells when a piece is there (`arrived`), and takes the file
back when it ends (`end`). The file then usually is a blob, under another name but with the same inode: whoever has it open
goes on reading, and whoever opens it in between finds it in one of the two places, because it is looked for in the old one
first.

Content is here for a namespace, and not for others: what another one is downloading, or was given, is not offered, although it
may lie in the same file.

A piece that was taken over from an earlier run and not read since is not offered: its journal may be wrong, and the wrong
bytes would be blamed on us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.peers.keys import ContentKey, TenantKey
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
    complete: bool
    """Whether it was checked with the digest of the whole."""
    digest: Callable[[int], bytes | None]
    """The xxh3-128 of a piece; None while the piece is not here."""
    via: Callable[[int], tuple[str, ...]]
    """The nodes that a piece went through before it came here; empty when it was read from the origin, or checked since."""
    reading: frozenset[int]
    """The pieces that are just being read from the origin."""
    defers: Callable[[int, str], bool]
    """Whether a piece that is not here is expected from that very node, or through it: then it must not wait for us."""
    open: Callable[[], int]
    """A new descriptor for reading; the caller closes it. Raises OSError."""

    def holding(self, *, digests: bool) -> Holding:
        """Which pieces there are."""
        here = {
            index: digest
            for index in range(piece_count(self.size, self.piece_bytes))
            if (digest := self.digest(index)) is not None
        }
        return Holding(
            self.size, self.piece_bytes, frozenset(here), self.reading, self.complete, here if digests else {}
        )


class Expecting(Protocol):
    """One download, as those see it who ask for what it fetches. Used by several threads at once."""

    @property
    def piece_bytes(self) -> int:
        """Size of its pieces."""
        ...

    def expects(self, content: TenantKey) -> bool:
        """Whether a file with this content is under way, or going to be, for this namespace."""
        ...

    def progress(self) -> int:
        """Bytes that it got from the origin."""
        ...

    def wanted(self, key: ContentKey, index: int) -> None:
        """A peer waits for a piece."""
        ...

    def defers(self, key: ContentKey, index: int, node: str) -> bool:
        """Whether a piece that is not read from the origin here comes from or through this node, if it is there."""
        ...


class Arriving:
    """A file on its way."""

    def __init__(self, partial: PartialFile, key: ContentKey, download: Expecting) -> None:
        self.partial = partial
        self.key = key
        self.download = download
        self._lock = threading.Lock()
        self._via: dict[int, tuple[str, ...]] = {}
        self._reading: Counter[int] = Counter()

    def came(self, index: int, via: Sequence[str]) -> None:
        """A piece comes from a peer, through these nodes (empty: from the origin)."""
        with self._lock:
            self._via[index] = tuple(via)

    def via(self, index: int) -> tuple[str, ...]:
        """Where a piece comes from; empty: from the origin."""
        with self._lock:
            return self._via.get(index, ())

    @contextlib.contextmanager
    def reads(self, index: int) -> Iterator[None]:
        """A piece is, or is about to be, read from the origin."""
        with self._lock:
            self._reading[index] += 1
        try:
            yield
        finally:
            with self._lock:
                self._reading[index] -= 1

    def reading(self) -> frozenset[int]:
        """The pieces of which that is so."""
        with self._lock:
            return frozenset(+self._reading)


class _Waiters:
    """Those who wait for pieces of one content: an arrival wakes nobody who waits for another one."""

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.number = 0


class Holdings:
    """Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._downloads: tuple[Expecting, ...] = ()
        self._arriving: dict[TenantKey, Arriving] = {}
        self._waiters: dict[TenantKey, _Waiters] = {}
        self._computing = threading.Lock()
        self._closed = False

    # For downloads

    @contextlib.contextmanager
    def expecting(self, download: Expecting) -> Iterator[None]:
        """As long as this lasts, what `download` expects is on its way."""
        with self._lock:
            self._downloads = (*self._downloads, download)
        try:
            yield
        finally:
            with self._lock:
                self._downloads = tuple(other for other in self._downloads if other is not download)
                self._wake(self._waiters)

    def begin(self, namespace: str, keys: Sequence[ContentKey], file: Arriving) -> None:
        """`file` is going to have this content, for a namespace."""
        with self._lock:
            for key in keys:
                self._arriving[TenantKey(namespace, key)] = file

    def arrived(self, namespace: str, keys: Sequence[ContentKey]) -> None:
        """A piece of the file with this content is finished."""
        with self._lock:
            self._wake(TenantKey(namespace, key) for key in keys)

    def end(self, namespace: str, keys: Sequence[ContentKey], file: Arriving) -> None:
        """The file is a blob now, or given up; its download does not expect it any more."""
        contents = [TenantKey(namespace, key) for key in keys]
        with self._lock:
            for content in contents:
                if self._arriving.get(content) is file:
                    del self._arriving[content]
            self._wake(contents)

    def close(self) -> None:
        """Nobody has to wait any longer."""
        with self._lock:
            self._closed = True
            self._wake(self._waiters)

    def _wake(self, contents: Iterable[TenantKey]) -> None:
        for content in contents:
            if content in self._waiters:
                self._waiters[content].changed.notify_all()

    # For the server

    def find(self, wanted: TenantKey, size: int) -> Content | None:
        """What is here; None when it is neither here nor on its way, for this namespace. Raises StoreError."""
        file, download = self._coming(wanted)
        if file is not None:
            return self._of_arriving(wanted, file)
        return _expected(wanted.key, size, download) if download is not None else self._of_blob(wanted, size)

    def is_blob(self, wanted: TenantKey, size: int) -> bool:
        """Whether the whole content is here, checked."""
        return self._of_blob(wanted, size) is not None

    def progress(self, wanted: TenantKey) -> int:
        """Bytes that the download which this is part of got from the origin; 0 when there is none."""
        _, download = self._coming(wanted)
        return download.progress() if download is not None else 0

    def wait_for(self, wanted: TenantKey, size: int, index: int, seconds: float) -> Content | None:
        """`find`, as soon as piece `index` is there or nothing of it is on its way any more; at last after `seconds`."""
        deadline = time.monotonic() + seconds
        file, download = self._coming(wanted)
        if download is not None and not (file is not None and file.partial.finished(index)):
            download.wanted(file.key if file is not None else wanted.key, index)
        with self._lock:
            waiters = self._waiters.setdefault(wanted, _Waiters(self._lock))
            waiters.number += 1
            try:
                while not self._closed and (left := deadline - time.monotonic()) > 0:
                    file = self._arriving.get(wanted)
                    if file is None and not any(download.expects(wanted) for download in self._downloads):
                        break
                    if file is not None and file.partial.proven_digest(index) is not None:
                        break
                    waiters.changed.wait(left)
            finally:
                waiters.number -= 1
                if not waiters.number:
                    del self._waiters[wanted]
        return self.find(wanted, size)

    def _coming(self, wanted: TenantKey) -> tuple[Arriving | None, Expecting | None]:
        """The file under way with this content, and the download that fetches or expects it."""
        with self._lock:
            file, downloads = self._arriving.get(wanted), self._downloads
        if file is not None:
            return file, file.download
        return None, next((download for download in downloads if download.expects(wanted)), None)

    def _of_arriving(self, wanted: TenantKey, file: Arriving) -> Content:
        partial = file.partial

        def opened() -> int:
            with contextlib.suppress(FileNotFoundError):
                return os.open(partial.data, _FLAGS)
            # It has become a blob since we looked.
            blob = self._of_blob(wanted, partial.size)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, "given up, or just becoming a blob", str(partial.data))
            return blob.open()

        return Content(
            size=partial.size,
            piece_bytes=partial.piece_bytes,
            complete=False,
            digest=partial.proven_digest,
            via=file.via,
            reading=file.reading(),
            defers=lambda index, node: file.download.defers(file.key, index, node),
            open=opened,
        )

    def _of_blob(self, wanted: TenantKey, size: int) -> Content | None:
        algorithm, _, digest = wanted.key.partition(":")
        sha256 = digest if algorithm == "sha256" else self._store.blob_for(git_alias(digest, size))
        row = self._store.blob(sha256) if sha256 is not None else None
        if sha256 is None or row is None or row.size != size:
            return None
        if not self._store.admissions.holds(wanted.namespace, sha256):
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

        return Content(
            size=row.size,
            piece_bytes=piece_bytes,
            complete=True,
            digest=digest_of,
            via=lambda index: (),
            reading=frozenset(),
            defers=lambda index, node: False,
            open=lambda: os.open(path, _FLAGS),
        )


def _expected(key: ContentKey, size: int, download: Expecting) -> Content:
    """Nothing of it is here yet."""

    def opened() -> int:
        raise FileNotFoundError(errno.ENOENT, "not begun yet", key)

    return Content(
        size=size,
        piece_bytes=download.piece_bytes,
        complete=False,
        digest=lambda index: None,
        via=lambda index: (),
        reading=frozenset(),
        defers=lambda index, node: download.defers(key, index, node),
        open=opened,
    )


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
