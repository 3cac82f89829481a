"""The gRPC servers: the one place that decides where they listen and how connections are secured.

    agents       Sync and GetManifest. Mutual TLS: no call without a certificate that our authority has issued.
    enrolment    IssueCertificate. TLS, but the client has no certificate yet: it shows a token instead.
    commands     RunOnNodes. TLS; the client is an administrator, who has no certificate and shows a token.
    health       the gRPC health protocol in plain text, because that is all that a kubelet's probe speaks; nothing else.

They are servers of their own, so that what strangers do to the others cannot use up the first one's places.
How many connections each accepts, how long one may take to say who it is, and how large messages are, is bounded here;
handshakes that fail are noticed by `controller.doors`.

`benchmarks/flood.py` shows what strangers can do to these ports.

With `--insecure` there is only the first one, in plain text. Source credentials travel on it, so that is served on
loopback only, where nothing leaves the machine, and refused for every other address.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from controller.commands import CommandService
from controller.doors import INTERVAL, Door
from controller.enrolment import EnrolmentService
from controller.stream import AgentService, Desk
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.address import MAX_MESSAGE_BYTES, Address
from modelcache.rpc.modelcache_pb2_grpc import (
    add_ClusterServiceServicer_to_server,
    add_EnrolmentServiceServicer_to_server,
    add_ModelCacheServiceServicer_to_server,
)
from modelcache.settings import SettingsError, flag, variable
from modelcache.tls.wallet import Wallet, server_credentials

_log = logging.getLogger(__name__)

STOP_GRACE = 3.0
"""Seconds for streams to end by themselves."""
HANDSHAKE_SECONDS = 10
"""From connecting to the end of the TLS handshake; gRPC's own limit is two minutes."""
MAX_ENROLMENT_BYTES = 64 * 1024
"""Of a request for a certificate; ours have two kilobytes."""

SERVICE: str = pb.DESCRIPTOR.services_by_name["ModelCacheService"].full_name
"""Name under which the health protocol tells whether agents are served, that is whether this replica leads."""

Options = list[tuple[str, int]]

