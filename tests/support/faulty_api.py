"""A small Kubernetes API in the test's own event loop that misbehaves on command.

It stores any object under any path, lists in pages, watches from a resourceVersion and checks it on PUT: as much as the
machinery of `modelcache.kube` needs to run. What it is for are the faults: `FaultyApi.inject` puts a handler in front of the
requests that match, which may answer instead, cut the connection, or hang. Nothing in here waits for a time.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from local.ports import free_port
from modelcache.kube.clock import LoopClock

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
Match = Callable[[web.Request], bool]
Json = dict[str, Any]


def is_watch(request: web.Request) -> bool:
    """A watch."""
    return request.query.get("watch") == "true"


def is_list(request: web.Request) -> bool:
    """A list of a collection, any page of it."""
    return request.method == "GET" and not is_watch(request) and not _is_object(request.path)


def is_next_page(request: web.Request) -> bool:
    """A page of a list other than the first."""
    return is_list(request) and "continue" in request.query


def any_request(request: web.Request) -> bool:
    """Everything."""
    del request
    return True


def status(code: int, reason: str, message: str = "injected", headers: dict[str, str] | None = None) -> Fault:
    """Answer with a Status instead."""

    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return _status(code, reason, message, headers)

    return answer


def raw(code: int, body: bytes, content_type: str = "application/json") -> Fault:
    """Answer with these bytes instead."""

    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(status=code, body=body, content_type=content_type)

    return answer


async def drop(request: web.Request) -> web.StreamResponse:
    """Cut the connection without an answer."""
    _cut(request)
    return web.Response()


def hang(until: asyncio.Event) -> Fault:
    """Say nothing until the event; then answer as if nothing had been."""

    async def wait(request: web.Request) -> web.StreamResponse | None:
        del request
        await until.wait()
        return None

    return wait


def after(fault: Fault) -> Fault:
    """Carry the request out, and only then misbehave: the client does not learn that its write has happened."""

    async def carry_out(request: web.Request) -> web.StreamResponse | None:
        await request.app[_API].answer(request)
        return await fault(request)

    return carry_out


@dataclass
class Stream:
    """The server's end of one watch, in the hands of a test."""

    request: web.Request
    response: web.StreamResponse

    async def send(self, data: bytes) -> None:
        """Write these bytes as one chunk."""
        await self.response.write(data)

    async def event(self, kind: str, obj: object) -> None:
        """Write one whole event."""
        await self.send(event_line(kind, obj))

    def cut(self) -> None:
        """Cut the connection in the middle."""
        _cut(self.request)


