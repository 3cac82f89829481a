"""Several agents' transfer engines, stores and peer servers in one process: a swarm on loopback with one origin."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from agent.peers.access import Grant
from agent.peers.exchange import PeerExchange
from agent.peers.holdings import Content
from agent.peers.keys import TenantKey, sizes_in
from agent.peers.members import PeerAddress, PeerProblem
from agent.peers.swarm import Swarm
from agent.peers.tuning import DEFAULT_TUNING, SwarmTuning
from agent.store import Store
from agent.transfer import CancelToken, Downloader, TransferSettings
from agent.transfer.pieces import piece_at, piece_count
from controller.authority import Authority
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestFile
from modelcache.rpc.address import Address
from modelcache.sources.base import Location
from modelcache.tls.identity import Identity
from modelcache.tls.wallet import Wallet
from tests.support.certificates import credentials, wallet
from tests.support.fetching import PIECE, listed, manifest_of
from tests.support.origin import Origin
from tests.support.waiting import PATIENCE

MODEL = ObjectKey("default", "model")
QUICK = replace(DEFAULT_TUNING, hold=1.0, retry=0.05, cooling_base=0.2, lag=0.5, grace=60.0)
"""The decisions of production, with shorter waits; `grace` is longer, because a busy machine may be slow to begin."""


class Member:
    """One node of a swarm."""

    def __init__(
        self,
        node: str,
        root: Path,
        locate: Callable[[ManifestFile], Location],
        *,
        tuning: SwarmTuning = QUICK,
        zone: str = "zone",
        wallet: Wallet | None = None,
        uploads: float | None = None,
        **settings: Any,
    ) -> None:
        """`uploads`: bytes/s to others, where that is not `bandwidth`."""
        self.node = node
        self.zone = zone
        self.wallet = wallet
        self.sent = 0
        """Bytes for other members."""
        self._counting = threading.Lock()
        self.store = Store.open(root / node)
        options: dict[str, Any] = {"piece_bytes": PIECE, "reserve_bytes": 0, "backoff_base": 0.05, **settings}
        self.downloader = Downloader(self.store, TransferSettings(**options), environ={}, rng=random.Random(node))
        self.exchange = PeerExchange(
            node, self.store, Address("127.0.0.1", 0), download_limit=self.downloader.limiter, tuning=tuning, zone=lambda: zone,
            bandwidth=uploads or options.get("bandwidth"), wallet=wallet, on_sent=self._count,
        )  # fmt: skip
        self.cancel = CancelToken()
        self.digests: Mapping[str, str] | None = None
        self.error: BaseException | None = None
        self.swarm: Swarm | None = None
        self._locate = locate
        self._peers: dict[ObjectKey, list[PeerAddress]] = {}
        self._grants: dict[ObjectKey, Grant] = {}
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return str(self.exchange.address)

    def _count(self, number: int) -> None:
        with self._counting:
            self.sent += number

    def meet(
        self,
        others: Iterable[Member],
        manifest: Manifest,
        complete: Iterable[Member] = (),
        earlier: Iterable[Member] = (),
        model: ObjectKey = MODEL,
    ) -> None:
        """What the controller would say: these are your peers for a model; those in `earlier` have another revision."""
        done, former = {member.node for member in complete}, {member.node for member in earlier}
        peers = [
            PeerAddress(m.node, m.zone, m.address, m.node in done, earlier=int(m.node in former))
            for m in others
            if m is not self
        ]
        self._peers[model] = peers
        self._grants[model] = Grant({peer.node: peer.address for peer in peers}, sizes_in(manifest))
        self.exchange.grant(self._grants)
        if self.swarm is not None:
            self.swarm.update(peers)

    def start(
        self,
        manifest: Manifest,
        model: ObjectKey = MODEL,
        locate: Callable[[ManifestFile], Location] | None = None,
    ) -> None:
        """Begin the download in a thread."""
        self._thread = threading.Thread(target=self._run, args=(manifest, model, locate or self._locate))
        self._thread.start()

    def _run(self, manifest: Manifest, model: ObjectKey, locate: Callable[[ManifestFile], Location]) -> None:
        self.error, self.digests = None, None
        self.swarm = self.exchange.swarm(model.namespace, self._peers.get(model, []))
        try:
            with self.store.hold() as hold:
                self.digests = self.downloader.fetch(
                    manifest,
                    locate,
                    namespace=model.namespace,
                    hold=hold,
                    cancel=self.cancel,
                    overlay=self.swarm,
                )
        except BaseException as error:
            self.error = error

    def finish(self, manifest: Manifest, timeout: float = PATIENCE) -> None:
        """Wait for the download and check every byte of it."""
        assert self._thread is not None
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{self.node} did not finish"
        if self.error is not None:
            raise self.error
        assert self.digests is not None
        for file in manifest.files:
            data = self.store.paths.blob(self.digests[file.path]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == self.digests[file.path]
            assert file.sha256 in (None, self.digests[file.path])
            assert len(data) == file.size

    @property
    def problems(self) -> tuple[PeerProblem, ...]:
        return self.swarm.problems() if self.swarm is not None else ()

    def die(self) -> None:
        """Gone, as a killed process is: connections break, and nobody listens any more."""
        self.cancel.cancel()
        self.exchange.close()

    def close(self) -> None:
        self.cancel.cancel()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        self.exchange.close()
        self.downloader.close()
        self.store.close()


class Team:
    """Members that know each other, and their origin. With an `authority` they talk TLS."""

    def __init__(self, origin: Origin, root: Path) -> None:
        self.origin = origin
        self.authority: Authority | None = None
        self.members: list[Member] = []
        self._root = root

    def serve(self, *files: tuple[str, bytes], digest: str = "sha256") -> Manifest:
        """Puts files on the origin and lists them."""
        for path, data in files:
            self.origin.files[f"/{path}"] = data
        return manifest_of(*(listed(path, data, digest=digest) for path, data in files))

    def add(self, count: int, **options: Any) -> list[Member]:
        """More members; call `introduce` for them to be known."""
        names = [f"node-{len(self.members) + index}" for index in range(count)]
        new = [Member(name, self._root, self._locate, wallet=self._wallet(name), **options) for name in names]
        self.members += new
        return new

    def _wallet(self, node: str) -> Wallet | None:
        return wallet(credentials(self.authority, Identity(node))) if self.authority else None

    def introduce(self, manifest: Manifest, complete: Sequence[Member] = (), earlier: Sequence[Member] = ()) -> None:
        """Everybody knows everybody."""
        for member in self.members:
            member.meet(self.members, manifest, complete, earlier)

    def run(self, manifest: Manifest, members: Sequence[Member] | None = None) -> None:
        """Everybody downloads and finishes."""
        members = self.members if members is None else members
        for member in members:
            member.start(manifest)
        for member in members:
            member.finish(manifest)

    def _locate(self, file: ManifestFile) -> Location:
        return Location(self.origin.url(f"/{file.path}"), {})


def garble(member: Member, *, honest_digest: bool) -> None:
    """Makes the peer server of `member` send other bytes than it has: with the digest of the right ones, or of the wrong ones.

    Its own copy stays as it is. The same garbage for everybody: that is harder to find than noise.
    """
    holdings = member.exchange.holdings
    find = holdings.find

    def lying(wanted: TenantKey, size: int) -> Content | None:
        content = find(wanted, size)
        return garbled(content, honest_digest=honest_digest) if content is not None else None

    holdings.find = lying  # type: ignore[method-assign]  # a peer gone bad


def garbled(content: Content, *, honest_digest: bool) -> Content:
    """`content` with a wrong byte in every piece."""

    def piece(index: int) -> bytes:
        part = piece_at(index, content.size, content.piece_bytes)
        descriptor = content.open()
        try:
            data = bytearray(os.pread(descriptor, part.end - part.start, part.start))
        finally:
            os.close(descriptor)
        data[len(data) // 2] ^= 0xFF
        return bytes(data)

    def opened() -> int:
        descriptor = os.memfd_create("garbage")
        for index in range(piece_count(content.size, content.piece_bytes)):
            if content.digest(index) is not None:
                os.pwrite(descriptor, piece(index), index * content.piece_bytes)
        return descriptor

    def digest(index: int) -> bytes | None:
        right = content.digest(index)
        return right if right is None or honest_digest else xxhash.xxh3_128_digest(piece(index))

    return replace(content, open=opened, digest=digest)
