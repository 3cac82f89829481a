"""The LoRA part of SGLang's server (`python/sglang/srt/entrypoints/http_server.py`).

Nobody listens before the engine is up. Whatever is refused, also because of a missing `--enable-lora`, is a 400 with
`"success": false`; every answer lists what is loaded, and the list of models has the adapters in it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from local.workers.engine import Engine, Refused

PORT = 30000

_Handler = Callable[[web.Request], Awaitable[None]]


class _Adapter(msgspec.Struct):
    lora_name: str
    lora_path: str = ""


def application(engine: Engine) -> web.Application:
    """The server in front of an engine."""

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def models(_: web.Request) -> web.Response:
        loaded = await engine.listed() if engine.switches.lora_enabled else {}
        cards = [_card(engine.base_model, engine.base_model, None)]
        cards += [_card(adapter.name, adapter.source, engine.base_model) for adapter in loaded.values()]
        return web.json_response({"object": "list", "data": cards})

    async def load(request: web.Request) -> None:
        body = await _body(request)
        path = body.lora_path if body.lora_path.startswith("/") else None
        await engine.load(body.lora_name, body.lora_path, path=path)

    async def unload(request: web.Request) -> None:
        await engine.unload((await _body(request)).lora_name)

    def guarded(handler: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            error = "" if engine.switches.lora_enabled else "LoRA is not enabled. Please set `--enable-lora`."
            status = 400
            if not error:
                try:
                    await handler(request)
                except Refused as refused:
                    error, status = refused.message, 400 if refused.status < 500 else refused.status
            body: dict[str, Any] = {
                "success": not error,
                "error_message": error or None,
                "loaded_adapters": {name: loaded.source for name, loaded in engine.adapters.items()},
            }
            return web.json_response(body, status=status if error else 200)

        return answer

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/load_lora_adapter", guarded(load))
    app.router.add_post("/unload_lora_adapter", guarded(unload))
    return app


async def _body(request: web.Request) -> _Adapter:
    try:
        return msgspec.json.decode(await request.read(), type=_Adapter)
    except msgspec.DecodeError as error:
        raise Refused(400, str(error)) from error


def _card(name: str, root: str, parent: str | None) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sglang", "root": root, "parent": parent}
