"""How workers are made to misbehave from outside: a small HTTP API beside them.

`GET /workers`                       all workers: address, container, adapters, counts
`GET /workers/NAME`                  one of them
`POST /workers` {"name", "node"}     start another one
`DELETE /workers/NAME`               stop it and delete its Pod
`PUT /workers/NAME/switches`         behave like this from now on, see `local.workers.switches`; what is left out is as usual
`POST /workers/NAME/restart`         restart the container: all adapters are forgotten, the Pod says so
`POST /workers/NAME/forget`          forget all adapters, and say nothing
"""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from local.workers.container import Container
from local.workers.switches import Switches
from local.workers.workers import Workers
from modelcache.kube.errors import KubeError


class _NewWorker(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    node: str


def application(workers: Workers) -> web.Application:
    """The control API of some workers."""

    def one(act: Callable[[Container, bytes], Awaitable[None]]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            container = workers.find(request.match_info["name"])
            if container is None:
                return _problem(404, f"there is no worker {request.match_info['name']}")
            try:
                await act(container, await request.read())
            except msgspec.DecodeError as error:
                return _problem(400, str(error))
            except KubeError as error:
                return _problem(502, str(error))
            return web.json_response(container.describe())

        return answer

    async def everybody(_: web.Request) -> web.Response:
        return web.json_response([container.describe() for container in workers.containers])

    async def add(request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=_NewWorker)
            container = await workers.add(wanted.name, wanted.node)
        except (msgspec.DecodeError, ValueError) as error:
            return _problem(400, str(error))
        except KubeError as error:
            return _problem(502, str(error))
        return web.json_response(container.describe(), status=201)

    async def look(container: Container, _: bytes) -> None:
        pass

    async def switch(container: Container, body: bytes) -> None:
        container.switch(msgspec.json.decode(body, type=Switches))

    async def restart(container: Container, _: bytes) -> None:
        await container.restart()

    async def forget(container: Container, _: bytes) -> None:
        container.engine.forget()

    async def remove(container: Container, _: bytes) -> None:
        await workers.remove(container.spec.name)

    app = web.Application()
    app.router.add_get("/workers", everybody)
    app.router.add_post("/workers", add)
    app.router.add_get("/workers/{name}", one(look))
    app.router.add_delete("/workers/{name}", one(remove))
    app.router.add_put("/workers/{name}/switches", one(switch))
    app.router.add_post("/workers/{name}/restart", one(restart))
    app.router.add_post("/workers/{name}/forget", one(forget))
    return app


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
