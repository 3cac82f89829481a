"""The HTTP server in this process: what clients leave behind, and what a client can do to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from local.kube.cluster import Cluster
from local.kube.endpoints import BODY_LIMIT
from local.kube.journal import NoJournal
from local.kube.server import make_runner
from tests.support.waiting import PATIENCE

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


@dataclass
class Served:
    """A cluster behind HTTP, and a client of it."""

    cluster: Cluster
    client: aiohttp.ClientSession
    address: str


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    cluster = Cluster(NoJournal())
    runner = make_runner(cluster)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
        yield Served(cluster, client, f"{host}:{port}")
    cluster.close()
    await runner.cleanup()


async def all_gone(served: Served) -> None:
    """Wait until the server has noticed that every watch has ended."""
    async with asyncio.timeout(PATIENCE):
        while served.cluster.watches.count():
            # Any request is a round trip in which the server reads what else its sockets have to say.
            async with served.client.get("/healthz") as response:
                assert response.status == 200


async def test_a_client_that_hangs_up_leaves_no_watch_behind(served: Served) -> None:
    responses = [await served.client.get(CONFIGMAPS, params={"watch": "1"}) for _ in range(20)]
    assert served.cluster.watches.count() == 20
    for response in responses:
        response.close()
    await all_gone(served)


async def test_a_watch_that_ends_leaves_its_connection_usable(served: Served) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(f"http://{served.address}", connector=connector) as client:
        for _ in range(3):
            async with client.get(CONFIGMAPS, params={"watch": "1", "timeoutSeconds": "1"}) as response:
                assert await response.read() == b""
            async with client.get(CONFIGMAPS) as response:
                assert response.status == 200


async def test_a_body_is_not_read_beyond_the_limit(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"data":"'
        for _ in range(BODY_LIMIT // 65536 + 2):
            yield b"x" * 65536

    headers = {"Content-Type": "application/json"}
    async with served.client.post(CONFIGMAPS, data=endless(), headers=headers) as response:
        assert response.status == 413
        status = await response.json()
    assert status["reason"] == "RequestEntityTooLarge"
    assert status["message"] == f"Request entity too large: limit is {BODY_LIMIT}"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/v1/namespaces/%2e%2e/pods HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //api//v1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/pods?labelSelector=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Type: \xff\r\n\r\n{}x",
        b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nAccept: ;;;,,;q=x\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_strange_requests_get_an_answer_that_is_no_defect(served: Served, head: bytes) -> None:
    host, port = served.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)
    async with asyncio.timeout(PATIENCE):
        line = await reader.readline()
    writer.close()
    code = int(line.split()[1])
    assert 200 <= code < 500, line
    async with served.client.get("/healthz") as response:
        assert await response.text() == "ok"


async def test_a_defect_is_answered_and_survived(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(served.cluster.store, "items", broken)
    async with served.client.get(CONFIGMAPS) as response:
        assert response.status == 500
        status = await response.json()
    assert (status["reason"], status["message"]) == (
        "InternalError",
        "Internal error occurred: ZeroDivisionError: planted",
    )
    monkeypatch.undo()
    async with served.client.get(CONFIGMAPS) as response:
        assert response.status == 200


async def test_large_answers_are_compressed_for_who_wants_it(served: Served) -> None:
    body = {"metadata": {"name": "large"}, "data": {"k": "v" * 200_000}}
    async with served.client.post(CONFIGMAPS, json=body) as response:
        assert response.status == 201
    async with served.client.get(CONFIGMAPS, headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(json.loads(await response.read())["items"][0]["data"]["k"]) == 200_000
    async with served.client.get(CONFIGMAPS, headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers


async def test_a_burst_of_clients_is_served(served: Served) -> None:
    async def create(number: int) -> int:
        async with served.client.post(CONFIGMAPS, json={"metadata": {"name": f"c{number}"}}) as response:
            return response.status

    assert set(await asyncio.gather(*(create(number) for number in range(200)))) == {201}
    async with served.client.get(CONFIGMAPS) as response:
        assert len((await response.json())["items"]) == 200
