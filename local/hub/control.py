"""Addresses that no hub has: counters, faults, limits and refs, for tests in another process.

`GET /_stats`             counters, see `local.hub.stats`
`DELETE /_stats`          start counting from zero
`GET /_faults`            all faults, and how often each was met (`applied`)
`POST /_faults`           add a fault, for example `{"kind": "flip", "file": "*.safetensors", "offset": 5}`; see
                          `local.hub.faults`; answers `{"id": n}`
`DELETE /_faults[/n]`     end all faults, or one
`POST /_limits`           `{"bytes_per_second": 1e8 | null, "latency": seconds}`
`POST /_urls`             `{"revoke": true}`: all signed addresses expire now
`POST /_refs`             `{"repository": "org/name", "revision": revision, "branch" | "tag": name}`: move (or make) a ref
"""

from typing import Annotated

import msgspec

from local.hub import message
from local.hub.faults import AnyFault
from local.hub.hub import Hub
from local.hub.message import Request, Response


class _LimitsBody(msgspec.Struct, forbid_unknown_fields=True):
    bytes_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    latency: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class _RevokeBody(msgspec.Struct, forbid_unknown_fields=True):
    revoke: bool


class _RefBody(msgspec.Struct, forbid_unknown_fields=True):
    repository: str
    revision: str
    branch: str | None = None
    tag: str | None = None


def answer(hub: Hub, request: Request) -> Response:
    """Answer one request to a control address; what is wrong with it is 400 and a sentence."""
    try:
        return _answer(hub, request)
    except msgspec.DecodeError as error:
        return message.bad_request(str(error))


def _answer(hub: Hub, request: Request) -> Response:
    match request.method, request.segments:
        case "GET", ("_stats",):
            return message.json_response(hub.stats.describe())
        case "DELETE", ("_stats",):
            hub.stats.reset()
        case "GET", ("_faults",):
            return message.json_response(hub.faults.describe())
        case "POST", ("_faults",):
            return message.json_response({"id": hub.faults.add(msgspec.json.decode(request.body, type=AnyFault))})
        case "DELETE", ("_faults",):
            hub.faults.clear()
        case "DELETE", ("_faults", number):
            if not (number.isdigit() and hub.faults.remove(int(number))):
                return message.error(404, None, f"there is no fault {number}")
        case "POST", ("_limits",):
            limits = msgspec.json.decode(request.body, type=_LimitsBody)
            hub.limits.bytes_per_second, hub.limits.latency = limits.bytes_per_second, limits.latency
        case "POST", ("_urls",):
            if msgspec.json.decode(request.body, type=_RevokeBody).revoke:
                hub.signer.revoke()
        case "POST", ("_refs",):
            return _move_ref(hub, msgspec.json.decode(request.body, type=_RefBody))
        case _:
            return message.page_not_found()
    return message.json_response({})


def _move_ref(hub: Hub, body: _RefBody) -> Response:
    repository = hub.repositories.get(body.repository)
    if repository is None:
        return message.error(404, None, f"there is no repository {body.repository}")
    try:
        if body.tag is not None:
            commit = repository.tag(body.tag, body.revision)
        else:
            commit = repository.move(body.branch or "main", body.revision)
    except KeyError as error:
        return message.error(404, None, str(error.args[0]))
    return message.json_response({"commit": commit})
