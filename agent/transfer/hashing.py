"""Digests of whole files, computed while the files arrive.

sha256 is sequential, pieces arrive in any order. So a file has a *follower*: it hashes the finished prefix, as far as that
goes, and rests when the next piece is missing. Pieces are fetched in ascending order, so the follower reads what was
written moments ago, from the page cache: the disk is not read for it, and when the last byte arrives, the digest is
nearly done.

A few threads serve the followers of all downloads. One file's sha256 cannot be spread over cores, but several files can be
hashed at once, and hashing, like reading, releases the interpreter lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Self

import xxhash

from agent.store.errors import StoreIOError, io_errors
from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled
from agent.transfer.partial import PartialFile
from modelcache.checksums import Checksum
from modelcache.manifest import ManifestFile

READ_BYTES = 1 << 22
"""At a time. Threads that fetch take the interpreter lock often and may lose their core while they hold it; with more bytes
for each turn the digest needs it less often (measured on two busy cores: some percent over 1 MiB, and no more with 8)."""


class Digests(NamedTuple):
    """Hex digests of a whole file. `git_oid` and `checksum` (see `modelcache.checksums`) are None where not asked for."""

    sha256: str
    git_oid: str | None
    checksum: str | None = None


class FileDigest:
    """sha256, and git's blob id or another checksum where a source publishes that instead, in one pass."""

    def __init__(self, size: int, *, git: bool, checksum: str | None = None) -> None:
        self._sha256 = hashlib.sha256()
        # Git object ids are not used for security here: the sha256 of the same bytes goes into the manifest.
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else None
        self._kind = Checksum.parse(checksum) if checksum is not None else None
        self._checksum = self._kind.begin() if self._kind is not None else None

    @staticmethod
    def of(file: ManifestFile) -> FileDigest:
        """Everything that `file` is to be compared with. A known sha256 makes other checksums needless."""
        return FileDigest(
            file.size,
            git=file.git_oid is not None,
            checksum=file.checksum if file.sha256 is None else None,
        )

    def update(self, data: memoryview) -> None:
        """Adds the next bytes."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)
        if self._checksum is not None:
            self._checksum.update(data)

    def copy(self) -> FileDigest:
        """The state so far, to come back to."""
        other = FileDigest.__new__(FileDigest)
        other._sha256 = self._sha256.copy()
        other._git = self._git.copy() if self._git is not None else None
        other._kind = self._kind
        other._checksum = self._checksum.copy() if self._checksum is not None else None
        return other

    def result(self) -> Digests:
        """The digests of everything that was added."""
        checksum = None
        if self._kind is not None and self._checksum is not None:
            checksum = str(self._kind._replace(value=self._checksum.hexdigest()))
        return Digests(self._sha256.hexdigest(), self._git.hexdigest() if self._git is not None else None, checksum)


class Follower:
    """Hashes one partial file as far as its pieces are finished.

    Callbacks come from a thread of the pool: `verified(count)` after each read, `bad(index)` for a piece of an earlier run
    that is not what its journal says (it is missing again), `done(digests)` at the end, `failed(error)` for anything else.
    """

    def __init__(
        self,
        partial: PartialFile,
        *,
        digest: FileDigest,
        cancel: CancelToken,
        verified: Callable[[int], None],
        bad: Callable[[int], None],
        done: Callable[[Digests], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._partial = partial
        self._cancel = cancel
        self._verified = verified
        self._bad = bad
        self._done = done
        self._failed = failed
        self._digest = digest
        self._next = 0

    def advance(self, buffer: memoryview) -> None:
        """Hashes the finished pieces from where it stands. Called by one thread at a time."""
        try:
            while self._next < self._partial.pieces and self._partial.finished(self._next):
                if not self._follow(self._next, buffer):
                    return
                self._next += 1
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001 -- handed to the download, which raises it where it was called
            self._failed(error)
            return
        if self._next == self._partial.pieces:
            self._next += 1  # done once
            self._done(self._digest.result())

    def _follow(self, index: int, buffer: memoryview) -> bool:
        """Hashes one piece; False when it turned out to be wrong."""
        piece = self._partial.piece(index)
        expected = self._partial.unproven(index)
        before = self._digest.copy() if expected is not None else None
        proof = xxhash.xxh3_128() if expected is not None else None
        offset = piece.start
        while offset < piece.end:
            self._cancel.check()
            with io_errors("read", self._partial.data):
                count = self._partial.read(offset, buffer[: min(len(buffer), piece.end - offset)])
            if count == 0:
                raise StoreIOError(f"{self._partial.data} was cut off at byte {offset} by somebody else")
            self._digest.update(buffer[:count])
            if proof is not None:
                proof.update(buffer[:count])
            self._verified(count)
            offset += count
        if proof is None or before is None:
            return True
        if proof.digest() == expected:
            self._partial.proven(index)
            return True
        self._digest = before
        self._verified(piece.start - piece.end)
        with io_errors("write the journal of", self._partial.data):
            self._partial.take_back([index])
        self._bad(index)
        return False


class HashPool:
    """Threads that advance followers. A follower is never advanced by two of them at once."""

    def __init__(self, threads: int) -> None:
        self._condition = threading.Condition()
        self._ready: deque[Follower] = deque()
        self._states: dict[Follower, bool] = {}
        """Followers that are queued or running; True = look again when done, something was finished meanwhile."""
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"hash-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads after what they are doing now."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def wake(self, follower: Follower) -> None:
        """Something that `follower` waits for may be finished."""
        with self._condition:
            if follower in self._states:
                self._states[follower] = True
                return
            self._states[follower] = False
            self._ready.append(follower)
            self._condition.notify_all()

    def rest(self, follower: Follower) -> None:
        """Blocks until `follower` is neither queued nor running. Cancel it first; nobody may wake it any more."""
        with self._condition:
            if follower in self._ready:
                self._ready.remove(follower)
                self._states.pop(follower, None)
            while follower in self._states:
                self._condition.wait()

    def _run(self) -> None:
        buffer = memoryview(bytearray(READ_BYTES))
        while True:
            with self._condition:
                while not self._ready and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                follower = self._ready.popleft()
                self._states[follower] = False
            follower.advance(buffer)
            with self._condition:
                if self._states.pop(follower):
                    self._states[follower] = False
                    self._ready.append(follower)
                self._condition.notify_all()
