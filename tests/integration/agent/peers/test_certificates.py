"""Agents that know each other by their certificates, and those who would like to be one of them."""

from __future__ import annotations

import http.client
import logging
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from agent.peers.client import PeerAway, PeerClient, PeerStranger
from agent.peers.keys import TenantKey, key_of
from agent.peers.listener import HANDSHAKES, PER_NODE
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import SystemClock
from agent.transfer.limiter import TokenBucket
from controller.authority import new_authority
from modelcache.manifest import Manifest
from modelcache.tls.credentials import Credentials
from modelcache.tls.identity import CONTROLLER, Identity
from tests.support.certificates import HOUR, credentials, wallet
from tests.support.fetching import PIECE, content
from tests.support.swarm import MODEL, Member, Team
from tests.support.waiting import PATIENCE, wait_until

OURS, THEIRS = new_authority(datetime.now(UTC)), new_authority(datetime.now(UTC))


@pytest.fixture
def team(team: Team) -> Team:
    team.authority = OURS
    return team


@pytest.fixture
def served(team: Team) -> tuple[Member, Manifest]:
    """A member that has a model which it may show to `friend` alone."""
    manifest = team.serve(("big.bin", content(4 * PIECE)))
    (member,) = team.add(1)
    team.run(manifest)
    (friend,) = team.add(1)
    member.meet([friend], manifest)
    return member, manifest


@contextmanager
def asking(held: Credentials, name: str = "node-1") -> Iterator[PeerClient]:
    """A client with these credentials; `name` is what it says that it is, beside them."""
    clock = SystemClock()
    client = PeerClient(name, TokenBucket(None, clock), clock, wallet(held))
    try:
        yield client
    finally:
        client.close()


def pieces(client: PeerClient, member: Member, manifest: Manifest, node: str = "node-0") -> int:
    """How many pieces the agent of `node`, at the address of `member`, says that it has."""
    (file,) = manifest.files
    key = key_of(file)
    assert key is not None
    content = TenantKey(MODEL.namespace, key)
    return len(client.holding(node, member.address, content, file.size, CancelToken()).pieces)


def test_a_swarm_reads_the_origin_once_with_tls_too(team: Team) -> None:
    big, small = content(20 * PIECE + 77), content(1000, seed=1)
    manifest = team.serve(("big.bin", big), ("small.json", small))
    members = team.add(4)
    team.introduce(manifest)
    team.run(manifest)
    assert team.origin.bytes_sent == len(big) + len(small)
    assert sum(member.swarm.peer_bytes for member in members if member.swarm) == 3 * (len(big) + len(small))
    assert not any(member.problems for member in members)


def test_only_the_node_that_the_controller_has_named_may_read(served: tuple[Member, Manifest]) -> None:
    member, manifest = served
    with asking(credentials(OURS, Identity("node-1"))) as friend:
        assert pieces(friend, member, manifest) == 4
    with asking(credentials(OURS, Identity("node-2"))) as other, pytest.raises(PeerStranger):
        pieces(other, member, manifest)
    with asking(credentials(OURS, CONTROLLER)) as controller, pytest.raises(PeerAway):
        pieces(controller, member, manifest)


def test_what_somebody_says_about_himself_beside_his_certificate_counts_nothing(
    served: tuple[Member, Manifest],
) -> None:
    member, manifest = served
    with asking(credentials(OURS, Identity("node-2")), name="node-1") as other, pytest.raises(PeerStranger):
        pieces(other, member, manifest)


@pytest.mark.parametrize(
    "held",
    [
        credentials(THEIRS, Identity("node-1"), trust=OURS),
        credentials(OURS, Identity("node-1"), now=datetime.now(UTC) - 2 * HOUR),
    ],
    ids=["another authority", "expired"],
)
def test_a_certificate_that_is_no_good_is_refused(served: tuple[Member, Manifest], held: Credentials) -> None:
    member, manifest = served
    with asking(held) as stranger, pytest.raises(PeerAway):
        pieces(stranger, member, manifest)


def test_no_certificate_and_no_tls_are_refused(served: tuple[Member, Manifest]) -> None:
    member, manifest = served
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = member.exchange.address
    target = f"/v1/blobs/{key_of(manifest.files[0])}/pieces"

    def ask(connection: http.client.HTTPConnection) -> None:
        connection.request("GET", target, headers={"X-Modelcache-Node": "node-1"})
        connection.getresponse()

    for connection in (
        http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context),
        http.client.HTTPConnection(host, port, timeout=PATIENCE),
    ):
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(connection)
        connection.close()


def test_another_node_that_answers_at_the_address_of_a_peer_is_not_believed(served: tuple[Member, Manifest]) -> None:
    member, manifest = served
    with asking(credentials(OURS, Identity("node-1"))) as friend, pytest.raises(PeerAway, match="another one"):
        pieces(friend, member, manifest, node="node-7")


def test_certificates_and_authorities_are_exchanged_while_everything_runs(
    served: tuple[Member, Manifest], team: Team
) -> None:
    """Both get certificates of a new authority; kept-alive connections do not outlive the old one."""
    member, manifest = served
    friend = team.members[1]
    friend.meet([member], manifest, [member])
    assert pieces(friend.exchange.client, member, manifest) == 4
    for node, one in ((member.node, member), (friend.node, friend)):
        assert one.wallet is not None
        one.wallet.replace(credentials(THEIRS, Identity(node)))
    with asking(credentials(OURS, Identity("node-1"))) as old, pytest.raises(PeerAway):
        pieces(old, member, manifest)
    friend.start(manifest)
    friend.finish(manifest)
    assert friend.swarm is not None
    assert friend.swarm.peer_bytes == manifest.size


def test_one_node_cannot_take_all_places(served: tuple[Member, Manifest]) -> None:
    member, manifest = served
    context = credentials(OURS, Identity("node-2")).client_context()
    listener = member.exchange.server.listener
    greedy = []
    try:
        for _ in range(PER_NODE):
            connection = socket.create_connection(member.exchange.address, timeout=PATIENCE)
            greedy.append(context.wrap_socket(connection))
        wait_until(lambda: len(listener._connections) == PER_NODE, what="all of them are accepted")
        one_more = context.wrap_socket(socket.create_connection(member.exchange.address, timeout=PATIENCE))
        greedy.append(one_more)
        assert one_more.recv(1) == b"", "closed"
        with asking(credentials(OURS, Identity("node-1"))) as friend:
            assert pieces(friend, member, manifest) == 4
    finally:
        for connection in greedy:
            connection.close()


def test_a_flood_of_connections_keeps_no_peer_away_and_takes_no_memory(
    served: tuple[Member, Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    member, manifest = served
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flood = [socket.create_connection(member.exchange.address, timeout=PATIENCE) for _ in range(5 * HANDSHAKES)]
    try:
        with asking(credentials(OURS, Identity("node-1"))) as friend:
            assert pieces(friend, member, manifest) == 4
        listener = member.exchange.server.listener
        wait_until(lambda: len(listener._strangers) <= HANDSHAKES, what="the oldest are sent away")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "KiB"
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) <= 2, "one line for each kind"
    finally:
        for connection in flood:
            connection.close()
