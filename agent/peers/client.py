"""Asks other agents for content: one request, one answer, and a name for everything that can go wrong.

The connections are those of `agent.transfer.connections`, without proxies: peers are neighbours. A peer's answer is
untrusted like everything else; a range that was not asked for, another size or a redirect to a stranger is a broken answer,
and a piece counts only if it has the digest that was announced for it.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from agent.peers.identity import own_headers, parse_via
from agent.peers.keys import TenantKey
from agent.peers.wire import (
    DIGEST_HEADER,
    MAX_ANSWER_BYTES,
    NAMESPACE_HEADER,
    PREFIX,
    PROGRESS_HEADER,
    VIA_HEADER,
    Holding,
    decode_holding,
    parse_count,
    parse_digest,
)
from agent.transfer.body import Body
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock
from agent.transfer.connections import Connection, ConnectionPool, Origin, split_url
from agent.transfer.deadlines import Deadlines
from agent.transfer.limiter import TokenBucket
from agent.transfer.pieces import Piece
from agent.transfer.source import PieceMismatch, Sink
from modelcache.sources.errors import SourceError
from modelcache.tls.wallet import NoCredentials, Wallet

CONNECT_SECONDS = 3.0
"""Peers are near. One that takes longer is as good as dead."""
STALL_SECONDS = 15.0
"""Without a byte, while a piece is sent. Longer than a server holds a request."""
ANSWER_SECONDS = 30.0
"""For everything but a piece's bytes: connecting, the head of an answer, a list of pieces. Twice as long as a byte may take."""
_DRAIN_BYTES = 64 * 1024


class PeerError(Exception):
    """Base: the peer did not give what it was asked for. The message says why, without naming the peer."""


class PeerAway(PeerError):
    """It could not be reached, or broke off."""


class PeerBusy(PeerError):
    """It asks to come again: it has no place, or not yet the piece.

    `progress`: bytes it has read from the origin so far. `held`: it kept us waiting for the piece, and may be asked at once.
    """

    def __init__(self, message: str, progress: int = 0, *, held: bool = False) -> None:
        super().__init__(message)
        self.progress = progress
        self.held = held


