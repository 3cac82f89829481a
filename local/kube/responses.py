"""HTTP responses: encoding, compression and warnings."""

import gzip
from collections.abc import Sequence

import msgspec
import yaml
from aiohttp import web

from local.kube.negotiation import JSON, YAML, MediaType
from local.kube.store import Object

# k8s.io/apiserver, responsewriters: smaller responses are not worth compressing.
_GZIP_FROM = 128 * 1024
_GZIP_LEVEL = 1

_HEADERS = {"Cache-Control": "no-cache, private"}


def page_not_found() -> web.Response:
    """What a path gets that names nothing: not even a Status."""
    return web.Response(status=404, text="404 page not found\n")


def text(content: str) -> web.Response:
    """Plain text."""
    return web.Response(text=content)


def json(obj: Object, status: int = 200, *, warnings: Sequence[str] = (), media_type: str = JSON) -> web.Response:
    """A JSON body, whatever the client would have liked: errors and discovery."""
    response = web.Response(body=msgspec.json.encode(obj), status=status, headers=_HEADERS)
    response.headers["Content-Type"] = media_type
    _warn(response, warnings)
    return response


def encoded(
    request: web.BaseRequest,
    content: bytes,
    accepted: MediaType | None = None,
    status: int = 200,
    *,
    warnings: Sequence[str] = (),
) -> web.Response:
    """A body that is already JSON, in the format that was negotiated."""
    media_type = accepted.name if accepted else JSON
    if media_type == YAML:
        content = yaml.safe_dump(msgspec.json.decode(content), default_flow_style=False).encode()
    response = web.Response(status=status, headers=_HEADERS)
    response.headers["Content-Type"] = media_type
    if len(content) >= _GZIP_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
        content = gzip.compress(content, _GZIP_LEVEL)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"
    response.body = content
    _warn(response, warnings)
    return response


def _warn(response: web.Response, warnings: Sequence[str]) -> None:
    for warning in dict.fromkeys(warnings):
        # RFC 9110 quoted-string; control characters would end the header.
        clean = "".join(character if character.isprintable() else " " for character in warning)
        quoted = clean.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
