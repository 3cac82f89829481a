"""The Kubernetes API as bytes: a client without opinions, for what kubectl and the official client hide.

Tests need the status codes, media types, headers and raw watch lines that clients interpret, retry or drop. So this client
does one request a connection with the standard library, raises nothing on an error status, and hands out what came.
"""

import base64
import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import yaml

from tests.support.waiting import PATIENCE

Json = dict[str, Any]
"""One JSON object as the API sends it."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Response:
    """What came back: status, headers (lower-case names) and the body as bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        """The body as one JSON object."""
        value = json.loads(self.body)
        assert isinstance(value, dict), f"not a JSON object: {self.body[:200]!r}"
        return value

    def expect(self, *statuses: int) -> Json:
        """The body, once the status is one of `statuses`; a failure shows the server's own message."""
        assert self.status in statuses, f"HTTP {self.status}, expected {statuses}: {self.body.decode(errors='replace')}"
        return self.json()


class Watch:
    """One open watch: the events one by one, raw. A context manager; `status` tells whether it was accepted."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = _headers(response)

    def next(self) -> Json | None:
        """The next event `{"type", "object"}`; None when the server ended the stream.

        Raises:
            TimeoutError: no event within `PATIENCE` seconds.
        """
        line = self._response.readline()
        if not line.strip():
            return None
        event = json.loads(line)
        assert isinstance(event, dict)
        return event

    def take(self, count: int) -> list[Json]:
        """The next `count` events, bookmarks left out."""
        return [self.until(lambda event: event["type"] != "BOOKMARK") for _ in range(count)]

    def until(self, wanted: Callable[[Json], bool]) -> Json:
        """Skip events up to the first for which `wanted` is true, and return it."""
        while (event := self.next()) is not None:
            if wanted(event):
                return event
        raise AssertionError("the watch ended without the event waited for")

    def rest(self) -> list[Json]:
        """All events until the server ends the stream."""
        events = []
        while (event := self.next()) is not None:
            events.append(event)
        return events

    def body(self) -> bytes:
        """The rest of the body: of a watch that was refused."""
        return self._response.read()

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Api:
    """A server and the credentials of one user, read from a kubeconfig's current context."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"] if context.get("user") else {}
        self.url = str(cluster["server"]).rstrip("/")
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._token: str | None = (user or {}).get("token")
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
            self._tls = ssl.create_default_context(cadata=authority)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, object] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One request. `body` goes out as it is when it is `str` or `bytes`, as JSON otherwise."""
        connection, response = self._send(method, path, body, query, content_type, accept, headers)
        try:
            content = response.read()
            return Response(response.status, _headers(response), content)
        finally:
            connection.close()

    def get(self, path: str, **query: object) -> Response:
        """GET as JSON."""
        return self.request("GET", path, query=query)

    def post(self, path: str, body: object, **query: object) -> Response:
        """POST as JSON."""
        return self.request("POST", path, body, query=query)

    def put(self, path: str, body: object, **query: object) -> Response:
        """PUT as JSON."""
        return self.request("PUT", path, body, query=query)

    def patch(self, path: str, body: object, content_type: str = MERGE_PATCH, **query: object) -> Response:
        """PATCH; a merge patch unless told otherwise."""
        return self.request("PATCH", path, body, content_type=content_type, query=query)

    def apply(self, path: str, body: object, manager: str, *, force: bool = False, **query: object) -> Response:
        """Server-side apply (JSON is YAML) as field manager `manager`."""
        forced = {"force": "true"} if force else {}
        return self.patch(path, body, APPLY_PATCH, fieldManager=manager, **forced, **query)

    def delete(self, path: str, options: object = None, **query: object) -> Response:
        """DELETE, with DeleteOptions as body if given."""
        return self.request("DELETE", path, options, query=query)

    def watch(self, path: str, *, accept: str = JSON, **query: object) -> Watch:
        """Open a watch on the collection at `path`; the caller closes it."""
        connection, response = self._send("GET", path, None, {"watch": "true", **query}, JSON, accept, None)
        return Watch(connection, response)

    def _send(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, object] | None,
        content_type: str,
        accept: str,
        headers: Mapping[str, str] | None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=PATIENCE, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE)
        )
        sent = {"Accept": accept, "User-Agent": "conformance/1.0", **(headers or {})}
        if self._token:
            sent.setdefault("Authorization", f"Bearer {self._token}")
        data: bytes | None = None
        if body is not None:
            sent["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, body=data, headers=sent)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    """By lower-case name; a header that came several times (`Warning`) is joined by commas (RFC 9110 5.3)."""
    joined: dict[str, str] = {}
    for name, value in response.getheaders():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)
