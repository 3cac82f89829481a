"""HTTP in front of the cluster: health, version, discovery and OpenAPI here, resources in endpoints.py.

Requests are handled one after the other on the event loop: only reading a body and writing a watch wait. Whatever goes
wrong becomes a `Status` body; a defect of this program is logged and answered with 500, and never ends the process.
"""

import asyncio
import logging

import msgspec
from aiohttp import web

from local.kube import discovery, errors, openapi_protobuf, responses
from local.kube.cluster import Cluster
from local.kube.endpoints import Endpoints
from local.kube.errors import ApiError
from local.kube.negotiation import JSON, negotiate, parse_accept
from local.kube.openapi import openapi_v2, openapi_v3_document, openapi_v3_index
from local.kube.routes import parse
from local.kube.store import Object

_log = logging.getLogger(__name__)

# Watches are ended before; this is for requests in the middle of a body.
_SHUTDOWN_SECONDS = 2.0

_HEALTH = ("/healthz", "/livez", "/readyz")
_DISCOVERY_FORMS = (("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2"),)


class Server:
    """The HTTP handler of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._endpoints = Endpoints(cluster)
        # path -> (revision of the registry, document)
        self._openapi: dict[str, tuple[int, bytes]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except ApiError as error:
            return responses.json(error.status, error.code)
        except (asyncio.CancelledError, ConnectionError, web.HTTPException):
            raise
        except RecursionError:
            return responses.json(errors.bad_request("the object is nested too deeply").status, 400)
        except Exception as error:  # noqa: BLE001  (the boundary: a defect must not end the server)
            _log.exception("%s %s", request.method, request.path)
            return responses.json(errors.internal(f"{type(error).__name__}: {error}").status, 500)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith(("/api/", "/apis/")):
            route = parse(request.raw_path.partition("?")[0], self._cluster.registry)
            if route is not None:
                return await self._endpoints.handle(request, route)
        response = self._document(request, path.rstrip("/") or "/")
        if response.status == 200 and request.method not in ("GET", "HEAD"):
            raise errors.plain_method_not_allowed()
        return response

    def _document(self, request: web.BaseRequest, path: str) -> web.Response:
        registry = self._cluster.registry
        if path in _HEALTH or path.startswith(tuple(f"{prefix}/" for prefix in _HEALTH)):
            return responses.text("ok")
        if path.startswith("/openapi/"):
            return self._openapi_document(request, path)
        found: Object | None = None
        match path.strip("/").split("/"):
            case ["version"]:
                found = discovery.version()
            case ["api" | "apis" as root]:
                return self._groups(request, core=root == "api")
            case ["api", version]:
                found = discovery.resource_list(registry, "", version)
            case ["apis", group]:
                found = discovery.group(registry, group)
            case ["apis", group, version]:
                found = discovery.resource_list(registry, group, version)
            case [""]:
                versions = [r.api_version for r in registry if r.group]
                listed = {"/api", "/api/v1", "/apis", *(f"/apis/{version}" for version in versions)}
                found = {"paths": sorted({*_HEALTH, "/openapi/v2", "/openapi/v3", "/version", *listed})}
        return responses.page_not_found() if found is None else responses.json(found)

    def _groups(self, request: web.BaseRequest, *, core: bool) -> web.Response:
        accepted = negotiate(request.headers.get("Accept", ""), _DISCOVERY_FORMS)
        if accepted.parameters.get("as"):
            media_type = f"{JSON};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            return responses.json(discovery.aggregated(self._cluster.registry, core=core), media_type=media_type)
        if core:
            return responses.json(discovery.core_versions(request.host))
        return responses.json(discovery.group_list(self._cluster.registry))

    def _openapi_document(self, request: web.BaseRequest, path: str) -> web.Response:
        registry = self._cluster.registry
        if path == "/openapi/v2":
            accepts = {entry.name for entry in parse_accept(request.headers.get("Accept", ""))}
            if not accepts.isdisjoint(openapi_protobuf.ACCEPTED):
                content = openapi_protobuf.document(registry)
                return web.Response(body=content, content_type=openapi_protobuf.MEDIA_TYPE)
            negotiate(request.headers.get("Accept", ""))
        known = self._openapi.get(path)
        if known is None or known[0] != registry.revision:
            document: Object
            if path == "/openapi/v2":
                document = openapi_v2(registry)
            elif path == "/openapi/v3":
                document = openapi_v3_index(registry)
            else:
                group_version = path.removeprefix("/openapi/v3/").removeprefix("apis/").removeprefix("api/")
                if not any(resource.api_version == group_version for resource in registry):
                    return responses.page_not_found()
                document = openapi_v3_document(group_version, registry)
            known = self._openapi[path] = (registry.revision, msgspec.json.encode(document))
        return responses.encoded(request, known[1])


def make_runner(cluster: Cluster) -> web.ServerRunner:
    """An aiohttp runner of a cluster's server; the caller sets it up, adds a site, and cleans up."""
    # Without cancellation a watch would notice only at its next event that its client has gone.
    server = web.Server(Server(cluster).handle, handler_cancellation=True, access_log=None)
    return web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