class PeerLags(PeerError):
    """It sends, but too slowly to be waited for: `count` bytes in `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        super().__init__(f"{count} bytes came in {seconds:.1f} s")
        self.count = count
        self.seconds = seconds


class PeerStranger(PeerError):
    """It does not know yet that we are its peer."""


class PeerLacks(PeerError):
    """It neither has the content nor fetches it, or answers something that cannot be used."""


class PeerRefused(PeerError):
    """What it has of the piece came a way that we do not accept. It may get another one."""


class PeerSentElsewhere(PeerError):
    """Another one has it: `address` is host:port."""

    def __init__(self, address: str) -> None:
        super().__init__(f"it sent us to {address}")
        self.address = address


class PeerLied(PeerError):
    """What it sent is not what it announced, unless the piece changed under its hands: `digest` is what it announced."""

    def __init__(self, message: str, digest: bytes) -> None:
        super().__init__(message)
        self.digest = digest


class Received(NamedTuple):
    """A piece that came from a peer.

    `via`: the nodes that it went through, from the one that read the origin to the sender. `seconds`: how long we waited for
    its bytes, without the wait before the first.
    """

    via: tuple[str, ...]
    digest: bytes
    seconds: float


class PeerClient:
    """One for each agent. Thread-safe."""

    def __init__(
        self,
        node: str,
        limiter: TokenBucket,
        clock: Clock,
        wallet: Wallet | None = None,
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """`limiter` is paid for everything that is received. `wallet` None: no TLS."""
        self._scheme = "http" if wallet is None else "https"
        self._headers = {**own_headers(node), "accept-encoding": "identity"}
        self._limiter = limiter
        self._clock = clock
        self._connections = ConnectionPool(
            {},
            clock,
            idle_limit=4,
            connect_seconds=CONNECT_SECONDS,
            tls=(lambda: wallet.current.client_context()) if wallet is not None else None,
        )
        self._deadlines = Deadlines()
        self._answer_seconds = answer_seconds

    def close(self) -> None:
        """Closes idle connections."""
        self._connections.close()

    def holding(
        self, node: str, address: str, content: TenantKey, size: int, cancel: CancelToken, *, digests: bool = False
    ) -> Holding:
        """Which pieces the agent of `node` has, at `address`. Raises PeerError, Cancelled."""
        target = f"{PREFIX}{content.key}/pieces" + ("?digests" if digests else "")
        exchange = _Exchange(self, node, address, target, {NAMESPACE_HEADER: content.namespace}, cancel)
        with exchange as response:
            _check_status(response, 200)
            with exchange.in_time():
                data = response.read(MAX_ANSWER_BYTES)
        holding = decode_holding(data, size)
        if holding is None:
            raise PeerLacks("its answer about pieces makes no sense")
        return holding

    def fetch(
        self,
        node: str,
        address: str,
        content: TenantKey,
        size: int,
        piece: Piece,
        sink: Sink,
        cancel: CancelToken,
        *,
        refuse: Callable[[bytes, Sequence[str]], bool] = lambda digest, via: False,
        count: Callable[[int], None] = lambda count: None,
        longest: float,
    ) -> Received:
        """Fills `sink`, from its position to the end of `piece`, with what the agent of `node` has of `content`.

        `refuse(digest, via)` may turn a piece down before it is read. `count` is told about every byte. When we have waited
        more than `longest` seconds for its bytes, it is broken off; our own disk and our own bandwidth limit do not count.
        Raises PeerError, Cancelled, and what the sink raises; what the sink got before stays there, unless the piece turned
        out to be wrong.
        """
        first = sink.position
        whole = first == piece.start
        headers = {"range": f"bytes={sink.position}-{piece.end - 1}", NAMESPACE_HEADER: content.namespace}
        exchange = _Exchange(self, node, address, f"{PREFIX}{content.key}", headers, cancel)
        with exchange as response:
            _check_status(response, 206)
            digest = parse_digest(response.headers.get(DIGEST_HEADER))
            expected = f"bytes {sink.position}-{piece.end - 1}/{size}"
            if digest is None or response.headers.get("Content-Range") != expected:
                raise PeerLacks("its answer is not the range that was asked for")
            if response.chunked or response.length != piece.end - sink.position:
                raise PeerLacks("its answer has another length than the range that was asked for")
            via = parse_via(response.headers.get(VIA_HEADER))
            if refuse(digest, via):
                raise PeerRefused("what it has of the piece is not trusted")
            sink.expect(digest)
            body, waited = exchange.body(), 0.0
            try:
                while sink.position < piece.end:
                    space = sink.space()
                    space = space[: self._limiter.portion(min(len(space), piece.end - sink.position))]
                    began = self._clock.monotonic()
                    got = body.read_into(space)
                    waited += self._clock.monotonic() - began
                    if got == 0:
                        raise PeerAway(f"it closed the connection at byte {sink.position}")
                    count(got)
                    sink.filled(got)
                    self._limiter.pay(got, cancel)
                    if waited > longest and sink.position < piece.end:
                        raise PeerLags(sink.position - first, waited)
            except PieceMismatch:
                if whole:
                    raise PeerLied("the bytes it sent do not have the digest it announced for them", digest) from None
                # Some of the piece came from somebody else: nobody can say whose fault it is. It begins anew.
                raise PeerBusy("a piece put together from several senders is wrong") from None
        return Received(via, digest, waited)


class _Exchange:
    """A request on a pooled connection; the connection is kept when the answer was read to its end."""

    def __init__(
        self, client: PeerClient, node: str, address: str, target: str, headers: dict[str, str], cancel: CancelToken
    ) -> None:
        self._scheme = client._scheme
        self._node = node
        self._pool = client._connections
        self._deadlines = client._deadlines
        self._answer_seconds = client._answer_seconds
        self._clock = client._clock
        self._headers = {**client._headers, **headers}
        self._address = address
        self._target = target
        self._cancel = cancel
        self._connection: Connection | None = None
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> http.client.HTTPResponse:
        try:
            origin, _ = split_url(f"{self._scheme}://{self._address}/")
        except SourceError as error:
            raise PeerLacks("its address makes no sense") from error
        self._registration = self._cancel.on_cancel(self._abort)
        self._registration.__enter__()
        try:
            return self._send(origin)
        except BaseException as error:
            self._registration.__exit__(None, None, None)
            if self._connection is not None:
                self._connection.close()
            self._cancel.check()
            if isinstance(error, OSError | http.client.HTTPException | NoCredentials):
                raise PeerAway(_reason(error)) from error
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._registration.__exit__(None, None, None)
        connection, response = self._connection, self._response
        assert connection is not None
        assert response is not None
        rest = response.length if isinstance(error, PeerError) and not isinstance(error, PeerLags) else None
        if rest is not None and rest <= _DRAIN_BYTES:
            try:
                with self.in_time():
                    response.read()
            except (OSError, http.client.HTTPException):
                response.will_close = True
        if response.length == 0 and not response.isclosed():
            response.read()
        if response.isclosed() and not response.will_close:
            self._pool.give_back(connection)
        else:
            response.close()
            connection.close()
        if isinstance(error, OSError | http.client.HTTPException):
            self._cancel.check()
            raise PeerAway(_reason(error)) from error

    def body(self) -> Body:
        """Reads what follows the head of the answer."""
        assert self._connection is not None
        assert self._response is not None
        return self._connection.body(self._response, self._clock)

    def in_time(self) -> AbstractContextManager[None]:
        """Breaks off what takes longer than an answer may. Raises TimeoutError then."""
        return self._deadlines.within(self._answer_seconds, self._abort)

    def _send(self, origin: Origin) -> http.client.HTTPResponse:
        fresh = False
        while True:
            self._connection = connection = self._pool.take(origin, fresh=fresh)
            try:
                with self.in_time():
                    connection.connect(STALL_SECONDS)
                    self._cancel.check()
                    if self._scheme == "https" and connection.certified_node() != self._node:
                        raise PeerAway("another one answers at its address")
                    self._response = connection.get(self._target, self._headers)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._cancel.check()
                if not connection.reused or isinstance(error, TimeoutError):
                    raise
                fresh = True  # a kept-alive connection that the peer had closed
            else:
                return self._response

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()


def _check_status(response: http.client.HTTPResponse, wanted: int) -> None:
    status = response.status
    if status == wanted:
        return
    if status == 307:
        location = response.headers.get("Location", "")
        host = location.removeprefix("//").partition("/")[0]
        if not location.startswith("//") or not host:
            raise PeerLacks("it sent us to an address that is none")
        raise PeerSentElsewhere(host)
    if status == 503:
        held = response.headers.get("Retry-After") == "0"
        raise PeerBusy("it asks to come again", parse_count(response.headers.get(PROGRESS_HEADER)), held=held)
    if status == 403:
        raise PeerStranger("it does not know us as its peer")
    raise PeerLacks(f"it answered {status}")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
