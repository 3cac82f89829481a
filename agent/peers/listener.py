"""Accepts connections of other agents: how many, and with TLS who they are.

Anybody who reaches the port can connect, so what that costs is bounded twice. Connections that have shown a certificate
have a number of places of their own. Those that have not may be few, and not for long; when there are more, the one that has
been at it for longest goes: a handshake of one who means it takes milliseconds, and in that time he is not the oldest.

A certificate counts as long as it is good and this agent's own is still the one that the connection was made with: with
a renewed certificate, and so with every change of the trusted authorities, connections are made anew.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modelcache.loglimit import LogLimit
from modelcache.tls.certificates import CertificateError, Presented
from modelcache.tls.credentials import Credentials, presented_by
from modelcache.tls.wallet import NoCredentials, Wallet

_log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
HANDSHAKES = 64
"""Connections that have not yet shown who they are. Each is a thread."""
PER_NODE = 128
"""Connections of one node: those of eight downloads at a time, and half of all, so that a stolen one leaves some to others."""


class Certified:
    """What a connection was made with: the peer's certificate, and our credentials then."""

    def __init__(self, presented: Presented | None, ours: Credentials, wallet: Wallet) -> None:
        self._presented = presented
        self._ours = ours
        self._wallet = wallet

    @property
    def node(self) -> str | None:
        """The node at the other end, None when its certificate is none of an agent, or has expired."""
        presented = self._presented
        return presented.identity.node if presented and datetime.now(UTC) < presented.not_after else None

    @property
    def is_stale(self) -> bool:
        """Whether the next request has to come on a new connection."""
        return self._wallet.held is not self._ours or self.node is None


class Listener(ThreadingHTTPServer):
    """Starts `handler` in a thread for each connection; `certified` tells it whom it talks to."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        handler: Callable[..., BaseHTTPRequestHandler],
        wallet: Wallet | None,
        connections: int,
    ) -> None:
        """`wallet` None: no TLS. Raises OSError when the address cannot be had."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._wallet = wallet
        self._limit = connections
        self._lock = threading.Lock()
        self._strangers: dict[socket.socket, None] = {}
        """In the order in which they came."""
        self._connections: dict[socket.socket, Certified | None] = {}
        self._quietly = LogLimit(_log, time.monotonic)
        super().__init__(address, handler)

    def certified(self, connection: socket.socket) -> Certified | None:
        """What the handshake of an open connection has shown; None without TLS."""
        with self._lock:
            return self._connections.get(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In the thread that accepts: never waits."""
        if self._wallet is None:
            if not self._admit(request, None, client_address[0]):
                # Closed without an answer: writing one could block.
                self.shutdown_request(request)
                return
        else:
            with self._lock:
                oldest = next(iter(self._strangers)) if len(self._strangers) >= HANDSHAKES else None
                if oldest is not None:
                    del self._strangers[oldest]
                self._strangers[request] = None
            if oldest is not None:
                self._quietly.warning(
                    "crowd", "too many connections at a time, the last one from %s", client_address[0]
                )
                _shut(oldest)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        if self._wallet is None:
            super().finish_request(request, client_address)
            return
        secured = self._shake_hands(request, client_address[0], self._wallet)
        if secured is None:
            return
        try:
            super().finish_request(secured, client_address)
        finally:
            self.shutdown_request(secured)

    def _shake_hands(self, request: socket.socket, host: str, wallet: Wallet) -> ssl.SSLSocket | None:
        """The secured connection, None when there is to be none."""
        secured = None
        try:
            request.settimeout(HANDSHAKE_SECONDS)
            ours = wallet.current
            with self._lock:
                if request not in self._strangers:
                    return None  # others came after it
                secured = ours.server_context().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                self._strangers[secured] = self._strangers.pop(request)
            secured.do_handshake()
            certified = Certified(presented_by(secured), ours, wallet)
            if self._admit(secured, certified, host):
                return secured
        except (OSError, NoCredentials, CertificateError) as error:  # ssl.SSLError is an OSError
            self._quietly.warning("handshake", "refused a connection from %s: %s", host, error)
        finally:
            with self._lock:
                self._strangers.pop(secured or request, None)
        if secured is not None:
            self.shutdown_request(secured)
        return None

    def _admit(self, connection: socket.socket, certified: Certified | None, host: object) -> bool:
        with self._lock:
            full = len(self._connections) >= self._limit
            if certified is not None:
                same = sum(1 for other in self._connections.values() if other and other.node == certified.node)
                full = full or same >= PER_NODE
            if not full:
                self._connections[connection] = certified
        if full:
            node = certified.node if certified is not None else None
            self._quietly.warning("full", "refused a connection from %s (node %s): there are too many", host, node)
        return not full

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        with self._lock:
            self._connections.pop(request, None)
            self._strangers.pop(request, None)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Breaks all of them; their threads end by that."""
        with self._lock:
            connections = [*self._connections, *self._strangers]
        for connection in connections:
            _shut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A mistake of ours: what a peer does wrong is an answer, or the end of its connection."""
        _log.warning("a request of %s failed", client_address[0], exc_info=True)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not SSLSocket's own: that takes the encryption away first, under the hands of the thread that reads.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
