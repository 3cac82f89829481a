"""Answers of engines that nobody should trust, and what becomes of them."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agent.lora.desired import Pod
from agent.lora.dynamo import DynamoEngine
from agent.lora.errors import EngineError, EngineNotReady, LoRADisabled, Rejected, TimedOut, Unreachable
from agent.lora.http import MAX_ANSWER_BYTES, Http
from agent.lora.probe import find_engine
from agent.lora.sglang import SglangEngine
from agent.lora.vllm import VllmEngine

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with Http() as client:
        yield client


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Answers every request with the same bytes, whatever was asked; `requests` are kept in the given list."""
    servers: list[asyncio.Server] = []

    async def one(answer: bytes, requests: list[bytes] | None = None, *, then: str = "close") -> str:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(head)
            writer.write(answer)
            if then == "close":
                writer.close()

        servers.append(await asyncio.start_server(connected, "127.0.0.1"))
        return f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield one
    for server in servers:
        server.close()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_a_redirect_is_not_followed(http: Http, serve: Serve) -> None:
    elsewhere: list[bytes] = []
    target = await serve(response(b'{"loras": {}}'), elsewhere)
    base = await serve(response(b"", "302 Found", f"Location: {target}/v1/loras"))
    with pytest.raises(EngineError):
        await DynamoEngine(http, base).loaded()
    assert elsewhere == []


async def test_an_answer_without_end_is_cut_off(http: Http, serve: Serve) -> None:
    base = await serve(response(b" " * (MAX_ANSWER_BYTES + 1)), then="wait")
    with pytest.raises(Unreachable, match="more than"):
        await http.request("GET", base, seconds=30)


async def test_compressed_answers_are_not_unpacked(http: Http, serve: Serve) -> None:
    bomb = gzip.compress(b'{"loras": {}}' + b" " * 10_000_000)
    answer = await http.request("GET", await serve(response(bomb, "200 OK", "Content-Encoding: gzip")), seconds=30)
    assert answer.json is None


async def test_no_answer_in_time_may_have_had_an_effect(http: Http, serve: Serve) -> None:
    with pytest.raises(TimedOut) as caught:
        await http.request("POST", await serve(b"", then="wait"), {}, seconds=0.2)
    assert caught.value.doubtful


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"SSH-2.0-x\r\n\r\n"])
async def test_an_answer_that_breaks_off_is_unreachable_and_doubtful(http: Http, serve: Serve, answer: bytes) -> None:
    with pytest.raises(Unreachable) as caught:
        await http.request("GET", await serve(answer), seconds=30)
    assert caught.value.doubtful


async def test_who_is_not_there_has_not_done_anything(http: Http, serve: Serve) -> None:
    base = await serve(b"")
    free = base.rpartition(":")[0] + ":1"
    with pytest.raises(Unreachable) as caught:
        await http.request("GET", free, seconds=30)
    assert not caught.value.doubtful


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b'{"loras": 3}', b'{"data": 3}', b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize("engine", [DynamoEngine, VllmEngine, SglangEngine])
async def test_a_list_that_makes_no_sense_is_no_list(
    http: Http, serve: Serve, engine: type[DynamoEngine] | type[VllmEngine] | type[SglangEngine], body: bytes
) -> None:
    with pytest.raises(EngineNotReady):
        await engine(http, await serve(response(body))).loaded()


async def test_entries_that_make_no_sense_are_left_out(http: Http, serve: Serve) -> None:
    cards = b'{"data": [3, {"id": 7, "parent": "b"}, {"id": "a", "parent": "b", "root": {}}, {"id": "base"}]}'
    assert list(await VllmEngine(http, await serve(response(cards))).loaded()) == ["7", "a"]
    loras = b'{"loras": {"a": {"x": 1}, "b": 7}}'
    listed = await DynamoEngine(http, await serve(response(loras))).loaded()
    assert {name: present.id for name, present in listed.items()} == {"a": "", "b": "7"}


async def test_what_an_engine_says_is_short_and_printable(http: Http, serve: Serve) -> None:
    body = b'{"status": "error", "message": "' + b"out of memory\\n\\u001b[31m" * 1000 + b'"}'
    with pytest.raises(Rejected) as caught:
        await DynamoEngine(http, await serve(response(body, "500 No"))).load("a", "file:///models/a")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


async def test_a_name_is_escaped_segment_by_segment(http: Http, serve: Serve) -> None:
    requests: list[bytes] = []
    base = await serve(response(b'{"status": "success"}'), requests)
    await DynamoEngine(http, base).unload("org/a b?#%2F")
    assert requests[0].startswith(b"DELETE /v1/loras/org/a%20b%3F%23%252F HTTP/1.1")


async def test_which_engine_answers(http: Http, serve: Serve) -> None:
    async def found(answer: bytes, annotation: str = "") -> str:
        port = int((await serve(answer)).rpartition(":")[2])
        pod = Pod("u", "n", "p", "127.0.0.1", port, True, "c", annotation)
        return (await find_engine(http, pod)).name

    assert await found(response(b'{"status": "success", "loras": {}, "count": 0}')) == "dynamo"
    assert await found(response(b'{"status": "error", "message": "local registry"}', "500 No")) == "dynamo"
    assert await found(response(b'{"data": [{"id": "b", "owned_by": "vllm"}]}')) == "vllm"
    assert await found(response(b'{"data": [{"id": "b", "owned_by": "sglang"}]}')) == "sglang"
    assert await found(b"", "sglang") == "sglang"
    with pytest.raises(LoRADisabled, match="DYN_LORA_ENABLED"):
        await found(response(b"Route not found", "404 Not Found"))
    with pytest.raises(EngineNotReady):
        await found(response(b"", "503 Later"))
