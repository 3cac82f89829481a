"""The gRPC health service (grpc.health.v1), which kubelets and load balancers ask whether this process serves.

Spoken on the level of its bytes: the two messages have one field each, and the package that carries their generated code
would be a dependency for these few lines. The protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc import aio

SERVICE = "grpc.health.v1.Health"

# HealthCheckResponse{status}: field 1, varint.
_SERVING, _NOT_SERVING, _UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


class Health:
    """Answers for this process as a whole (`""`) and for the services named in `services`."""

    def __init__(self, *services: str) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._closed = False
        self._changed = asyncio.Condition()

    async def set_serving(self, serving: bool) -> None:
        """Whether requests are answered from now on."""
        async with self._changed:
            self._serving = serving
            self._changed.notify_all()

    async def close(self) -> None:
        """End all watches, after telling them that nothing is served any more."""
        async with self._changed:
            self._serving, self._closed = False, True
            self._changed.notify_all()

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to a server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _check(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        status = self._status(_service(request))
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return status

    async def _watch(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        service, last = _service(request), b""
        while True:
            async with self._changed:
                while self._status(service) == last and not self._closed:
                    await self._changed.wait()
                status, closed = self._status(service), self._closed
            if status != last:
                yield status
            if closed:
                return
            last = status

    def _status(self, service: str) -> bytes:
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING


def _service(request: bytes) -> str:
    """HealthCheckRequest{service}: field 1, length-delimited. Names of 128 bytes and more are none of ours."""
    if len(request) < 2 or request[0] != 0x0A or request[1] != len(request) - 2:
        return "" if not request else "?"
    return request[2:].decode(errors="replace")
