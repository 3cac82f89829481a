"""The transfer engine of one agent: what all downloads share, and the one call that fetches a model."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from agent.store.hold import Hold
from agent.store.store import Store
from agent.transfer.budget import OriginBudget
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock, SystemClock
from agent.transfer.connections import ConnectionPool
from agent.transfer.directory import LocatedSource
from agent.transfer.download import Download, Shared
from agent.transfer.flights import Flights
from agent.transfer.hashing import HashPool
from agent.transfer.journal import boot_id
from agent.transfer.limit import NO_LIMIT, Limit
from agent.transfer.limiter import TokenBucket
from agent.transfer.origin import OriginSource, Web
from agent.transfer.pace import PaceBoard
from agent.transfer.pieces import PIECE_BYTES
from agent.transfer.places import Places
from agent.transfer.progress import Meter, Progress
from agent.transfer.sink import BufferPool
from agent.transfer.source import Alone, Overlay
from agent.transfer.space import SpaceLedger, free_bytes
from agent.transfer.xet import XetClient, XetSource
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Location


@dataclass(frozen=True)
class TransferSettings:
    """What can be set. The defaults are for a node with a fast disk and an origin that is shared with others."""

    connections: int = 4
    """Requests under way at one origin, over all downloads of this node; also the worker threads of one download."""
    bandwidth: float | None = None
    """Bytes per second into this node, over all its downloads; None = unlimited."""
    reserve_bytes: int = 1024**3
    """What is always kept free on the file system of the cache root."""
    limit: Limit = NO_LIMIT
    """What the cache may take altogether."""
    piece_bytes: int = PIECE_BYTES
    buffer_bytes: int = 1024**2
    """One buffer for each connection with bytes flowing. Larger ones bring nothing and fall out of the CPU's cache; with
    smaller ones threads wait for each other more often (200 files of 10 MiB: 4.0 s of CPU time with 256 KiB, now 3.4)."""
    hash_threads: int = 2
    """Files that are hashed at the same time. One thread of sha256 follows 1.4 to 1.8 GB/s."""
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    """A connection from which nothing came for so long is replaced."""
    xet: Mapping[str, object] = field(default_factory=dict)
    """Further configuration of hf_xet, by the names of its `XetConfig`; see `agent.transfer.xet.settings`."""
    sync_seconds: float = 5.0
    """How long finished pieces may wait for `fdatasync`, from the end of the one before: what a power failure may cost.
    While a file is synced its writers wait, and a file that is complete sooner is synced only once, when it is
    committed. A killed process loses nothing by it (see `agent.transfer.journal`)."""
    backoff_base: float = 1.0
    backoff_cap: float = 60.0
    """Seconds: the first wait is up to `base`, then up to twice as long each time, never longer than `cap`."""


class Downloader:
    """Create one for each agent, and close it. `fetch` may be called from many threads at once, once for each model."""

    def __init__(
        self,
        store: Store,
        settings: TransferSettings = TransferSettings(),
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Clock = SystemClock(),  # noqa: B008 -- stateless
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311 -- jitter
        self._settings = settings
        self._clock = clock
        self.limiter = TokenBucket(settings.bandwidth, clock)
        """Paid for everything that comes in, from wherever."""
        self._hashes = HashPool(settings.hash_threads)
        self._connections = ConnectionPool(
            environ, clock, idle_limit=settings.connections, connect_seconds=settings.connect_seconds
        )
        boards: dict[str, PaceBoard] = {}
        lock = threading.Lock()

        def pace(origin: str) -> PaceBoard:
            with lock:
                return boards.setdefault(origin, PaceBoard(clock))

        self._web = Web(
            connections=self._connections,
            budget=OriginBudget(settings.connections, clock, rng, settings.backoff_base, settings.backoff_cap),
            limiter=self.limiter,
            pace=pace,
            clock=clock,
            stall_seconds=settings.stall_seconds,
        )
        self.space = SpaceLedger(
            lambda: free_bytes(store.paths.root),
            settings.reserve_bytes,
            limit=lambda: settings.limit.bytes_of(store.paths.root),
            occupied=store.census.occupied,
        )
        self._xet = XetClient(settings.connections, store.paths.staging / "xet", settings.xet)
        self._shared = Shared(
            store=store,
            hashes=self._hashes,
            buffers=BufferPool(settings.buffer_bytes),
            space=self.space,
            flights=Flights(),
            clock=clock,
            rng=rng,
            boot=boot_id(),
            piece_bytes=settings.piece_bytes,
            sync_seconds=settings.sync_seconds,
            backoff_base=settings.backoff_base,
            backoff_cap=settings.backoff_cap,
        )

    def fetch(
        self,
        manifest: Manifest,
        locate: Callable[[ManifestFile], Location],
        *,
        namespace: str,
        hold: Hold,
        progress: Callable[[Progress], None] | None = None,
        watch: Callable[[Callable[[], Progress]], None] | None = None,
        cancel: CancelToken | None = None,
        overlay: Overlay | None = None,
        together: str = "",
    ) -> Mapping[str, str]:
        """Makes all files of a checked manifest blobs of the store; returns their sha256 by path. Blocks.

        What is here already is not fetched: the finished pieces of an earlier call, also one that was killed, and blobs:
        those that `namespace` has had already, and those that the source shows to have as well (`agent.transfer.proof`).
        `overlay` is who else takes part. `together` is the name of an origin from which downloads of all namespaces may fetch
        what is the same for each other (see `agent.transfer.items.flight_keys`).
        `hold` keeps what arrives from garbage collection; publish before you leave it.
        `progress` is called from several threads, one at a time, and must not block. `watch` is called once, with a function
        that tells how things are at any time and from any thread: for whoever asks instead of being told, and wants to
        know also while nothing happens.

        Raises IntegrityError, InsufficientStorage (before the first byte, and with nothing left behind), Cancelled; those
        SourceErrors that are not retryable; and StoreError when the disk fails. Waits out everything else.
        """
        meter = Meter(manifest.size, len(manifest.files), self._clock, progress)
        if watch is not None:
            watch(meter.progress)
        places = Places(locate, self._clock)
        source = LocatedSource(places, OriginSource(self._web, places), XetSource(self._web, places, self._xet))
        overlay = overlay or Alone(self._settings.connections)
        with (cancel or CancelToken()).child() as token:
            return Download(
                self._shared, namespace, manifest, overlay.join(source), overlay, meter, hold, token, together
            ).run()

    def reserved_bytes(self) -> int:
        """Room on the disk that downloads have reserved and not written yet."""
        return self._shared.space.reserved()

    def close(self) -> None:
        """Closes connections and ends the hash threads. Cancel all fetches first."""
        self._connections.close()
        self._hashes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
