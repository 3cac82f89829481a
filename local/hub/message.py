"""Requests and responses without sockets, and the errors of the protocol.

The errors are told apart by `X-Error-Code` (`RepoNotFound`, `RevisionNotFound`, `EntryNotFound`, `GatedRepo`), which is what
`huggingface_hub` turns into exceptions; the status alone would not do, the hub answers 401 for several things.
"""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgspec

from local.hub.access import Verdict
from local.hub.repository import HubFile


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, decoded."""

    method: str
    path: str
    """As sent, still percent-encoded, without query."""
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments, each decoded: `%2F` does not separate segments but is part of one."""
        return tuple(unquote(segment, errors="surrogateescape") for segment in self.path.split("/")[1:])

    @property
    def token(self) -> str | None:
        """The bearer token, if there is one."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() or None if scheme.lower() == "bearer" else None

    @property
    def base_url(self) -> str:
        """The address under which the client knows this server."""
        return f"http://{self.headers.get('host', '')}"

    def flag(self, name: str) -> bool:
        """Whether a query parameter is there and true, in any of the spellings that clients use."""
        return self.query.get(name, [""])[-1].lower() in ("1", "true", "yes")


class FileBody(msgspec.Struct, frozen=True):
    """The bytes `start` (inclusive) to `stop` (exclusive) of one file as the body of a response, faults included."""

    repository: str
    file: HubFile
    start: int
    stop: int
    flips: Mapping[int, int] = {}
    """Offset in the file -> what to xor its byte with."""
    close_at: int | None = None
    """Offset in the file at which to close the connection, whatever has been promised."""
    stall_at: int | None = None
    """Offset in the file at which to stop until `stall_ends`."""
    stall_ends: Callable[[], object] | None = None
    """Returns when the stall is over."""


class Response(msgspec.Struct, frozen=True):
    """One HTTP response; Content-Length and Date are added when it is written."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes | FileBody = b""


def parse_target(target: str) -> tuple[str, Mapping[str, list[str]]]:
    """Split the target of a request line into path and query; `//` at the start is no host here."""
    parts = urlsplit(target if not target.startswith("//") else f"http://host{target}")
    return parts.path or "/", parse_qs(parts.query, keep_blank_values=True)


def json_response(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Answer 200 with JSON. The encoder is the standard one: it can say NUL and lone surrogates, hostile names too."""
    body = json.dumps(content).encode()
    return Response(200, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def error(status: int, code: str | None, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with an error as the hub words it: code and text as headers, and the text again as JSON."""
    return Response(
        status,
        {
            "Content-Type": "application/json; charset=utf-8",
            **({"X-Error-Code": code} if code else {}),
            "X-Error-Message": header_text(text),
            **(headers or {}),
        },
        json.dumps({"error": text}).encode(),
    )


def refusal(verdict: Verdict, name: str) -> Response:
    """Answer for everything but `Verdict.ALLOWED`."""
    gated = f"Access to model {name} is restricted"
    match verdict:
        case Verdict.INVALID_TOKEN:
            return error(401, None, "Invalid credentials in Authorization header")
        case Verdict.UNKNOWN_ANONYMOUS:
            return error(
                401, "RepoNotFound", "Invalid username or password.", {"WWW-Authenticate": 'Bearer realm="hub"'}
            )
        case Verdict.UNKNOWN:
            return error(404, "RepoNotFound", "Repository not found")
        case Verdict.DISABLED:
            return error(403, None, "Access to this resource is disabled.")
        case Verdict.GATED_ANONYMOUS:
            return error(401, "GatedRepo", f"{gated}. You must have access to it and be authenticated to access it.")
        case Verdict.GATED:
            return error(403, "GatedRepo", f"{gated} and you are not in the authorized list. Visit the model's page.")
        case Verdict.ALLOWED:
            raise ValueError("an allowed request is not refused")


def revision_not_found(revision: str) -> Response:
    """Answer for a branch, tag or commit that the repository does not have."""
    return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def entry_not_found(path: str) -> Response:
    """Answer for a path that the commit does not have."""
    return error(404, "EntryNotFound", f"Entry not found: {path}")


def page_not_found() -> Response:
    """Answer for an address that is none of ours."""
    return error(404, None, "Sorry, we can't find the page you are looking for.")


def bad_request(text: str) -> Response:
    """Answer for a request that makes no sense."""
    return error(int(HTTPStatus.BAD_REQUEST), None, text)


def header_text(text: str) -> str:
    """Make `text` fit for a header: what is not printable ASCII is percent-encoded, so no name can add a header."""
    return quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~", errors="surrogatepass")
