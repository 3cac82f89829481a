"""HTTP connections to origins: kept alive, through proxies, with the certificate authorities of this site.

`http.client`, not a client library: bytes are read straight from the socket into a reused buffer, a blocked read can be
ended from another thread, and redirects stay visible (credentials must not follow them). What a library would add is
below: proxies and CA bundles from the environment variables that curl, requests and Go programs agree on.

    HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY   upper or lower case; HTTPS goes through CONNECT
    SSL_CERT_FILE and others                    see `modelcache.sources.tls`; a source may bring authorities of its own
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import ipaddress
import select
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, NamedTuple

from agent.transfer.body import Body
from agent.transfer.clock import Clock
from modelcache.sources import destinations
from modelcache.sources.errors import InvalidURI, Unsupported
from modelcache.sources.tls import tls_context
from modelcache.tls.credentials import presented_node

IDLE_SECONDS = 50.0
"""Kept-alive connections are not used again after this time: servers and load balancers commonly close after 60 s."""
OWN_CONTEXTS = 32
"""Contexts of sources with authorities of their own that are kept; one takes a millisecond to make."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Who answers a URL: the unit of budgets, connections and credentials (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @property
    def text(self) -> str:
        """As it is written in a URL and in messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def split_url(url: str) -> tuple[Origin, str]:
    """The origin and the request target (path and query) of an HTTP URL.

    Raises InvalidURI; its message shows no query, because signed URLs carry their authority there.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidURI(f"the origin gave an address that is no URL: {error}") from error
    shown = url.partition("?")[0][:200]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidURI(f"{shown!r} is not an HTTP address")
    target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    # A request line must not contain blanks or control characters; servers do send them unescaped in Location.
    target = urllib.parse.quote(target, safe="!#$%&'()*+,/:;=?@[]~")
    return Origin(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]), target


class Proxies:
    """Which proxy a request goes through, from the environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        lower = {name.lower(): value.strip() for name, value in environ.items()}
        # Lower case wins, as in curl: where HTTP_PROXY may come from a request header (CGI), http_proxy cannot.
        lower.update({name: value.strip() for name, value in environ.items() if name.islower()})
        everything = lower.get("all_proxy", "")
        self._proxies = {scheme: lower.get(f"{scheme}_proxy", "") or everything for scheme in ("http", "https")}
        self._exempt = [entry.strip().lower() for entry in lower.get("no_proxy", "").split(",") if entry.strip()]

    def proxy_for(self, origin: Origin) -> str | None:
        """The URL of the proxy for `origin`, None for a direct connection."""
        proxy = self._proxies.get(origin.scheme)
        if not proxy or any(_exempts(entry, origin) for entry in self._exempt):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


def _exempts(entry: str, origin: Origin) -> bool:
    """Whether one entry of NO_PROXY covers `origin`: `*`, a host, a domain with or without dot, `host:port`, an IP network."""
    if entry == "*":
        return True
    host = origin.host.lower()
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and ":" not in name:
        if int(port) != origin.port:
            return False
        entry = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    domain = entry.removeprefix("*").lstrip(".")
    return host == domain or host.endswith("." + domain)


class Connection:
    """One connection to an origin, perhaps through a proxy."""

    def __init__(
        self,
        origin: Origin,
        raw: HTTPConnection,
        prefix: str,
        headers: dict[str, str],
        authorities: str | None = None,
    ) -> None:
        self.origin = origin
        self.authorities = authorities
        self._raw = raw
        self._prefix = prefix
        self._headers = headers
        self._sock: socket.socket | None = None
        self.reused = False
        self.idle_since = 0.0

    def connect(self, stall_seconds: float) -> None:
        """Opens the connection when it is not open. Raises OSError, and Unsupported for where no source may lead."""
        if self._sock is None:
            try:
                self._raw.connect()
            except TimeoutError as error:
                raise ConnectionError(f"no connection within {self._raw.timeout:g} s") from error
            # Kept here as well: http.client gives its own reference away with an answer that closes the connection.
            self._sock = self._raw.sock
        # From here on the time limit is for a read that gets nothing, not for connecting.
        self._sock.settimeout(stall_seconds)

    def get(self, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Sends a GET and reads the head of the answer. Raises OSError and http.client.HTTPException."""
        self._raw.putrequest("GET", self._prefix + target, skip_accept_encoding=True)
        for name, value in {**self._headers, **headers}.items():
            self._raw.putheader(name, value)
        self._raw.endheaders()
        return self._raw.getresponse()

    def body(self, response: http.client.HTTPResponse, clock: Clock) -> Body:
        """Reads what follows the head that `get` has returned."""
        if self._sock is None:
            raise http.client.NotConnected
        return Body(response, self._sock, clock)

    def certified_node(self) -> str | None:
        """The node whose agent has answered with a certificate of ours; None when it was somebody else, or plaintext."""
        return presented_node(self._sock) if isinstance(self._sock, ssl.SSLSocket) else None

    def abort(self) -> None:
        """Ends a read or a handshake that blocks in another thread."""
        sock = self._sock or self._raw.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # not connected any more: nothing blocks
                # Not SSLSocket's own: that takes the encryption away first, and the reader would take ciphertext for bytes.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes it."""
        self._raw.close()

    def readable(self) -> bool:
        """Whether something came in while it was idle: the server's goodbye, or bytes that belong to no request."""
        if self._sock is None or self._raw.sock is None:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))


