"""The HTTP server for those who watch a daemon: `/metrics` for Prometheus, `/livez` and `/readyz` for the kubelet.

It has neither TLS nor authentication, because kubelets bring no certificate and nothing here is secret: metrics hold names
of models and counts. A NetworkPolicy says who may come. Whoever comes all the same must not be able to keep the kubelet
away, or the daemon would be killed for it: so there is no waiting room. At most MAX_CONNECTIONS are open, and a new one
takes the place of the oldest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from modelcache.rpc.address import Address
from modelcache.settings import SettingsError

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_HEADER_BYTES = 4096
ALL_ADDRESSES = "::"
"""As a host: every address of this machine, IPv4 and IPv6, whichever it has."""


class MonitorServer:
    """Serves from `start` to `stop`. `problem()` says why the daemon cannot do its work; empty when it can."""

    def __init__(self, address: Address, registry: CollectorRegistry, problem: Callable[[], str]) -> None:
        self._address = address
        self._registry = registry
        self._problem = problem
        app = web.Application(client_max_size=1)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=75.0,  # more than a usual scrape interval
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            shutdown_timeout=0.5,
        )
        self._server: asyncio.Server | None = None
        self._crowded = False

    async def start(self) -> Address:
        """Listen; the address with the port that was chosen. Raises SettingsError when it cannot be had."""
        host = None if self._address.host == ALL_ADDRESSES else self._address.host
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, self._address.port)
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"metrics_listen (--metrics-listen or MODELCACHE_METRICS_LISTEN) is {self._address}, where nothing can "
                f"listen: {error}"
            ) from None
        port: int = next(
            s for s in self._server.sockets if s.family in (socket.AF_INET, socket.AF_INET6)
        ).getsockname()[1]
        return Address(self._address.host, port)

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _accept(self) -> RequestHandler:
        server = self._runner.server
        assert server is not None
        alive = [each.transport for each in server.connections if each.transport is not None]
        for transport in alive[: max(0, len(alive) + 1 - MAX_CONNECTIONS)]:
            transport.abort()
            if not self._crowded:
                self._crowded = True
                _log.warning("more than %d connections for metrics and probes; the oldest are closed", MAX_CONNECTIONS)
        return server()

    async def _metrics(self, request: web.Request) -> web.Response:
        # In the event loop, where the state that the gauges read does not change meanwhile.
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _live(self, request: web.Request) -> web.Response:
        # That the event loop has come to answer is all there is to say.
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        problem = self._problem()
        return web.Response(text=f"{problem}\n", status=503) if problem else web.Response(text="ok\n")
