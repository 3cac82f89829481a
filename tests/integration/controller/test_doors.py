"""Handshakes that fail: gRPC says nothing about them, so the controller has to notice by itself."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc import aio

from controller.authority import new_authority
from controller.server import AgentServer
from modelcache.rpc.address import Address
from modelcache.tls.credentials import TO_CONTROLLER, Credentials
from modelcache.tls.identity import CONTROLLER, Identity
from modelcache.tls.wallet import Wallet
from tests.support.certificates import credentials
from tests.support.waiting import PATIENCE

SYNC = "/modelcache.v1.ModelCacheService/Sync"
AUTHORITY = new_authority(datetime.now(UTC))


@pytest.fixture
async def server() -> AsyncIterator[tuple[AgentServer, Address]]:
    wallet = Wallet()
    wallet.replace(credentials(AUTHORITY, CONTROLLER))
    made = AgentServer(Address("127.0.0.1", 0), wallet)
    yield made, await made.start()
    await made.stop()


async def code_of_a_call(address: Address, held: Credentials) -> grpc.StatusCode:
    async with aio.secure_channel(str(address), held.channel_credentials(), options=[TO_CONTROLLER]) as channel:
        sync: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SYNC)
        # Without requests: gRPC says CANCELLED, now and then, for a call that is ended where one was to be sent.
        return await sync(timeout=PATIENCE).code()


async def test_refused_handshakes_are_counted_and_told_once(
    server: tuple[AgentServer, Address], caplog: pytest.LogCaptureFixture
) -> None:
    listening, address = server
    silent: list[tuple[str, int]] = []
    listening.on_silent(lambda port, count: silent.append((port, count)))
    other, ended = new_authority(datetime.now(UTC)), datetime.now(UTC) - timedelta(hours=9)
    for held in (
        credentials(other, Identity("node-1"), trust=AUTHORITY),
        credentials(AUTHORITY, Identity("node-1"), now=ended),
    ):
        assert await code_of_a_call(address, held) is grpc.StatusCode.UNAVAILABLE
    for _ in range(5):
        stranger = await asyncio.to_thread(socket.create_connection, (address.host, address.port), 30)
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.to_thread(stranger.recv, 100)
        stranger.close()
    # A good certificate comes through to the service, which has nobody to serve yet.
    assert await code_of_a_call(address, credentials(AUTHORITY, Identity("node-1"))) is grpc.StatusCode.UNAVAILABLE
    listening.look_at_doors()
    assert silent == []
    listening.look_at_doors()
    ((port, count),) = silent
    # gRPC's clients try again by themselves, so there may be more than one connection of each.
    assert (port, count >= 7) == ("agents", True)
    assert len([record for record in caplog.records if "refused in the handshake" in record.getMessage()]) == 1


async def test_agents_are_not_among_them(server: tuple[AgentServer, Address]) -> None:
    listening, address = server
    silent: list[tuple[str, int]] = []
    listening.on_silent(lambda port, count: silent.append((port, count)))
    for _ in range(3):
        await code_of_a_call(address, credentials(AUTHORITY, Identity("node-1")))
    listening.look_at_doors()
    listening.look_at_doors()
    assert silent == []
