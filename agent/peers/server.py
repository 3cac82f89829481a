"""Serves content to other agents: threads, blocking sockets, and `sendfile` from the page cache (see `agent.peers.wire`).

With TLS there is no `sendfile`: pieces go through a buffer of SEND_BYTES, which gives half of the speed of the plain socket,
more than a link of 10 Gbit/s, for each connection. (`SSLSocket.sendfile` would send 8 KiB at a time.)

`benchmarks/data_plane.py` compares this with its alternatives. A thread costs some 100 KiB of memory and nothing while it
waits, and there are few: connections are capped, and so are the uploads among them. A request for a piece that is still
arriving waits here, so that the asker need not poll and gets it at the first possible moment.

A peer is trusted no further than the controller's word goes. What it sends is parsed by `agent.peers.wire`, never becomes a
path, and cannot make this process hold much: headers are bounded by `http.server` (64 KiB a line, 100 lines), a body is
never read, a connection that is silent or takes bytes too slowly is closed.
"""

from __future__ import annotations

import logging
import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any

from agent.peers.access import Access, Grant
from agent.peers.admission import Absent, Busy, Have, Hold, Redirect, Serve
from agent.peers.holdings import Content, Holdings
from agent.peers.identity import peer_node
from agent.peers.keys import TenantKey
from agent.peers.listener import Listener
from agent.peers.ranking import PeerId, PieceId
from agent.peers.tuning import DEFAULT_TUNING, SwarmTuning
from agent.peers.uploads import Uploads
from agent.peers.wire import (
    DIGEST_HEADER,
    NAMESPACE_HEADER,
    PREFIX,
    PROGRESS_HEADER,
    VIA_HEADER,
    Ask,
    BadRequest,
    encode_holding,
    parse_request,
)
from agent.store import StoreError
from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled
from agent.transfer.limiter import TokenBucket
from agent.transfer.pieces import piece_at
from modelcache.tls.wallet import Wallet

_log = logging.getLogger(__name__)

SEND_BYTES = 1024 * 1024
SLOWEST = 64 * 1024
"""Bytes per second. A peer that takes less blocks a place for longer than it is worth."""
MAX_HEADER_BYTES = 8 * 1024
"""Of one line; ours are below 200. (`http.server` stops at 64 KiB.)"""


@dataclass(frozen=True)
class ServerSettings:
    """How much is given to others."""

    connections: int = 256
    idle_seconds: float = 60.0
    """A connection without a request, or without progress, is closed after this."""