def event_line(kind: str, obj: object) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def watch_script(script: Callable[[Stream], Awaitable[None]]) -> Fault:
    """Answer a watch with 200 and whatever `script` writes; the stream ends properly when it returns."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await script(Stream(request, response))
        return response

    return answer


@dataclass
class _Injected:
    match: Match
    fault: Fault
    times: int | None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass
class FaultyApi:
    """Objects by path, and faults in front of them. Use as `async with FaultyApi(directory) as api`."""

    directory: Path
    token: str | None = None
    """When set, other bearer tokens get 401."""
    tls: ssl.SSLContext | None = None
    """When set, serve HTTPS with it; takes effect at `start`."""
    objects: dict[str, Json] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    version: int = 100
    _history: list[tuple[int, str, str, Json]] = field(default_factory=list)
    _forgotten: int = 0
    _faults: list[_Injected] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None
    _port: int = field(default_factory=free_port)
    _watches: int = 0

    async def __aenter__(self) -> "FaultyApi":
        await self.start()
        self.write_kubeconfig(self.token or "unused")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port each time."""
        app = web.Application(client_max_size=1 << 30)
        app[_API] = self
        app.router.add_route("*", "/{tail:.*}", self._handle)
        # A shutdown timeout of 0 would mean none.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True, ssl_context=self.tls)
        await site.start()

    async def stop(self) -> None:
        """Cut all connections and listen no more; objects and history stay."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """Address."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig with the token in a file beside it."""
        return self.directory / "kubeconfig"

    @property
    def open_watches(self) -> int:
        """Watches being served by the server itself (not by a script)."""
        return self._watches

    def write_kubeconfig(self, token: str) -> None:
        """(Re)write the kubeconfig's token file."""
        (self.directory / "token").write_text(token + "\n")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "faulty",
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "test"}}],
            "clusters": [{"name": "faulty", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"tokenFile": "token"}}],
        }
        self.kubeconfig.write_text(json.dumps(config))

    def inject(self, match: Match, fault: Fault, *, times: int | None = 1) -> None:
        """Let `fault` have the next `times` requests that match (None: all from now on), after earlier injections."""
        self._faults.append(_Injected(match, fault, times))

    def heal(self) -> None:
        """Take all faults back."""
        self._faults.clear()

    def requests(self, match: Callable[[Seen], bool]) -> list[Seen]:
        """What arrived so far."""
        return [seen for seen in self.seen if match(seen)]

    async def until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Return when `condition` is true; it is looked at whenever a request arrived or an object changed."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    # -- objects -------------------------------------------------------------------------------------------------

    async def put(self, path: str, obj: Json) -> Json:
        """Create or replace the object at `path` (of the object, not of its collection)."""
        self.version += 1
        old = self.objects.get(path)
        uid = old["metadata"]["uid"] if old else f"uid-{self.version}"
        metadata = {**obj.get("metadata", {}), "uid": uid}
        namespace, name = _namespace_and_name(path)
        metadata |= {"name": name, "resourceVersion": str(self.version)}
        if namespace:
            metadata["namespace"] = namespace
        stored = {**obj, "metadata": metadata}
        self.objects[path] = stored
        await self._log("MODIFIED" if old else "ADDED", path, stored)
        return stored

    async def remove(self, path: str) -> None:
        """Delete the object at `path`."""
        self.version += 1
        gone = self.objects.pop(path)
        last = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
        await self._log("DELETED", path, last)

    def forget_history(self) -> None:
        """Compact: watches from any version before now get 410."""
        self._forgotten = self.version
        self._history.clear()

    async def _log(self, kind: str, path: str, obj: Json) -> None:
        self._history.append((self.version, kind, path, obj))
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(
            Seen(request.method, request.raw_path.partition("?")[0], dict(request.query), dict(request.headers), body)
        )
        await self._notify()
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self.token is not None and (scheme.lower(), token) != ("bearer", self.token):
            return _status(401, "Unauthorized", "Unauthorized")
        for injected in self._faults:
            if injected.times == 0 or not injected.match(request):
                continue
            if injected.times is not None:
                injected.times -= 1
            response = await injected.fault(request)
            if response is not None:
                return response
            break
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as a server in good health."""
        path = request.path
        match request.method:
            case "GET" if _is_object(path):
                found = self.objects.get(path)
                return _json(found) if found else _status(404, "NotFound", f"{path} not found")
            case "GET" if is_watch(request):
                return await self._watch(request)
            case "GET":
                return self._list(request)
            case "POST":
                return await self._create(request)
            case "PUT":
                return await self._replace(request)
            case "PATCH":
                found = self.objects.get(path)
                if found is None:
                    return _status(404, "NotFound", f"{path} not found")
                return _json(await self.put(path, _merge(found, await request.json())))
            case _:
                if path not in self.objects:
                    return _status(404, "NotFound", f"{path} not found")
                await self.remove(path)
                return _json({"kind": "Status", "status": "Success"})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        obj = await request.json()
        path = f"{request.path}/{obj['metadata']['name']}"
        if path in self.objects:
            return _status(409, "AlreadyExists", f"{path} already exists")
        return _json(await self.put(path, obj), 201)

    async def _replace(self, request: web.Request) -> web.StreamResponse:
        obj = await request.json()
        found = self.objects.get(request.path)
        if found is None:
            return _status(404, "NotFound", f"{request.path} not found")
        if obj["metadata"].get("resourceVersion") not in (None, found["metadata"]["resourceVersion"]):
            return _status(409, "Conflict", "the object has been modified")
        return _json(await self.put(request.path, obj))

    def _list(self, request: web.Request) -> web.StreamResponse:
        everything = [obj for path, obj in sorted(self.objects.items()) if _in_collection(path, request.path)]
        start = int(request.query.get("continue", "0"))
        limit = int(request.query.get("limit", "0")) or len(everything)
        metadata: Json = {"resourceVersion": str(self.version)}
        if start + limit < len(everything):
            metadata["continue"] = str(start + limit)
        return _json({"kind": "List", "metadata": metadata, "items": everything[start : start + limit] or None})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        position = int(request.query["resourceVersion"])
        if position < self._forgotten:
            return _status(410, "Expired", f"too old resource version: {position} ({self._forgotten})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._watches += 1
        await self._notify()
        clock = LoopClock()
        ended = asyncio.Event()
        timer = clock.call_later(float(request.query.get("timeoutSeconds", "600")), ended.set)
        try:
            while not ended.is_set():
                for version, kind, path, obj in list(self._history):
                    if version > position and _in_collection(path, request.path):
                        await response.write(event_line(kind, obj))
                position = self.version
                await self._changed_or(ended, position)
        finally:
            timer.cancel()
            self._watches -= 1
        return response

    async def _changed_or(self, ended: asyncio.Event, position: int) -> None:
        async def changed() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: self.version > position)

        waits = [asyncio.ensure_future(changed()), asyncio.ensure_future(ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


_API: web.AppKey[FaultyApi] = web.AppKey("api", FaultyApi)


def _parts(path: str) -> list[str]:
    """Segments after the API version: `/api/v1/namespaces/a/pods/b` -> namespaces, a, pods, b."""
    segments = path.strip("/").split("/")
    return segments[2:] if segments[0] == "api" else segments[3:]


def _is_object(path: str) -> bool:
    return len(_parts(path)) % 2 == 0


def _namespace_and_name(path: str) -> tuple[str, str]:
    parts = _parts(path)
    return (parts[1], parts[3]) if len(parts) == 4 else ("", parts[1])


def _in_collection(path: str, collection: str) -> bool:
    """Whether the object at `path` is listed under `collection`, which may span all namespaces."""
    parts, wanted = _parts(path), _parts(collection)
    plural = parts[-2]
    if plural != wanted[-1] or path.split("/")[1:3] != collection.split("/")[1:3]:
        return False
    return len(wanted) == 1 or parts[:2] == wanted[:2]


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _json(obj: object, code: int = 200) -> web.Response:
    return web.json_response(obj, status=code)


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    return web.json_response(body, status=code, headers=headers)
