"""A node's cache and its downloads in memory, for tests of what decides about them.

`MemoryCache` keeps the rules of `agent.store.Store` that others rely on (nothing is published without its content, garbage
is what nobody refers to, holds or names) and writes down every change in order. `MemoryFetcher` begins downloads that do
what the test says, in real threads.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.peers.members import PeerAddress, PeerProblem
from agent.ports import Cache, Fetcher
from agent.store import (
    DELETED,
    BlobMissing,
    HubClaim,
    Keep,
    Policy,
    Problem,
    ProblemKind,
    PublishConflict,
    PublishedSnapshot,
)
from agent.transfer import Cancelled, Progress
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Credential
from tests.support.waiting import PATIENCE


def content_digest(source: str, path: str) -> str:
    """The sha256 that a file has at its source, unless the test says otherwise."""
    return hashlib.sha256(f"{source} {path}".encode()).hexdigest()


class MemoryCache:
    """Thread-safe. `log` holds every change as (what, which model or digest, ...), in order."""

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.manifests: dict[str, Manifest] = {}
        self.rows: dict[tuple[str, str, str], PublishedSnapshot] = {}
        self.problems: dict[tuple[str, str, str], list[Problem]] = {}
        """What the next quick checks find."""
        self.log: list[tuple[str, ...]] = []
        self.failures: dict[str, list[Exception]] = {}
        """What the next calls of a method raise instead."""
        self.gates: dict[str, threading.Event] = {}
        """What `remove_model` waits for, if it is there."""
        self.holds: dict[int, set[str]] = {}
        """Content that is kept from garbage collection, by download."""
        self._lock = threading.Lock()

    def _enter(self, method: str, *what: str) -> None:
        if self.failures.get(method):
            raise self.failures[method].pop(0)
        self.log.append((method, *what))

    def put(
        self, namespace: str, name: str, manifest: Manifest, *, hub: HubClaim | None = None, policy: Policy = DELETED
    ) -> None:
        """As if a former process had downloaded, published and switched to this manifest."""
        self.blobs |= {file.sha256 for file in manifest.files if file.sha256}
        self.publish(namespace, name, manifest, hub, policy)
        self.set_current(namespace, name, manifest.snapshot)
        self.log.clear()

    def damage(self, namespace: str, name: str, manifest: Manifest, *, lost: bool) -> None:
        """Let the first file of a snapshot differ from what was published; `lost`: also its content is gone."""
        digest = str(manifest.files[0].sha256)
        if lost:
            self.blobs.discard(digest)
        problem = Problem(Path("/cache") / manifest.files[0].path, ProblemKind.CHANGED, "size is 1, was 2", digest)
        self.problems[namespace, name, manifest.snapshot] = [problem]

    def add(self, hold: int, digests: Mapping[str, str], revision: str) -> None:
        """A download has brought this."""
        with self._lock:
            self.holds[hold] = set(digests.values())
            self.blobs |= self.holds[hold]
            self.log.append(("downloaded", revision))

    def published(self) -> list[PublishedSnapshot]:
        with self._lock:
            return list(self.rows.values())

    def manifest(self, digest: str) -> Manifest | None:
        return self.manifests.get(digest)

    def save_manifest(self, manifest: Manifest) -> str:
        self._enter("save_manifest", manifest.digest)
        self.manifests[manifest.digest] = manifest
        return manifest.digest

    def publish(
        self,
        namespace: str,
        name: str,
        manifest: Manifest,
        hub: HubClaim | None = None,
        policy: Policy = DELETED,
    ) -> PublishedSnapshot:
        key = (namespace, name, manifest.snapshot)
        with self._lock:
            self._enter("publish", *key)
            digest = manifest.digest
            if key in self.rows and self.rows[key].manifest_digest != digest:
                raise PublishConflict(f"{key} has other content")
            for file in manifest.files:
                if file.sha256 not in self.blobs:
                    raise BlobMissing(f"{file.path} is not here")
            self.manifests[digest] = manifest
            count, current = len(manifest.files), key in self.rows and self.rows[key].current
            row = PublishedSnapshot(*key, digest, manifest.source, manifest.size, count, 1000.0, 1000.0, current, hub)
            self.rows[key] = self.rows[key]._replace(hub=hub) if key in self.rows else row
            for other in [other for other in self.rows if other[:2] == key[:2]]:
                self.rows[other] = self.rows[other]._replace(policy=policy)
            return self.rows[key]

    def set_current(self, namespace: str, name: str, snapshot: str) -> None:
        with self._lock:
            self._enter("set_current", namespace, name, snapshot)
            for key, row in self.rows.items():
                if key[:2] == (namespace, name):
                    now = key[2] == snapshot
                    until = None if now or not row.current else 2000.0
                    self.rows[key] = row._replace(current=now, current_since=1000.0, current_until=until)

    def release(self, namespace: str, name: str) -> None:
        with self._lock:
            self._enter("release", namespace, name)
            for key, row in self.rows.items():
                if key[:2] == (namespace, name):
                    self.rows[key] = row._replace(current=False, current_until=2000.0)

    def remove_snapshot(self, namespace: str, name: str, snapshot: str, *, spare_current: bool = False) -> None:
        with self._lock:
            if spare_current and self.rows[namespace, name, snapshot].current:
                return
            self._enter("remove_snapshot", namespace, name, snapshot)
            self.rows.pop((namespace, name, snapshot), None)

    def remove_model(self, namespace: str, name: str) -> None:
        if "remove_model" in self.gates:
            self.gates["remove_model"].wait(PATIENCE)
        with self._lock:
            self._enter("remove_model", namespace, name)
            self.rows = {key: row for key, row in self.rows.items() if key[:2] != (namespace, name)}

    def collect_garbage(self, keep: Keep = Keep()) -> None:  # noqa: B008 -- immutable, as in the original
        with self._lock:
            self._enter("collect_garbage")
            used = {row.manifest_digest for row in self.rows.values()}
            referenced = {str(file.sha256) for digest in used for file in self.manifests[digest].files}
            self.blobs &= referenced.union(keep.blobs, *self.holds.values())
            self.manifests = {d: m for d, m in self.manifests.items() if d in used or d in keep.manifests}

    def quick_check(self, namespace: str, name: str, snapshot: str) -> list[Problem]:
        return list(self.problems.get((namespace, name, snapshot), ()))

    def deep_check(
        self, namespace: str, name: str, snapshot: str, paid: Callable[[int], None] = lambda count: None
    ) -> list[Problem]:
        paid(1)
        return self.quick_check(namespace, name, snapshot)

    def verify_blob(self, sha256: str, paid: Callable[[int], None] = lambda count: None) -> bool:
        paid(1)
        return sha256 in self.blobs

    def restore(self, namespace: str, name: str, snapshot: str) -> None:
        key = (namespace, name, snapshot)
        with self._lock:
            self._enter("restore", *key)
            for file in self.manifests[self.rows[key].manifest_digest].files:
                if file.sha256 not in self.blobs:
                    raise BlobMissing(f"{file.path} is not here")
            self.problems.pop(key, None)


class MemoryFetch:
    """One download. It runs until the test lets it: `finish`, `fail`, or `cancel` by the agent."""

    def __init__(self, cache: MemoryCache, manifest: Manifest, credential: Credential | None) -> None:
        self.manifest = manifest
        self.credential = credential
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self.closed = False
        self.digests: dict[str, str] = {}
        """Where the content differs from what `content_digest` says, by path."""
        self.now = Progress(manifest.size, 0, 0, 0, len(manifest.files), 0, None)
        self.peers: tuple[PeerAddress, ...] = ()
        """The other agents of the model, as told last."""
        self.liars: tuple[PeerProblem, ...] = ()
        """What `peer_problems` says."""
        self._cache = cache
        self._go = threading.Event()
        self._error: Exception | None = None

    def run(self) -> Mapping[str, str]:
        try:
            if not self._go.wait(PATIENCE):
                raise TimeoutError("the test has forgotten a download")
            if self.cancelled.is_set():
                raise Cancelled("the download was cancelled")
            if self._error is not None:
                raise self._error
            digests = {file.path: self._digest(file) for file in self.manifest.files}
            self._cache.add(id(self), digests, self.manifest.revision)
            size = self.manifest.size
            self.now = self.now._replace(received_bytes=size, verified_bytes=size, fetched_bytes=size)
            return digests
        finally:
            self.ended.set()

    def _digest(self, file: ManifestFile) -> str:
        return self.digests.get(file.path) or file.sha256 or content_digest(self.manifest.source, file.path)

    def finish(self) -> None:
        """Everything arrives."""
        self._go.set()

    def fail(self, error: Exception) -> None:
        """It ends with this."""
        self._error = error
        self._go.set()

    def cancel(self) -> None:
        self.cancelled.set()
        self._go.set()

    def progress(self) -> Progress | None:
        return self.now

    def meet(self, peers: Sequence[PeerAddress]) -> None:
        self.peers = tuple(peers)

    def peer_problems(self) -> Sequence[PeerProblem]:
        return self.liars

    def close(self) -> None:
        assert self.ended.is_set(), "closed while it runs"
        self.closed = True
        self._cache.holds.pop(id(self), None)


class MemoryFetcher:
    """Begins downloads; `begun` are all of them, in order. `automatic`: they finish by themselves."""

    def __init__(self, cache: MemoryCache, *, automatic: bool = False) -> None:
        self.begun: list[MemoryFetch] = []
        self.automatic = automatic
        self._cache = cache

    def begin(
        self, namespace: str, manifest: Manifest, credential: Credential | None, peers: Sequence[PeerAddress]
    ) -> MemoryFetch:
        fetch = MemoryFetch(self._cache, manifest, credential)
        fetch.meet(peers)
        if self.automatic:
            fetch.finish()
        self.begun.append(fetch)
        return fetch


_CACHE: type[Cache] = MemoryCache
_FETCHER: type[Fetcher] = MemoryFetcher