class PeerServer:
    """Listens from the beginning until `close`."""

    def __init__(
        self,
        node: str,
        host: str,
        port: int,
        holdings: Holdings,
        access: Access,
        limiter: TokenBucket,
        tuning: SwarmTuning = DEFAULT_TUNING,
        settings: ServerSettings = ServerSettings(),
        wallet: Wallet | None = None,
        on_sent: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Raises OSError when the address cannot be had. `limiter` is paid for everything that is sent, `on_sent` told of it.

        `wallet` None: no TLS, and everybody is believed who he says that he is.
        """
        self.node = node
        self.holdings = holdings
        self.access = access
        self.limiter = limiter
        self.on_sent = on_sent
        self.settings = settings
        self.tuning = tuning
        self.uploads = Uploads(tuning)
        self.closing = CancelToken()
        self.listener = Listener(
            (host, port), lambda *connection: _Handler(self, *connection), wallet, settings.connections
        )
        self._thread = threading.Thread(
            target=self.listener.serve_forever, args=(0.1,), name="peer server", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The one it got."""
        return int(self.listener.server_address[1])

    def close(self) -> None:
        """Stops listening and breaks all connections."""
        self.closing.cancel()
        self.holdings.close()
        self.listener.shutdown()
        self.listener.server_close()
        self.listener.close_connections()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "modelcache"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1
    """Buffered: the head of an answer goes out in one segment, flushed before the body."""

    def __init__(self, peers: PeerServer, *connection: Any) -> None:
        self.peers = peers
        super().__init__(*connection)

    def setup(self) -> None:
        super().setup()
        self.certified = self.peers.listener.certified(self.connection)
        self.connection.settimeout(self.peers.settings.idle_seconds)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("%s %s", self.client_address[0], format % args)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the peer has gone, or does not take what it asked for

    def do_GET(self) -> None:
        """Answers one request."""
        headers = {name.title(): value for name, value in self.headers.items()}
        if any(len(value) > MAX_HEADER_BYTES for value in headers.values()):
            return self._refuse(431, "a header is too long")
        if "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0":
            self.close_connection = True
            return self._refuse(400, "a request has no body")
        try:
            ask = parse_request(self.path, headers.get("Range"))
        except BadRequest as error:
            return self._refuse(400, str(error))
        node = peer_node(self.certified, headers)
        found = self.peers.access.find(node, ask.key, headers.get(NAMESPACE_HEADER)) if node is not None else None
        if node is None or found is None:
            return self._refuse(403, "the controller has not said that this node may read this content here")
        wanted, grant = found
        try:
            if ask.about_pieces:
                return self._tell_pieces(ask, wanted, grant)
            return self._serve(ask, wanted, grant, node)
        except StoreError as error:
            _log.warning("cannot serve %s: %s", ask.key, error)
            return self._later(wanted, self.peers.tuning.retry)

    def _tell_pieces(self, ask: Ask, wanted: TenantKey, grant: Grant) -> None:
        content = self.peers.holdings.find(wanted, grant.content[ask.key])
        if content is None:
            return self._refuse(404, "not here")
        body = encode_holding(content.holding(digests=ask.digests))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _serve(self, ask: Ask, wanted: TenantKey, grant: Grant, node: str) -> None:
        content = self.peers.holdings.find(wanted, grant.content[ask.key])
        if content is None:
            return self._refuse(404, "not here")
        index = ask.first // content.piece_bytes
        if ask.last >= content.size or index != ask.last // content.piece_bytes:
            return self._refuse(416, f"not within one piece of {content.piece_bytes} bytes")
        piece = _served(wanted, index)
        for held in (False, True):
            via, digest = _origin_of(content, index)
            coming = index in content.reading or not content.defers(index, node)
            have = Have.YES if digest is not None else Have.UNDER_WAY if coming else Have.NO
            answer = self.peers.uploads.decide(PeerId(node), piece, have, grant.nodes, held=held)
            match answer:
                case Serve():
                    assert digest is not None
                    try:
                        return self._send_piece(ask, content, piece, digest, via, node)
                    finally:
                        self.peers.uploads.finished()
                case Redirect(peer):
                    return self._redirect(ask, grant.nodes[peer])
                case Busy(seconds):
                    return self._later(wanted, seconds)
                case Hold(seconds):
                    found = self._hold(wanted, content, index, have, seconds)
                    if found is None:
                        return self._refuse(404, "not here any more")
                    content = found
                case Absent():
                    return self._refuse(404, "not here")
        raise AssertionError("a request is held once")

    def _hold(self, wanted: TenantKey, content: Content, index: int, have: Have, seconds: float) -> Content | None:
        """Waits until the piece is here and there is a place for it; what is here of the content then."""
        deadline = time.monotonic() + seconds
        try:
            found = self.peers.holdings.wait_for(wanted, content.size, index, seconds)
            self.peers.uploads.wait(deadline - time.monotonic())
        finally:
            self.peers.uploads.waited(have)
        return found

    def _send_piece(
        self, ask: Ask, content: Content, piece: PieceId, digest: bytes, via: tuple[str, ...], node: str
    ) -> None:
        try:
            descriptor = content.open()
        except OSError:
            return self._refuse_for_now(0.1, 0)
        try:
            count = ask.last - ask.first + 1
            self.send_response(206)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(count))
            self.send_header("Content-Range", f"bytes {ask.first}-{ask.last}/{content.size}")
            self.send_header(DIGEST_HEADER, digest.hex())
            self.send_header(VIA_HEADER, ",".join((*via, self.peers.node)))
            self.end_headers()
            self.wfile.flush()
            end = piece_at(piece.number, content.size, content.piece_bytes).end
            if self._send_file(descriptor, ask.first, count) and ask.last + 1 == end:
                self.peers.uploads.has_served(piece, PeerId(node))
        finally:
            os.close(descriptor)

    def end_headers(self) -> None:
        if self.certified is not None and self.certified.is_stale:
            self.send_header("Connection", "close")
        super().end_headers()

    def _send_file(self, descriptor: int, offset: int, count: int) -> bool:
        """Whether all of it went out; if not, the connection is closed, so that the peer notices."""
        deadline = time.monotonic() + self.peers.settings.idle_seconds + count / SLOWEST
        limiter = self.peers.limiter
        secured = isinstance(self.connection, ssl.SSLSocket)
        buffer = memoryview(bytearray(min(SEND_BYTES, count) if secured else 0))
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            while count > 0:
                portion = limiter.portion(min(SEND_BYTES, count))
                if secured:
                    sent = os.preadv(descriptor, [buffer[:portion]], offset)
                    self.connection.sendall(buffer[:sent])
                else:
                    sent = self.connection.sendfile(file, offset, portion)
                if sent == 0 or time.monotonic() > deadline:
                    self.close_connection = True
                    return False
                offset, count = offset + sent, count - sent
                self.peers.on_sent(sent)
                try:
                    limiter.pay(sent, self.peers.closing)
                except Cancelled:
                    self.close_connection = True
                    return False
        return True

    def _redirect(self, ask: Ask, address: str) -> None:
        self.send_response(307)
        # Without a scheme: it is that of this connection (RFC 3986, 4.2).
        self.send_header("Location", f"//{address}{PREFIX}{ask.key}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _later(self, wanted: TenantKey, seconds: float) -> None:
        self._refuse_for_now(seconds, self.peers.holdings.progress(wanted))

    def _refuse_for_now(self, seconds: float, progress: int) -> None:
        headers = {"Retry-After": str(math.ceil(seconds)), PROGRESS_HEADER: str(progress)}
        self._refuse(503, "not here yet, or too many uploads; come again", headers)

    def _refuse(self, status: int, reason: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        body = (reason + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _served(wanted: TenantKey, index: int) -> PieceId:
    """A piece for the uploads to count: whoever got it for one namespace may have nothing to give for another."""
    return PieceId(f"{wanted.namespace}/{wanted.key}", index)


def _origin_of(content: Content, index: int) -> tuple[tuple[str, ...], bytes | None]:
    """The way that a piece came, and its digest (None: it is not here), of the same moment.

    It may arrive, or be replaced, in between; then one of the two would be that of another piece, and the wrong node be blamed.
    """
    via = content.via(index)
    while True:
        digest, now = content.digest(index), content.via(index)
        if now == via:
            return via, digest
        via = now
