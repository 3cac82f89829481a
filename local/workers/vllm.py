"""The LoRA part of vLLM's OpenAI server (`vllm/entrypoints/openai/serving_models.py`).

Nobody listens before the engine is up. Without `VLLM_ALLOW_RUNTIME_LORA_UPDATING` the two paths do not exist, while the list
of models does. `lora_path` is a directory of the container or the id of a Hugging Face repository.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from local.workers.engine import Engine, Refused

PORT = 8000

_Handler = Callable[[web.Request], Awaitable[web.Response]]


class _Adapter(msgspec.Struct):
    lora_name: str
    lora_path: str = ""


def application(engine: Engine) -> web.Application:
    """The server in front of an engine."""

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def models(_: web.Request) -> web.Response:
        loaded = await engine.listed()
        cards = [_card(engine.base_model, engine.base_model, None)]
        cards += [_card(adapter.name, adapter.source, engine.base_model) for adapter in loaded.values()]
        return web.json_response({"object": "list", "data": cards})

    async def load(request: web.Request) -> web.Response:
        body = await _body(request)
        if not body.lora_name or not body.lora_path:
            raise Refused(400, "Both 'lora_name' and 'lora_path' must be provided.")
        path = body.lora_path if body.lora_path.startswith("/") else None
        await engine.load(body.lora_name, body.lora_path, path=path)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(request: web.Request) -> web.Response:
        body = await _body(request)
        await engine.unload(body.lora_name)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    def guarded(handler: _Handler) -> _Handler:
        async def answer(request: web.Request) -> web.Response:
            if not engine.switches.lora_enabled:
                return web.json_response({"detail": "Not Found"}, status=404)
            try:
                return await handler(request)
            except Refused as refused:
                kind = HTTPStatus(refused.status).phrase.replace(" ", "") + "Error"
                error = {"message": refused.message, "type": kind, "code": refused.status}
                return web.json_response({"error": error}, status=refused.status)

        return answer

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/load_lora_adapter", guarded(load))
    app.router.add_post("/v1/unload_lora_adapter", guarded(unload))
    return app


async def _body(request: web.Request) -> _Adapter:
    try:
        return msgspec.json.decode(await request.read(), type=_Adapter)
    except msgspec.DecodeError as error:
        raise Refused(400, str(error)) from error


def _card(name: str, root: str, parent: str | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": root, "parent": parent}
