"""The LoRA part of Dynamo's system server (`lib/runtime/src/system_status_server.rs` of ai-dynamo/dynamo).

The server answers before its engine does: until the engine has registered itself, every call is a 500. Without
`DYN_LORA_ENABLED=true` the paths do not exist. A name that is loaded already is a success that changes nothing, whatever the
source.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from local.workers.engine import AlreadyLoaded, Engine, Loaded, Refused

PORT = 9090
_FILE = "file://"

_Handler = Callable[[web.Request], Awaitable[web.Response]]


class _Source(msgspec.Struct):
    uri: str


class _LoadRequest(msgspec.Struct):
    lora_name: str
    source: _Source


def application(engine: Engine) -> web.Application:
    """The server in front of an engine."""

    async def health(_: web.Request) -> web.Response:
        status = "ready" if engine.up else "notready"
        return web.json_response({"status": status, "endpoints": {}}, status=200 if engine.up else 503)

    async def listing(_: web.Request) -> web.Response:
        loaded = await engine.listed()
        ids = {name: adapter.id for name, adapter in loaded.items()}
        return web.json_response({"status": "success", "loras": ids, "count": len(ids)})

    async def load(request: web.Request) -> web.Response:
        try:
            body = msgspec.json.decode(await request.read(), type=_LoadRequest)
        except msgspec.DecodeError as error:
            return web.Response(status=422, text=f"Failed to deserialize the JSON body into the target type: {error}")
        try:
            loaded = await engine.load(body.lora_name, body.source.uri, path=local_path(body.source.uri))
        except AlreadyLoaded:
            return _success(engine.adapters[body.lora_name], "already loaded")
        return _success(loaded, "loaded successfully")

    async def unload(request: web.Request) -> web.Response:
        return _success(await engine.unload(request.match_info["name"]), "unloaded successfully")

    def guarded(name: str, handler: _Handler) -> _Handler:
        async def answer(request: web.Request) -> web.Response:
            if not engine.switches.lora_enabled:
                return web.Response(status=404, text="Route not found")
            try:
                if not engine.up:
                    raise Refused(500, f"Endpoint '{name}' not found in local registry.")
                return await handler(request)
            except Refused as refused:
                body = {"status": "error", "message": refused.message}
                return web.json_response(body, status=200 if engine.switches.errors_in_body and engine.up else 500)

        return answer

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/live", health)
    app.router.add_get("/v1/loras", guarded("list_loras", listing))
    app.router.add_post("/v1/loras", guarded("load_lora", load))
    app.router.add_delete("/v1/loras/{name:.+}", guarded("unload_lora", unload))
    return app


def local_path(uri: str) -> str | None:
    """The directory that a `file://` URI names, taken literally (no percent-encoding); None for another scheme."""
    return uri.removeprefix(_FILE) if uri.startswith(_FILE) else None


def _success(loaded: Loaded, what: str) -> web.Response:
    body: dict[str, Any] = {
        "status": "success",
        "message": f"LoRA adapter '{loaded.name}' {what}",
        "lora_name": loaded.name,
        "lora_id": loaded.id,
    }
    return web.json_response(body)
