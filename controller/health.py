"""gRPC health (grpc.health.v1) for kubelets, on a port of its own.

A kubelet's gRPC probe can neither do TLS nor show a certificate, and the port for agents demands both. This one serves
nothing but health, so it may listen in plaintext everywhere. It answers for two services:

- `live`: the event loop answers. Everything else that could be wrong (no API server, not the leader) is not mended by a
  restart, so it must not cause one.
- `` (the process): the cluster was found usable, and this replica leads or stands ready to. A replica that only waits is
  *ready* as well: otherwise no rollout of two replicas would ever be complete. Agents find the leader by asking again.
"""

from __future__ import annotations

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from modelcache.rpc.address import Address
from modelcache.settings import SettingsError

LIVE = "live"
READY = ""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_concurrent_streams", 16),
]
_MAX_CALLS = 64
"""At once, of all clients together; more are answered RESOURCE_EXHAUSTED."""


class HealthServer:
    """Serves from `start` to `stop`: alive at once, ready when told so."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._health = health.HealthServicer()
        self._server = aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> Address:
        """Listen; the address with the port that was chosen. Raises SettingsError when it cannot be had."""
        await self._health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        await self.ready(False)
        try:
            port = self._server.add_insecure_port(str(self._address))
        except RuntimeError as error:
            raise SettingsError(
                f"health_listen (--health-listen or MODELCACHE_HEALTH_LISTEN) is {self._address}, where nothing can listen: "
                f"{error}"
            ) from None
        await self._server.start()
        return Address(self._address.host, port)

    async def ready(self, ready: bool) -> None:
        """Say from now on that the process can, or cannot, do its work."""
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(READY, serving)

    async def stop(self) -> None:
        """Not ready any more, and then not there."""
        await self.ready(False)
        await self._server.stop(0.2)
