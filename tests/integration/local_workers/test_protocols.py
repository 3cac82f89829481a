"""Each stand-in, asked as a client of the real engine would ask it."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from local.workers.container import Container, EngineName
from local.workers.switches import Switches
from local.workers.workers import Workers
from tests.support.waiting import wait_until_async
from tests.support.workers import adapter_files, write_files

WEIGHTS = hashlib.sha256(b"weights").hexdigest()


class Answer(NamedTuple):
    status: int
    body: Any


Ask = Callable[..., Coroutine[Any, Any, Answer]]
Start = Callable[..., Awaitable[Container]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    async with aiohttp.ClientSession() as session:

        async def one(container: Container, method: str, path: str, body: Any = None, timeout: float = 30) -> Answer:
            url = f"http://{container.spec.ip}:{container.spec.port}{path}"
            limit = aiohttp.ClientTimeout(total=timeout)
            async with session.request(method, url, json=body, timeout=limit) as answer:
                text = await answer.text()
                return Answer(answer.status, await answer.json() if "json" in answer.content_type else text)

        yield one


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts one worker of a kind; `/models/a` is an adapter."""
    write_files(tmp_path / "a", adapter_files(b"weights"))
    async with contextlib.AsyncExitStack() as stack:

        async def one(engine: EngineName, up: bool = True, **switches: Any) -> Container:
            workers = Workers(engine=engine, mounts={"/models": str(tmp_path)}, switches=Switches(**switches))
            container = await (await stack.enter_async_context(workers)).add("worker-0", "node-0")
            if up:
                await wait_until_async(lambda: _up(container))
            return container

        yield one


async def _up(container: Container) -> bool:
    return container.state.ready


def dynamo_load(uri: str, name: str = "org/a") -> dict[str, Any]:
    return {"lora_name": name, "source": {"uri": uri}}


async def test_dynamo_loads_lists_and_unloads(start: Start, ask: Ask) -> None:
    worker = await start("dynamo")
    loaded = await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a"))
    assert loaded.status == 200
    assert loaded.body["status"] == "success"
    listed = await ask(worker, "GET", "/v1/loras")
    assert listed.body == {"status": "success", "loras": {"org/a": loaded.body["lora_id"]}, "count": 1}
    assert worker.engine.adapters["org/a"].sha256 == WEIGHTS
    assert (await ask(worker, "DELETE", "/v1/loras/org/a")).status == 200
    assert (await ask(worker, "GET", "/v1/loras")).body["count"] == 0
    again = await ask(worker, "DELETE", "/v1/loras/org/a")
    assert again.status == 500
    assert again.body["status"] == "error"


async def test_dynamo_keeps_the_old_adapter_when_the_name_is_loaded_again(start: Start, ask: Ask) -> None:
    worker = await start("dynamo")
    await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a"))
    again = await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/other"))
    assert (again.status, again.body["message"]) == (200, "LoRA adapter 'org/a' already loaded")
    assert worker.engine.adapters["org/a"].source == "file:///models/a"


async def test_dynamo_answers_before_its_engine_is_up(start: Start, ask: Ask) -> None:
    worker = await start("dynamo", up=False, start_held=True)
    before = worker.state
    assert not before.ready
    assert (await ask(worker, "GET", "/health")).status == 503
    early = await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a"))
    assert early.status == 500
    worker.switch(Switches(start_held=True, ready_early=True))
    assert worker.state.ready
    worker.switch(Switches())
    await wait_until_async(lambda: _up(worker))
    assert (await ask(worker, "GET", "/health")).status == 200


