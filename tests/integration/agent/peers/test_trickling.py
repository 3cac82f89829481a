"""Peers that always send a little, and never enough: a stolen node must not hold the others."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from agent.peers.client import PeerAway, PeerBusy, PeerClient, PeerLags
from agent.peers.keys import ContentKey, TenantKey
from agent.peers.wire import DIGEST_HEADER
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import SystemClock
from agent.transfer.limiter import TokenBucket
from agent.transfer.pieces import Piece
from controller.authority import new_authority
from modelcache.tls.identity import Identity
from tests.support.certificates import credentials, wallet

CONTENT = TenantKey("team", ContentKey("a" * 64))
SIZE = 1 << 20
GAP_SECONDS = 0.02
"""Between two bytes: far less than any time limit of a single read."""


@contextmanager
def trickler(at_once: bytes, then: bytes) -> Iterator[str]:
    """The address of a server that answers whatever it is told with `at_once`, and then with `then` for ever, byte by byte."""
    stop = threading.Event()

    def answer(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(64 * 1024)
                sock.sendall(at_once)
                while not stop.wait(GAP_SECONDS):
                    sock.sendall(then)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def asking(*, tls: bool = False) -> Iterator[PeerClient]:
    clock = SystemClock()
    held = wallet(credentials(new_authority(datetime.now(UTC)), Identity("node-1"))) if tls else None
    client = PeerClient("node-1", TokenBucket(None, clock), clock, held, answer_seconds=0.3)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize(
    ("at_once", "then"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nx-long: ", b"x"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4000\r\n\r\n", b"x"),
    ],
    ids=["status", "headers", "list", "chunks", "refusal"],
)
def test_an_answer_has_to_come_in_time_as_a_whole(at_once: bytes, then: bytes) -> None:
    # That a refusal is one is known before all of it is here.
    expected = PeerBusy if b"503" in at_once else PeerAway
    with trickler(at_once, then) as address, asking() as client, pytest.raises(expected):
        client.holding("node-0", address, CONTENT, SIZE, CancelToken())


def test_a_handshake_has_to_come_in_time_as_a_whole() -> None:
    # The head of a TLS record of 16 KiB (RFC 8446, 5.1), and then its bytes, one by one.
    with trickler(b"\x16\x03\x03\x40\x00", b"\x02") as address, asking(tls=True) as client, pytest.raises(PeerAway):
        client.holding("node-0", address, CONTENT, SIZE, CancelToken())


def test_a_piece_that_trickles_is_given_up() -> None:
    head = (
        f"HTTP/1.1 206 Partial Content\r\ncontent-length: {SIZE}\r\ncontent-range: bytes 0-{SIZE - 1}/{SIZE}\r\n"
        f"{DIGEST_HEADER}: {'0' * 32}\r\n\r\n"
    )
    with trickler(head.encode(), b"x") as address, asking() as client, pytest.raises(PeerLags) as caught:
        client.fetch("node-0", address, CONTENT, SIZE, Piece(0, 0, SIZE), _Sink(), CancelToken(), longest=0.3)
    assert caught.value.count > 0


class _Sink:
    """Takes everything."""

    start, end = 0, SIZE

    def __init__(self) -> None:
        self.position = 0
        self._bytes = io.BytesIO(bytes(SIZE))

    def space(self) -> memoryview:
        return self._bytes.getbuffer()[self.position :]

    def filled(self, count: int) -> None:
        self.position += count

    def expect(self, digest: bytes) -> None:
        pass

    def restart(self) -> None:
        self.position = 0

    def share(self, descriptor: int) -> bool:
        return False