_COMMON: Options = [
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    # Two processes on one port would each get half of the agents.
    ("grpc.so_reuseport", 0),
]
MAX_CALLS = 64
"""On one connection of an agent."""
_AGENTS: Options = [
    *_COMMON,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Agents ping every 20 s to notice a dead controller; without this the server would end their connections for it
    # (gRPC's doc/keepalive.md).
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # An agent has one connection, and for a moment two; those still in the handshake count as well.
    ("grpc.max_allowed_incoming_connections", 4096),
    # One Sync and some GetManifest: an agent asks for a fraction of this at once (agent.sync.MANIFESTS_AT_ONCE).
    ("grpc.max_concurrent_streams", MAX_CALLS),
]
_ENROLMENT: Options = [
    *_COMMON,
    ("grpc.max_receive_message_length", MAX_ENROLMENT_BYTES),
    ("grpc.max_send_message_length", MAX_ENROLMENT_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_allowed_incoming_connections", 2048),
    ("grpc.max_concurrent_streams", 2),
    # One question, one answer. Who stays has no reason to.
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
]
_COMMANDS: Options = [
    *_COMMON,
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A token of the API server has about a kilobyte; more than MAX_TOKEN is refused anyway.
    ("grpc.max_metadata_size", 20 * 1024),
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.max_connection_idle_ms", 10_000),
    # Clients ping, because a command may take hours and the network in between forgets silent connections.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]
_HEALTH: Options = [
    # A probe takes milliseconds, and must not wait for strangers who say nothing.
    ("grpc.server_handshake_timeout_ms", 2000),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_allowed_incoming_connections", 512),
    ("grpc.max_concurrent_streams", 8),
]


class AgentServer:
    """Listens from `start` to `stop`; answers agents from `open` to `close`, UNAVAILABLE otherwise."""

    def __init__(self, address: Address, wallet: Wallet | None = None) -> None:
        """`wallet` None means plaintext. Raises SettingsError for plaintext on anything but loopback."""
        if wallet is None and not address.is_loopback:
            raise SettingsError(
                f"listen is {address}, which other machines can reach, and connections are not encrypted"
            )
        self._address = address
        self.wallet = wallet
        self._service = AgentService(certified=wallet is not None, wall=time.time)
        # "" is the process, SERVICE the service for agents.
        self._health = health.HealthServicer()
        self._server = self._new_server(_AGENTS)
        add_ModelCacheServiceServicer_to_server(self._service, self._server)
        self._others: list[aio.Server] = []
        self._doors: list[Door] = []
        self._on_silent: Callable[[str, int], None] = lambda port, count: None
        self._watching: asyncio.Task[None] | None = None

    def _new_server(self, options: Options) -> aio.Server:
        server = aio.server(options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        return server

    async def start(self) -> Address:
        """Listen for agents; the address with the port that was chosen. Raises SettingsError when it cannot be had."""
        await self._serving(False)
        credentials = None
        if self.wallet is not None:
            door = self._door("agents")
            self._service.on_call = door.called
            credentials = server_credentials(self.wallet, clients=True, on_connection=door.arrived)
        return await _listen(self._server, "listen", self._address, credentials)

    async def start_enrolment(self, address: Address, service: EnrolmentService, wallet: Wallet) -> Address:
        """Listen for agents that have no certificate yet. Raises SettingsError."""
        server = aio.server(options=_ENROLMENT)
        add_EnrolmentServiceServicer_to_server(service, server)
        self._others.append(server)
        door = self._door("enrolment")
        service.on_call = door.called
        credentials = server_credentials(wallet, clients=False, on_connection=door.arrived)
        return await _listen(server, "enrolment_listen", address, credentials)

    async def start_commands(self, address: Address, service: CommandService, wallet: Wallet) -> Address:
        """Listen for administrators. Raises SettingsError."""
        server = aio.server(options=_COMMANDS)
        add_ClusterServiceServicer_to_server(service, server)
        self._others.append(server)
        door = self._door("commands")
        service.on_call = door.called
        credentials = server_credentials(wallet, clients=False, on_connection=door.arrived)
        return await _listen(server, "commands_listen", address, credentials)

    async def start_health(self, address: Address) -> Address:
        """Listen for probes. Raises SettingsError."""
        server = self._new_server(_HEALTH)
        self._others.append(server)
        return await _listen(server, "health_listen", address, None)

    @property
    def desk(self) -> Desk | None:
        """What agents are answered with, None while they are not."""
        return self._service.desk

    def on_refused(self, observe: Callable[[str], None]) -> None:
        """Tell `observe` the reason whenever an agent is turned away at the stream."""
        self._service.on_refused = observe

    def on_silent(self, observe: Callable[[str, int], None]) -> None:
        """Tell `observe` the port and the number of connections that were refused in the handshake, or said nothing."""
        self._on_silent = observe

    async def open(self, desk: Desk) -> None:
        """Answer agents from now on."""
        self._service.desk = desk
        await self._serving(True)

    async def close(self) -> None:
        """End all streams and accept no more until the next `open`."""
        desk, self._service.desk = self._service.desk, None
        await self._serving(False)
        if desk is None:
            return
        desk.registry.end_all("this controller no longer leads; connect again")
        try:
            async with asyncio.timeout(STOP_GRACE):
                await desk.registry.all_disconnected()
        except TimeoutError:
            _log.warning("%d agents have not ended their streams in %.0f s", desk.registry.agents, STOP_GRACE)

    def end_streams(self, message: str) -> None:
        """End all streams; agents begin new ones at once, and have to show a certificate that is good now."""
        if self._service.desk is not None:
            self._service.desk.registry.end_all(message)

    async def stop(self) -> None:
        """Stop listening. Ends the streams first: gRPC prints a traceback for each that is alive when it stops."""
        if self._watching is not None:
            self._watching.cancel()
        await self.close()
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(STOP_GRACE) for server in (self._server, *self._others)))

    def _door(self, port: str) -> Door:
        door = Door(port, time.monotonic, lambda count: self._on_silent(port, count))
        self._doors.append(door)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="watches the doors")
        return door

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self.look_at_doors()

    def look_at_doors(self) -> None:
        """Notice who has connected and said nothing; done every INTERVAL by itself."""
        for door in self._doors:
            door.look()

    async def _serving(self, serving: bool) -> None:
        """The process is well whether it leads or not: a replica that stands by must not be restarted."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(SERVICE, status)


async def _listen(
    server: aio.Server, setting: str, address: Address, credentials: grpc.ServerCredentials | None
) -> Address:
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise SettingsError(
            f"{setting} ({flag(setting)} or {variable(setting)}) is {address}, where nothing can listen: {error}"
        ) from None
    await server.start()
    return Address(address.host, port)
