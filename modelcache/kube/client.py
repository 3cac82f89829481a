"""Requests to the Kubernetes API: objects as Structs of the caller, failures as `KubeError`.

The typed models of the official client are left out (see objects.py); its REST layer and its credentials are used
(see session.py). Reads take the Struct to decode into as `into=`; `dict[str, Any]` gives everything. Writes take any
JSON-like body (dicts, Structs) and return the metadata of the object as it was stored, which is what is needed to write
again. For an answer of another shape (a TokenReview) there is `request`.

Nothing is repeated here, apart from a 401 with fresh credentials: only the caller knows whether a write may happen
twice, and informer, work queue and elector each have their own pace.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from modelcache.kube.clock import Clock, LoopClock
from modelcache.kube.credentials import Credentials, find_credentials
from modelcache.kube.errors import ServerError
from modelcache.kube.lines import split_lines
from modelcache.kube.objects import ObjectMeta, Page, PartialObject
from modelcache.kube.resources import ResourceType
from modelcache.kube.session import LOAD_TIMEOUT, Call, Observe, Query, Session

T = TypeVar("T")

REQUEST_TIMEOUT = 30.0
"""Seconds for one request unless the caller says otherwise."""
PAGE_SIZE = 500
"""Objects per list request; client-go's default."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class KubeClient:
    """One API server and one identity. Use as `async with KubeClient.connect(path) as client`."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        user_agent: str = "modelcache",
        clock: Clock | None = None,
        load_timeout: float = LOAD_TIMEOUT,
        observe: Observe = lambda call, code, seconds: None,
    ) -> None:
        """`observe` is told about each request."""
        self._session = Session(
            credentials,
            clock=clock or LoopClock(),
            user_agent=user_agent,
            load_timeout=load_timeout,
            observe=observe,
        )

    @classmethod
    def connect(
        cls,
        kubeconfig: str | Path | None = None,
        context: str | None = None,
        *,
        user_agent: str = "modelcache",
        observe: Observe = lambda call, code, seconds: None,
    ) -> Self:
        """Client for an explicit kubeconfig, $KUBECONFIG, the pod's service account or ~/.kube/config, in that order.

        Raises ConfigError when there is none; entering the context raises it when the found one is unusable.
        """
        return cls(find_credentials(kubeconfig, context), user_agent=user_agent, observe=observe)

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @property
    def server(self) -> str:
        """Address of the API server, for messages."""
        return self._session.server

    async def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: object = None,
        *,
        content_type: str = JSON,
        timeout: float = REQUEST_TIMEOUT,
        verb: str = "",
        subject: str = "",
    ) -> bytes:
        """Send one request and return the body of a 2xx answer.

        `path` is percent-encoded (see ResourceType.path), `query` is not. `timeout` is in seconds, for everything.
        `verb` and `subject` go into messages. Raises KubeError; Unreachable leaves open whether a write has happened.
        """
        call = Call(
            method, path, query or {}, body, content_type, timeout, verb or _VERBS.get(method, method), subject or path
        )
        async with self._session.send(call) as answer:
            return await answer.read()

    @asynccontextmanager
    async def stream_lines(
        self, path: str, query: Query | None = None, *, timeout: float, verb: str = "watch", subject: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """GET an answer that is lines without end: `async with client.stream_lines(...) as lines: async for line in lines`.

        Entered when the server has answered 2xx. Lines come without their newline, however long they are, until the
        server ends the answer. Raises Unreachable when it breaks off, and after `timeout` seconds in any case.
        """
        call = Call("GET", path, query or {}, None, JSON, timeout, verb, subject or path)
        async with self._session.send(call) as answer, aclosing(split_lines(answer.chunks())) as lines:
            yield lines

    async def get(self, resource: ResourceType, name: str, namespace: str = "", *, into: type[T]) -> T:
        """Read one object, as stored at this moment. Raises NotFound."""
        subject = resource.describe(name, namespace)
        return self._decode(await self.request("GET", resource.path(name, namespace), subject=subject), into, subject)

    async def list_pages(
        self,
        resource: ResourceType,
        namespace: str = "",
        *,
        into: type[T],
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE_SIZE,
        timeout: float = REQUEST_TIMEOUT,
    ) -> AsyncIterator[Page[T]]:
        """List consistently, `limit` objects a request (0: all at once); `into=msgspec.Raw` leaves the items undecoded.

        All pages show the same moment. Raises Gone when the server has forgotten that moment between two pages: what was
        yielded so far is then worthless, start again.
        """
        page_type: Any = Page  # a generic Struct, made concrete at run time
        path, subject = resource.path("", namespace), resource.describe("", namespace)
        query: dict[str, str | int] = {"labelSelector": label_selector, "fieldSelector": field_selector}
        if limit:
            query["limit"] = limit
        while True:
            body = await self.request("GET", path, query, timeout=timeout, verb="list", subject=subject)
            page: Page[T] = self._decode(body, page_type[into], subject)
            yield page
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def create(
        self, resource: ResourceType, body: object, namespace: str = "", *, name: str = "", field_manager: str = ""
    ) -> ObjectMeta:
        """Create an object, its name in `body`; `name` is for messages only. Raises AlreadyExists."""
        path, subject = resource.path("", namespace), resource.describe(name, namespace)
        return await self._write("POST", path, body, JSON, subject, {"fieldManager": field_manager})

    async def replace(
        self,
        resource: ResourceType,
        name: str,
        body: object,
        namespace: str = "",
        *,
        subresource: str = "",
        field_manager: str = "",
        timeout: float = REQUEST_TIMEOUT,
    ) -> ObjectMeta:
        """PUT. With `metadata.resourceVersion` in `body` it raises Conflict if somebody else wrote in between."""
        path, subject = resource.path(name, namespace, subresource), resource.describe(name, namespace, subresource)
        return await self._write("PUT", path, body, JSON, subject, {"fieldManager": field_manager}, timeout)

    async def merge_patch(
        self,
        resource: ResourceType,
        name: str,
        body: object,
        namespace: str = "",
        *,
        subresource: str = "",
        field_manager: str = "",
    ) -> ObjectMeta:
        """JSON merge patch (RFC 7386): null deletes, lists are replaced. A resourceVersion in `body` is checked."""
        path, subject = resource.path(name, namespace, subresource), resource.describe(name, namespace, subresource)
        return await self._write("PATCH", path, body, MERGE_PATCH, subject, {"fieldManager": field_manager})

    async def json_patch(
        self,
        resource: ResourceType,
        name: str,
        operations: Sequence[Mapping[str, object]],
        namespace: str = "",
        *,
        subresource: str = "",
        field_manager: str = "",
    ) -> ObjectMeta:
        """JSON patch (RFC 6902). Raises Invalid when an operation, such as `test`, does not apply."""
        path, subject = resource.path(name, namespace, subresource), resource.describe(name, namespace, subresource)
        return await self._write("PATCH", path, operations, JSON_PATCH, subject, {"fieldManager": field_manager})

    async def apply(
        self,
        resource: ResourceType,
        name: str,
        body: object,
        namespace: str = "",
        *,
        field_manager: str,
        force: bool = False,
        subresource: str = "",
    ) -> ObjectMeta:
        """Server-side apply. `body` needs apiVersion and kind. Raises Conflict on foreign fields unless `force`."""
        path, subject = resource.path(name, namespace, subresource), resource.describe(name, namespace, subresource)
        query: Query = {"fieldManager": field_manager, "force": force}
        return await self._write("PATCH", path, body, APPLY_PATCH, subject, query, verb="apply")

    async def delete(
        self,
        resource: ResourceType,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "",
    ) -> None:
        """Delete, or ask for deletion where finalizers hold the object. Raises NotFound.

        With `uid` or `resource_version`, raises Conflict if the object of that name is not (or no longer) that one.
        `propagation` is Background, Foreground or Orphan.
        """
        options: dict[str, object] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}
        if preconditions:
            options["preconditions"] = preconditions
        if propagation:
            options["propagationPolicy"] = propagation
        subject = resource.describe(name, namespace)
        await self.request("DELETE", resource.path(name, namespace), None, options, subject=subject)

    async def _write(
        self,
        method: str,
        path: str,
        body: object,
        content_type: str,
        subject: str,
        query: Query,
        timeout: float = REQUEST_TIMEOUT,
        *,
        verb: str = "",
    ) -> ObjectMeta:
        answer = await self.request(
            method, path, query, body, content_type=content_type, timeout=timeout, verb=verb, subject=subject
        )
        return self._decode(answer, PartialObject, subject).metadata

    def _decode(self, body: bytes, into: type[T], subject: str) -> T:
        try:
            return msgspec.json.decode(body, type=into)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ServerError(
                f"the answer cannot be read: {error}", verb="decode", subject=subject, server=self.server
            ) from error
