"""What ends a connection from outside."""

import socket
import ssl
from collections.abc import Iterator

import pytest

from modelcache.sources.limit import Limit
from tests.support.nginx import AUTHORITY
from tests.support.waiting import PATIENCE


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        theirs.settimeout(PATIENCE)
        yield ours, theirs


def test_a_read_that_waits_is_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    limit = Limit(pair[0], 0.01)
    assert pair[0].recv(1) == b"", "an end, though nobody closed it"
    limit.lift()


def test_a_handshake_that_waits_is_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    limit = Limit(pair[0], 0.01)
    context = ssl.create_default_context(cafile=AUTHORITY)
    with pytest.raises(OSError, match=r"."):
        context.wrap_socket(pair[0], server_hostname="host")
    limit.lift()


def test_nothing_is_ended_that_was_done_before(pair: tuple[socket.socket, socket.socket]) -> None:
    limit = Limit(pair[0], PATIENCE)
    limit.lift()
    limit.lift()
    pair[1].send(b"x")
    assert pair[0].recv(1) == b"x"


def test_the_end_of_the_owner_is_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    limit = Limit(pair[0], PATIENCE)
    pair[0].close()
    limit.lift()
    assert pair[1].recv(1) == b""
