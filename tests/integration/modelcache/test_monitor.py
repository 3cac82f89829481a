"""The HTTP server for metrics and probes, over real sockets."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from modelcache.monitor import MAX_CONNECTIONS, MonitorServer
from modelcache.rpc.address import Address
from modelcache.settings import SettingsError
from tests.support.waiting import PATIENCE


class Daemon:
    def __init__(self, server: MonitorServer, address: Address, problems: list[str]) -> None:
        self.server = server
        self.address = address
        self.problems = problems

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.address}{path}") as response:
            return response.status, await response.text()


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    registry = CollectorRegistry()
    Counter("modelcache_things_total", "Things.", registry=registry).inc(3)
    problems = ["the cache is being opened"]
    server = MonitorServer(Address("127.0.0.1", 0), registry, lambda: problems[0] if problems else "")
    yield Daemon(server, await server.start(), problems)
    await server.stop()


async def test_alive_is_not_ready(daemon: Daemon) -> None:
    assert await daemon.get("/livez") == (200, "ok\n")
    assert await daemon.get("/readyz") == (503, "the cache is being opened\n")
    daemon.problems.clear()
    assert await daemon.get("/readyz") == (200, "ok\n")


async def test_metrics_are_served_in_the_text_format(daemon: Daemon) -> None:
    status, text = await daemon.get("/metrics")
    assert status == 200
    assert "modelcache_things_total 3.0" in text.splitlines()


async def test_a_crowd_cannot_keep_the_kubelet_away(daemon: Daemon) -> None:
    crowd = [await asyncio.open_connection(*daemon.address) for _ in range(MAX_CONNECTIONS * 3)]
    try:
        assert await daemon.get("/livez") == (200, "ok\n")
        # The first ones have been closed by the other side: their streams end.
        for reader, _ in crowd[:MAX_CONNECTIONS]:
            async with asyncio.timeout(PATIENCE):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
    finally:
        for _, writer in crowd:
            writer.close()


async def test_a_request_with_an_endless_header_is_refused(daemon: Daemon) -> None:
    reader, writer = await asyncio.open_connection(*daemon.address)
    writer.write(b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400") or answer.startswith(b"HTTP/1.0 400")
    assert await daemon.get("/livez") == (200, "ok\n")


async def test_an_address_that_is_taken_is_named(daemon: Daemon) -> None:
    other = MonitorServer(daemon.address, CollectorRegistry(), lambda: "")
    with pytest.raises(SettingsError, match="--metrics-listen"):
        await other.start()