async def test_dynamo_refuses_what_is_no_adapter(start: Start, ask: Ask) -> None:
    worker = await start("dynamo", errors_in_body=True)
    refused = await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/b"))
    assert (refused.status, refused.body["status"]) == (200, "error")
    worker.switch(Switches())
    assert (await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/b"))).status == 500
    assert (await ask(worker, "POST", "/v1/loras", {"lora_name": "a"})).status == 422


async def test_dynamo_fetches_remote_sources_after_its_answer(start: Start, ask: Ask) -> None:
    worker = await start("dynamo", remote="fails")
    assert (await ask(worker, "POST", "/v1/loras", dynamo_load("hf://org/a"))).status == 200
    assert (await ask(worker, "GET", "/v1/loras")).body["count"] == 0
    worker.switch(Switches(remote="loads"))
    assert (await ask(worker, "POST", "/v1/loras", dynamo_load("hf://org/a"))).status == 200

    async def listed() -> bool:
        return bool((await ask(worker, "GET", "/v1/loras")).body["count"] == 1)

    await wait_until_async(listed)


async def test_a_restart_forgets_adapters_and_has_another_container(start: Start, ask: Ask) -> None:
    worker = await start("dynamo")
    await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a"))
    before = worker.state
    await worker.restart()
    await wait_until_async(lambda: _up(worker))
    assert worker.state.restarts == before.restarts + 1
    assert worker.state.container_id != before.container_id
    assert (await ask(worker, "GET", "/v1/loras")).body["count"] == 0


@pytest.mark.parametrize(
    ("switches", "status"),
    [({"lora_enabled": False}, 404), ({"load_status": 500}, 500), ({"load_status": 500, "load_failures": 0}, 200)],
)
async def test_loads_fail_as_told(start: Start, ask: Ask, switches: dict[str, Any], status: int) -> None:
    worker = await start("dynamo", **switches)
    assert (await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a"))).status == status


async def test_success_without_effect(start: Start, ask: Ask) -> None:
    worker = await start("dynamo", no_effect=True)
    assert (await ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a"))).body["status"] == "success"
    assert (await ask(worker, "GET", "/v1/loras")).body["count"] == 0


async def test_a_hanging_request_ends_when_the_switch_is_turned_or_the_worker_restarts(start: Start, ask: Ask) -> None:
    worker = await start("dynamo", hang="load")
    hanging = asyncio.create_task(ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a")))
    await wait_until_async(lambda: _loading(worker))
    assert (await ask(worker, "GET", "/v1/loras")).status == 200
    worker.switch(Switches())
    assert (await hanging).status == 200
    worker.switch(Switches(hang="all"))
    hanging = asyncio.create_task(ask(worker, "GET", "/v1/loras"))
    await wait_until_async(lambda: _listing(worker, 2))
    await worker.restart()
    with pytest.raises(aiohttp.ClientError):
        await hanging


async def _loading(worker: Container) -> bool:
    return worker.engine.counts.loads > 0


async def _listing(worker: Container, count: int) -> bool:
    return worker.engine.counts.lists >= count


async def test_too_many_loads_at_once_are_refused_and_counted(start: Start, ask: Ask) -> None:
    worker = await start("dynamo", max_loads=1, hang="load")
    first = asyncio.create_task(ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a", "a")))
    await wait_until_async(lambda: _loading(worker))
    second = asyncio.create_task(ask(worker, "POST", "/v1/loras", dynamo_load("file:///models/a", "b")))

    async def both() -> bool:
        return worker.engine.counts.peak_loads == 2

    await wait_until_async(both)
    worker.switch(Switches(max_loads=1))
    statuses = sorted([(await first).status, (await second).status])
    assert statuses == [200, 500]


async def test_vllm_loads_lists_and_unloads(start: Start, ask: Ask) -> None:
    worker = await start("vllm")
    body = {"lora_name": "a", "lora_path": "/models/a"}
    assert (await ask(worker, "POST", "/v1/load_lora_adapter", body)).status == 200
    cards = (await ask(worker, "GET", "/v1/models")).body["data"]
    assert [(card["id"], card["root"], card["owned_by"]) for card in cards[1:]] == [("a", "/models/a", "vllm")]
    again = await ask(worker, "POST", "/v1/load_lora_adapter", body)
    assert again.status == 400
    assert "already been loaded" in again.body["error"]["message"]
    assert (await ask(worker, "POST", "/v1/unload_lora_adapter", {"lora_name": "a"})).status == 200
    assert (await ask(worker, "POST", "/v1/unload_lora_adapter", {"lora_name": "a"})).status == 404
    missing = await ask(worker, "POST", "/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "/models/b"})
    assert missing.status == 404


async def test_vllm_without_updating_at_run_time_has_no_such_path(start: Start, ask: Ask) -> None:
    worker = await start("vllm", lora_enabled=False)
    body = {"lora_name": "a", "lora_path": "/models/a"}
    assert await ask(worker, "POST", "/v1/load_lora_adapter", body) == (404, {"detail": "Not Found"})


async def test_sglang_loads_lists_and_unloads(start: Start, ask: Ask) -> None:
    worker = await start("sglang")
    body = {"lora_name": "a", "lora_path": "/models/a"}
    loaded = await ask(worker, "POST", "/load_lora_adapter", body)
    assert loaded == (200, {"success": True, "error_message": None, "loaded_adapters": {"a": "/models/a"}})
    again = await ask(worker, "POST", "/load_lora_adapter", body)
    assert (again.status, again.body["success"]) == (400, False)
    cards = (await ask(worker, "GET", "/v1/models")).body["data"]
    assert [(card["id"], card["root"], card["owned_by"]) for card in cards[1:]] == [("a", "/models/a", "sglang")]
    assert (await ask(worker, "POST", "/unload_lora_adapter", {"lora_name": "a"})).body["loaded_adapters"] == {}


async def test_a_native_engine_does_not_listen_before_it_is_up(start: Start, ask: Ask) -> None:
    worker = await start("vllm", up=False, start_held=True)
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(worker, "GET", "/v1/models")
