"""The verbs of the API over HTTP: each reads its parameters, calls the cluster, and presents the outcome."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from local.kube import authorization, errors, parameters, patches, responses, reviews
from local.kube.cluster import Cluster
from local.kube.conversion import encoded, view
from local.kube.documents import Body
from local.kube.identity import User, caller
from local.kube.negotiation import JSON, PROTOBUF, READ, YAML, MediaType, negotiate, parse_media_type
from local.kube.presentation import METADATA, PLAIN, Presentation
from local.kube.reads import read_page
from local.kube.routes import Route
from local.kube.store import Object
from local.kube.writes import Target, Written

# k8s.io/apiserver/pkg/server: the default of MaxRequestBodyBytes.
BODY_LIMIT = 3 * 1024 * 1024

_META = "meta.k8s.io"
_OBJECT_FORMS = (("Table", _META, "v1"), ("PartialObjectMetadata", _META, "v1"))
_LIST_FORMS = (
    ("Table", _META, "v1"),
    ("PartialObjectMetadataList", _META, "v1"),
    ("PartialObjectMetadata", _META, "v1"),
)

_Handler = Callable[[web.BaseRequest, Route], Awaitable[web.StreamResponse]]


class Endpoints:
    """Handlers of requests about resources."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._collection: dict[str, tuple[str, _Handler]] = {
            "GET": ("list", self._list),
            "POST": ("create", self._create),
            "DELETE": ("deletecollection", self._delete_collection),
        }
        self._single: dict[str, tuple[str, _Handler]] = {
            "GET": ("get", self._get),
            "PUT": ("update", self._update),
            "PATCH": ("patch", self._patch),
            "DELETE": ("delete", self._delete),
        }
        # Subresources with a form of their own.
        self._below: dict[str, tuple[str, _Handler]] = {
            "GET": ("get", self._get_below),
            "POST": ("create", self._create_below),
            "PUT": ("update", self._update_below),
            "PATCH": ("patch", self._update_below),
        }

    async def handle(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        """Answer a request about a resource. Raises ApiError."""
        method = "GET" if request.method == "HEAD" else request.method
        if not route.name:
            handlers = self._collection
        elif route.subresource in ("", "status"):
            handlers = self._single
        else:
            handlers = self._below
        verb, handler = handlers.get(method, ("", None))
        below = route.resource.subresources.get(route.subresource)
        allowed = below.verbs if below else route.resource.verbs
        if handler is None or verb not in allowed or (route.everywhere and verb not in ("list", "deletecollection")):
            raise errors.plain_method_not_allowed()
        authorization.check(self._cluster.store, self._user(request), verb, route, request.query)
        return await handler(request, route)

    # Reading

    async def _get(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        if route.watch:
            return await self._list(request, route)
        resource = route.resource
        accepted = negotiate(request.headers.get("Accept", ""), _OBJECT_FORMS)
        stored = self._cluster.store.get(resource.storage_key, route.namespace, route.name)
        if stored is None:
            raise errors.not_found(resource, route.name)
        presentation = self._presentation(request, accepted)
        if presentation.form == PLAIN:
            content = encoded(resource, stored)
        else:
            content = presentation.object(resource, view(resource, stored))
        return responses.encoded(request, content, accepted, warnings=_warnings(route))

    async def _list(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        resource, query = route.resource, request.query
        accepted = negotiate(request.headers.get("Accept", ""), _LIST_FORMS)
        presentation = self._presentation(request, accepted)
        chosen = {"fieldSelector": f"metadata.name={route.name}"} if route.name else query
        selection = parameters.selection(chosen, resource, route.namespace)
        options = parameters.list_options(query)
        if route.watch or parameters.flag(query, "watch"):
            watch = self._cluster.watches.open(resource, selection, options, parameters.watch_options(query))
            try:
                return await _stream(request, watch.events(presentation.events(resource)), accepted)
            finally:
                watch.close()
        page = read_page(self._cluster.store, resource, selection, options)
        metadata: Object = {"resourceVersion": str(page.version)}
        if page.continue_token:
            metadata["continue"] = page.continue_token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        content = presentation.list(resource, page.items, metadata)
        return responses.encoded(request, content, accepted, warnings=_warnings(route))

    async def _get_below(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        return responses.json(self._cluster.subresources.get(_target(route)))

    # Writing

    async def _create(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        accepted = negotiate(request.headers.get("Accept", ""), _OBJECT_FORMS)
        user = self._user(request)
        body = await _read(request)
        if "get" not in route.resource.verbs:
            cluster = self._cluster
            answer = reviews.review(route.resource, body, user, cluster.tokens, cluster.store, route.namespace)
            return responses.json(answer, 201)
        options = parameters.write_options(request.query, _agent(request), "CreateOptions")
        written = self._cluster.writer.create(_target(route), body, replace(options, user=user))
        return self._written(request, route, written, accepted)

    async def _update(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        accepted = negotiate(request.headers.get("Accept", ""), _OBJECT_FORMS)
        body = await _read(request)
        options = parameters.write_options(request.query, _agent(request), "UpdateOptions")
        options = replace(options, user=self._user(request))
        return self._written(request, route, self._cluster.writer.update(_target(route), body, options), accepted)

    async def _patch(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        accepted = negotiate(request.headers.get("Accept", ""), _OBJECT_FORMS)
        media_type = _patch_type(request, route)
        body = await _read(request, (media_type,))
        if media_type == patches.APPLY_PATCH:
            options = replace(parameters.apply_options(request.query, _agent(request)), user=self._user(request))
            written = self._cluster.writer.apply(_target(route), body, options)
        else:
            parameters.refuse_force(request.query)
            options = parameters.write_options(request.query, _agent(request), "PatchOptions")
            options = replace(options, user=self._user(request))
            written = self._cluster.writer.patch(_target(route), media_type, body, options)
        return self._written(request, route, written, accepted)

    async def _create_below(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        body = await _read(request)
        options = parameters.write_options(request.query, _agent(request), "CreateOptions")
        return responses.json(self._cluster.subresources.create(_target(route), body, options), 201)

    async def _update_below(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        media_type = _patch_type(request, route) if request.method == "PATCH" else None
        body = await _read(request, (media_type,) if media_type else READ)
        options = parameters.write_options(request.query, _agent(request), "UpdateOptions")
        written = self._cluster.subresources.update(_target(route), media_type, body, options)
        return responses.json(written.object, warnings=written.warnings)

    async def _delete(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        if route.subresource:
            raise errors.plain_method_not_allowed()
        accepted = negotiate(request.headers.get("Accept", ""), _OBJECT_FORMS)
        user = self._user(request)
        options = replace(parameters.delete_options(request.query, await _read(request)), user=user)
        outcome = self._cluster.deleter.delete(_target(route), options)
        if outcome["kind"] == "Status":
            return responses.json(outcome)
        content = self._presentation(request, accepted).object(route.resource, outcome)
        return responses.encoded(request, content, accepted)

    async def _delete_collection(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        if route.everywhere:
            raise errors.plain_method_not_allowed()
        accepted = negotiate(request.headers.get("Accept", ""), _LIST_FORMS)
        resource = route.resource
        selection = parameters.selection(request.query, resource, route.namespace)
        user = self._user(request)
        options = replace(parameters.delete_options(request.query, await _read(request)), user=user)
        deleted = self._cluster.deleter.delete_collection(resource, selection, options)
        metadata = {"resourceVersion": str(self._cluster.store.version)}
        content = self._presentation(request, accepted).list(resource, deleted, metadata)
        return responses.encoded(request, content, accepted)

    def _written(
        self, request: web.BaseRequest, route: Route, written: Written, accepted: MediaType
    ) -> web.StreamResponse:
        content = self._presentation(request, accepted).object(route.resource, written.object)
        status = 201 if written.created else 200
        return responses.encoded(request, content, accepted, status, warnings=[*written.warnings, *_warnings(route)])

    def _user(self, request: web.BaseRequest) -> User:
        """Who asks. Raises ApiError."""
        return caller(request.headers, self._cluster.tokens, self._cluster.store)

    def _presentation(self, request: web.BaseRequest, accepted: MediaType) -> Presentation:
        form = accepted.parameters.get("as", PLAIN)
        if form == "PartialObjectMetadataList":
            form = METADATA
        return Presentation(form, request.query.get("includeObject", "Metadata"), self._cluster.clock)


def _target(route: Route) -> Target:
    return Target(route.resource, route.namespace, route.name, route.subresource)


def _warnings(route: Route) -> list[str]:
    """What every answer about the resource warns of."""
    return [route.resource.deprecation_warning] if route.resource.deprecation_warning else []


def _agent(request: web.BaseRequest) -> str:
    return request.headers.get("User-Agent", "")


def _patch_type(request: web.BaseRequest, route: Route) -> str:
    """The media type of a patch. Raises ApiError 415."""
    accepted = patches.accepted_types(route.resource)
    name = parse_media_type(request.headers.get("Content-Type", "")).name
    if name not in accepted:
        raise errors.unsupported_media_type(accepted)
    return name


async def _read(request: web.BaseRequest, accepted: tuple[str, ...] = READ) -> Body:
    """The body. Raises ApiError 413 or 415."""
    name = parse_media_type(request.headers.get("Content-Type", "")).name or accepted[0]
    if name not in accepted and request.can_read_body:
        raise errors.unsupported_media_type(accepted)
    length = request.content_length
    if length is not None and length > BODY_LIMIT:
        raise errors.body_too_large(BODY_LIMIT)
    content = bytearray()
    async for chunk in request.content.iter_any():
        content += chunk
        if len(content) > BODY_LIMIT:
            raise errors.body_too_large(BODY_LIMIT)
    is_yaml = name in (YAML, patches.APPLY_PATCH)
    return Body(bytes(content), is_yaml=is_yaml, is_protobuf=name == PROTOBUF)


async def _stream(request: web.BaseRequest, events: AsyncIterator[bytes], accepted: MediaType) -> web.StreamResponse:
    """Write the events of a watch as they come, until it ends or the client has gone."""
    form = "".join(f";{key}={value}" for key, value in accepted.parameters.items() if key in ("as", "g", "v"))
    response = web.StreamResponse(headers={"Cache-Control": "no-cache, private", "Content-Type": f"{JSON}{form}"})
    # A client that hangs up is the usual end of a watch.
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        async for chunk in events:
            if chunk:
                await response.write(chunk)
        await response.write_eof()
    return response
