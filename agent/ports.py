"""What the control side needs from the disk and from the network: two narrow interfaces.

`agent.store.Store` is a `Cache` as it is; `agent.fetching` makes a `Fetcher` of the transfer engine. Everything that decides
(`agent.worker`, `agent.models`) knows only these, so its tests run on memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agent.peers.members import PeerAddress, PeerProblem
from agent.store import HubClaim, Keep, Policy, Problem, PublishedSnapshot
from agent.transfer.progress import Progress
from modelcache.manifest import Manifest
from modelcache.sources.base import Credential


class Cache(Protocol):
    """Content and published directories of this node. Blocking, from any thread; raises `agent.store.StoreError`.

    The methods are explained at `agent.store.Store`.
    """

    def published(self) -> Sequence[PublishedSnapshot]:
        """Everything that is published."""
        ...

    def manifest(self, digest: str) -> Manifest | None:
        """A kept manifest."""
        ...

    def save_manifest(self, manifest: Manifest) -> str:
        """Keep a manifest; its digest."""
        ...

    def publish(
        self, namespace: str, name: str, manifest: Manifest, hub: HubClaim | None = None, policy: Policy = ...
    ) -> PublishedSnapshot:
        """Make a complete manifest whose content is here visible as a directory. `current` is not changed."""
        ...

    def set_current(self, namespace: str, name: str, snapshot: str) -> None:
        """Flip `current`."""
        ...

    def release(self, namespace: str, name: str) -> None:
        """Let nothing of a model be in force any more; its files stay."""
        ...

    def remove_snapshot(self, namespace: str, name: str, snapshot: str, *, spare_current: bool = False) -> None:
        """Take one published directory away."""
        ...

    def remove_model(self, namespace: str, name: str) -> None:
        """Take everything published of a model away."""
        ...

    def collect_garbage(self, keep: Keep = ...) -> object:
        """Delete content that nothing refers to, but for `keep`."""
        ...

    def quick_check(self, namespace: str, name: str, snapshot: str) -> Sequence[Problem]:
        """What differs from the publication, without reading content."""
        ...

    def deep_check(
        self, namespace: str, name: str, snapshot: str, paid: Callable[[int], None] = ...
    ) -> Sequence[Problem]:
        """What differs from the publication, by reading everything. `paid` is called now and then, and may raise."""
        ...

    def verify_blob(self, sha256: str, paid: Callable[[int], None] = ...) -> bool:
        """Read content and compare it with its digest; what is wrong is dropped."""
        ...

    def restore(self, namespace: str, name: str, snapshot: str) -> object:
        """Put published files right from content that is here."""
        ...


class Fetch(Protocol):
    """One download of all files of a manifest."""

    def run(self) -> Mapping[str, str]:
        """Blocks until every file is in the cache and checked; path -> sha256 of all files.

        Call it once. What has arrived is kept from garbage collection until `close`. What is retryable is waited out
        inside. Raises SourceError, StoreError and TransferError, and
        `agent.transfer.errors.Cancelled` after `cancel`.
        """
        ...

    def cancel(self) -> None:
        """Make `run` end soon, from any thread. What has arrived is not lost."""
        ...

    def progress(self) -> Progress | None:
        """Where it is, from any thread; None before it has begun."""
        ...

    def meet(self, peers: Sequence[PeerAddress]) -> None:
        """These are the other agents of the model now."""
        ...

    def peer_problems(self) -> Sequence[PeerProblem]:
        """Peers that have sent wrong content, from any thread."""
        ...

    def close(self) -> None:
        """What has arrived is published, or not needed any more. Call it after `run` has ended; may be repeated."""
        ...


class Fetcher(Protocol):
    """Begins downloads."""

    def begin(
        self, namespace: str, manifest: Manifest, credential: Credential | None, peers: Sequence[PeerAddress]
    ) -> Fetch:
        """A download for a namespace that starts with its `run`. `peers` are the other agents of the model, to begin with."""
        ...
