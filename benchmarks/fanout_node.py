"""One node of `benchmarks.fanout`: the real store, transfer engine, peer server and swarm; the parent is its controller.

Talks JSON lines: says `{"address"}`, is told `{"peers": [[node, address], ...]}` (none: it downloads alone), then `go`, and
says `{"seconds", "origin_bytes", "peer_bytes", "dropped"}` when every file is a verified blob. Serves until its input ends.

    python -m benchmarks.fanout_node NODE ROOT ADDRESS MANIFEST URL [--rate BYTES_PER_SECOND] [--garbage]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import xxhash

from agent.peers.access import Grant
from agent.peers.exchange import PeerExchange
from agent.peers.holdings import Content, Holdings
from agent.peers.keys import TenantKey, sizes_in
from agent.peers.members import PeerAddress
from agent.store import Store
from agent.transfer import Downloader, Progress, TransferSettings
from agent.transfer.pieces import piece_at, piece_count
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest
from modelcache.rpc.address import Address
from modelcache.sources.base import Location

ZONE = "bench"
MODEL = ObjectKey("bench", "model")


def main(arguments: list[str] | None = None) -> int:
    """The process itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout_node", description=__doc__)
    parser.add_argument("node")
    parser.add_argument("root", type=Path)
    parser.add_argument("address")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, help="limits this process instead of its link")
    parser.add_argument("--garbage", action="store_true", help="serve wrong bytes, with digests that fit them")
    parser.add_argument("--piece-bytes", type=int, default=2 << 20)
    options = parser.parse_args(arguments)
    manifest = Manifest.decode(options.manifest.read_bytes())
    settings = TransferSettings(bandwidth=options.rate, reserve_bytes=0, piece_bytes=options.piece_bytes)
    with Store.open(options.root) as store, Downloader(store, settings, environ={}) as downloader:
        exchange = PeerExchange(
            options.node,
            store,
            Address(options.address, 0),
            download_limit=downloader.limiter,
            bandwidth=options.rate,
            zone=lambda: ZONE,
        )
        if options.garbage:
            _spoil(exchange.holdings)
        print(json.dumps({"address": str(exchange.address)}), flush=True)
        told = json.loads(sys.stdin.readline())
        peers = [PeerAddress(node, ZONE, address, complete=False) for node, address in told["peers"]]
        grant = Grant({peer.node: peer.address for peer in peers}, sizes_in(manifest))
        exchange.grant({MODEL: grant})
        sys.stdin.readline()
        print(json.dumps(_download(store, downloader, exchange, manifest, peers, options.url)), flush=True)
        sys.stdin.read()
        exchange.close()
    return 0


def _download(
    store: Store, downloader: Downloader, exchange: PeerExchange, manifest: Manifest, peers: list[PeerAddress], url: str
) -> dict[str, object]:
    started = time.perf_counter()
    swarm = exchange.swarm(MODEL.namespace, peers) if peers else None
    progress: list[Progress] = []
    with store.hold() as hold:
        digests = downloader.fetch(
            manifest,
            lambda file: Location(f"{url}/{file.path}", {}),
            namespace=MODEL.namespace,
            hold=hold,
            progress=progress.append,
            overlay=swarm,
        )
    seconds = time.perf_counter() - started
    fetched = progress[-1].fetched_bytes
    from_peers = swarm.peer_bytes if swarm is not None else 0
    return {
        "seconds": seconds,
        "origin_bytes": fetched - from_peers,
        "peer_bytes": from_peers,
        "dropped": [problem.node for problem in swarm.problems()] if swarm is not None else [],
        "digests": dict(digests),
    }


def _spoil(holdings: Holdings) -> None:
    """From now on what is given to others is wrong in every piece, and announced as if it were right."""
    find = holdings.find

    def lying(wanted: TenantKey, size: int) -> Content | None:
        content = find(wanted, size)
        return _garbage(content) if content is not None else None

    holdings.find = lying  # type: ignore[method-assign]  # this node has gone bad


def _garbage(content: Content) -> Content:
    def digest(index: int) -> bytes | None:
        if content.digest(index) is None:
            return None
        piece = piece_at(index, content.size, content.piece_bytes)
        return xxhash.xxh3_128_digest(bytes(piece.end - piece.start))

    def opened() -> int:
        descriptor = os.memfd_create("garbage")
        os.ftruncate(descriptor, content.size)  # zeros, without taking memory
        return descriptor

    count = piece_count(content.size, content.piece_bytes)
    cached = {index: value for index in range(count) if (value := digest(index)) is not None}
    return replace(content, open=opened, digest=cached.get)


if __name__ == "__main__":
    sys.exit(main())