class _Guarded(HTTPConnection):
    """Connects nowhere where no source may lead. `http.client` has this attribute to be set by those who connect otherwise."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = destinations.connect


class _Secured(HTTPSConnection):
    """Its socket is known to others before the handshake: `Connection.abort` can end that, too. `name`: of the server."""

    def __init__(self, *args: Any, name: str, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(*args, context=context, **options)
        self._name = name
        self._tls = context

    def connect(self) -> None:
        """See HTTPConnection. Raises OSError."""
        HTTPConnection.connect(self)  # through the proxy, where there is one
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name, do_handshake_on_connect=False)
        self.sock.do_handshake()


class _GuardedTLS(_Guarded, _Secured):
    """Both."""


class ConnectionPool:
    """Idle connections by origin, and by how it was verified. Thread-safe; at most `idle_limit` idle ones are kept for each."""

    def __init__(
        self,
        environ: Mapping[str, str],
        clock: Clock,
        *,
        idle_limit: int,
        connect_seconds: float,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`tls` tells how the next connection is secured, to hosts that somebody answers for; by default as `environ` says.

        Without it the hosts are those of sources, see `modelcache.sources.destinations`.
        """
        self._guarded = tls is None
        self._proxies = Proxies(environ)
        context = tls_context(environ)
        self._tls = tls or (lambda: context)
        self._own = functools.lru_cache(OWN_CONTEXTS)(lambda authorities: tls_context({}, authorities))
        self._clock = clock
        self._idle_limit = idle_limit
        self._connect_seconds = connect_seconds
        self._lock = threading.Lock()
        self._idle: dict[tuple[Origin, str | None], list[Connection]] = {}

    def take(self, origin: Origin, *, fresh: bool = False, authorities: str | None = None) -> Connection:
        """An idle connection, or a new one that is not connected yet. `fresh` = never an idle one.

        `authorities`: see `modelcache.sources.base.Location`. Raises Unsupported when they are none, and here or in `connect`
        when no source may lead to `origin`.
        """
        while not fresh:
            with self._lock:
                idle = self._idle.get((origin, authorities))
                connection = idle.pop() if idle else None
            if connection is None:
                break
            if self._clock.monotonic() - connection.idle_since < IDLE_SECONDS and not connection.readable():
                connection.reused = True
                return connection
            connection.close()
        return self._new(origin, authorities)

    def give_back(self, connection: Connection) -> None:
        """Keeps a connection whose last answer was read to its end."""
        connection.idle_since = self._clock.monotonic()
        with self._lock:
            idle = self._idle.setdefault((connection.origin, connection.authorities), [])
            if len(idle) < self._idle_limit:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes all idle connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _new(self, origin: Origin, authorities: str | None) -> Connection:
        proxy = self._proxies.proxy_for(origin)
        timeout = self._connect_seconds
        if self._guarded:
            destinations.check_host(origin.host)  # what a proxy is asked for, too
        if proxy is None:
            return Connection(origin, self._raw(origin, authorities), "", {}, authorities)
        parts = urllib.parse.urlsplit(proxy)
        if parts.scheme != "http" or not parts.hostname:
            raise Unsupported(
                f"the proxy for {origin.text} has to be an http:// address (requests to https:// go through it by CONNECT); "
                f"the environment says {parts.scheme}://{parts.hostname or ''}"
            )
        authority = {}
        if parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            authority["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        port = parts.port or 80
        if origin.scheme == "https":
            context = self._context(authorities)
            tunnel = _Secured(parts.hostname, port, timeout=timeout, context=context, name=origin.host)
            tunnel.set_tunnel(origin.host, origin.port, authority)
            return Connection(origin, tunnel, "", {}, authorities)
        # To a proxy, a plain request names the whole URL (RFC 9112, 3.2.2); Host is the origin, not the proxy.
        raw = HTTPConnection(parts.hostname, port, timeout=timeout)
        return Connection(origin, raw, origin.text, authority, authorities)

    def _raw(self, origin: Origin, authorities: str | None) -> HTTPConnection:
        host, port, timeout = origin.host, origin.port, self._connect_seconds
        if origin.scheme == "https":
            context = self._context(authorities)
            secured = _GuardedTLS if self._guarded else _Secured
            return secured(host, port, timeout=timeout, context=context, name=origin.host)
        plain = _Guarded if self._guarded else HTTPConnection
        return plain(host, port, timeout=timeout)

    def _context(self, authorities: str | None) -> ssl.SSLContext:
        return self._tls() if authorities is None else self._own(authorities)
