"""The gRPC server: the one place that decides where it listens and how connections are secured.

Without credentials the connection is plaintext, and source credentials travel on it. So plaintext is served on loopback
only, where nothing leaves the machine, and refused for every other address.
"""

from __future__ import annotations

import asyncio
import logging

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from controller.stream import AgentService, Desk
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.address import MAX_MESSAGE_BYTES, Address
from modelcache.rpc.modelcache_pb2_grpc import add_ModelCacheServiceServicer_to_server
from modelcache.settings import SettingsError

_log = logging.getLogger(__name__)

STOP_GRACE = 3.0
"""Seconds for streams to end by themselves."""

_SERVICE: str = pb.DESCRIPTOR.services_by_name["ModelCacheService"].full_name

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Agents ping every 20 s to notice a dead controller; without this the server would end their connections for it
    # (gRPC's doc/keepalive.md).
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two processes on one port would each get half of the agents.
    ("grpc.so_reuseport", 0),
]


class AgentServer:
    """Listens from `start` to `stop`; answers agents from `open` to `close`, UNAVAILABLE otherwise."""

    def __init__(self, address: Address, credentials: grpc.ServerCredentials | None = None) -> None:
        """`credentials` None means plaintext. Raises SettingsError for plaintext on anything but loopback."""
        if credentials is None and not address.is_loopback:
            raise SettingsError(
                f"listen is {address}, which other machines can reach, and connections are not encrypted"
            )
        self._address = address
        self._credentials = credentials
        self._service = AgentService()
        # Asked by kubelets and load balancers: "" is the process, the other one the service for agents.
        self._health = health.HealthServicer()
        self._server = aio.server(options=_OPTIONS)
        add_ModelCacheServiceServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> Address:
        """Listen; the address with the port that was chosen. Raises SettingsError when it cannot be had."""
        text = str(self._address)
        await self._serving(False)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(text)
            else:
                port = self._server.add_secure_port(text, self._credentials)
        except RuntimeError as error:
            raise SettingsError(
                f"listen (--listen or MODELCACHE_LISTEN) is {text}, where nothing can listen: {error}"
            ) from None
        await self._server.start()
        return Address(self._address.host, port)

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

    async def stop(self) -> None:
        """Stop listening. Ends the streams first: gRPC prints a traceback for each that is alive when it stops."""
        await self.close()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(STOP_GRACE)

    async def _serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", _SERVICE):
            await self._health.set(service, status)
