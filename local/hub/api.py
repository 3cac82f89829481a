"""The model API: what a repository is, what is in it, and who is asking.

Addresses are those of https://huggingface.co/docs/hub/api, as `huggingface_hub` 2.4 asks for them.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec

from local.hub import access, message, views
from local.hub.faults import Listing, Target, falsify
from local.hub.hub import Hub
from local.hub.message import Request, Response
from local.hub.repository import Commit, Repository

_EXPANDED_PAGE = 50
"""Entries a page with `expand=true` (the limit that `HfApi.list_repo_tree` documents)."""


def answer(hub: Hub, request: Request) -> Response:
    """Answer one request to an address below `/api/`."""
    match request.segments:
        case ("api", "whoami-v2"):
            return _whoami(hub, request)
        case ("api", "models", organization, model, *rest):
            entered = hub.enter(f"{organization}/{model}", request, "content" if rest == ["auth-check"] else "listing")
            return entered if isinstance(entered, Response) else _model(hub, request, entered, rest)
        case ("api", "datasets" | "spaces", first, second, *_):
            verdict = access.judge(None, request.token, hub.users(), "listing")
            return message.refusal(verdict, f"{first}/{second}")
        case _:
            return message.page_not_found()


def target_of(request: Request) -> Target:
    """Say which repository an address below `/api/` is about."""
    segments = request.segments
    return Target("api", repository="/".join(segments[2:4]) if segments[1:2] == ("models",) else "")


def _whoami(hub: Hub, request: Request) -> Response:
    name = hub.users().get(request.token or "")
    if name is None:
        return message.error(401, None, "Invalid credentials in Authorization header")
    return message.json_response(views.whoami(name))


def _model(hub: Hub, request: Request, repository: Repository, rest: list[str]) -> Response:
    match rest:
        case ["auth-check"]:
            return message.json_response({})
        case ["xet-read-token", _] if hub.xet is not None:
            return message.json_response(hub.xet.token())
        case ["refs"]:
            return message.json_response(views.refs(repository))
        case [] | ["revision", _]:
            revision = rest[1] if rest else "main"
            commit = repository.find(revision)
            return _info(hub, request, repository, commit) if commit else message.revision_not_found(revision)
        case ["tree", revision, *below]:
            commit = repository.find(revision)
            path = "/".join(below)
            return _tree(hub, request, repository, commit, path) if commit else message.revision_not_found(revision)
        case ["paths-info", revision] if request.method == "POST":
            commit = repository.find(revision)
            return _paths_info(hub, request, repository, commit) if commit else message.revision_not_found(revision)
        case _:
            return message.page_not_found()


def _info(hub: Hub, request: Request, repository: Repository, commit: Commit) -> Response:
    entries = _as_listed(hub, repository, views.tree(commit, "", recursive=True) or [])
    return message.json_response(views.model_info(repository, commit, entries, blobs=request.flag("blobs")))


def _tree(hub: Hub, request: Request, repository: Repository, commit: Commit, path: str) -> Response:
    found = views.tree(commit, path, recursive=request.flag("recursive"))
    if found is None:
        return message.entry_not_found(path)
    entries = _as_listed(hub, repository, found)
    expand = request.flag("expand")
    size = min(hub.page_size, _EXPANDED_PAGE) if expand else hub.page_size
    try:
        asked = int(request.query.get("limit", [str(size)])[-1])
        start = _offset(request.query.get("cursor", [""])[-1])
    except ValueError:
        return message.bad_request("limit or cursor is not valid")
    stop = start + max(1, min(asked, size))
    page = [views.expanded(entry, commit) if expand else entry for entry in entries[start:stop]]
    headers = {"X-Repo-Commit": commit.id}
    if stop < len(entries):
        query = {key: values[-1] for key, values in request.query.items()} | {"cursor": _cursor(stop)}
        headers["Link"] = f'<{request.base_url}{request.path}?{urlencode(query)}>; rel="next"'
    return message.json_response(page, headers)


def _paths_info(hub: Hub, request: Request, repository: Repository, commit: Commit) -> Response:
    """The body is a form (what `HfApi.get_paths_info` sends) or JSON, with `paths` and `expand`."""
    try:
        if "json" in request.headers.get("content-type", ""):
            body: dict[str, Any] = msgspec.json.decode(request.body, type=dict[str, Any])
            paths, expand = [str(path) for path in body.get("paths", [])], bool(body.get("expand"))
        else:
            form = parse_qs(request.body.decode())
            paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() == "true"
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        return message.bad_request("the body is neither a form nor JSON with a list of paths")
    entries = _as_listed(hub, repository, list(views.paths(commit, paths)))
    return message.json_response([views.expanded(entry, commit) if expand else entry for entry in entries])


def _as_listed(hub: Hub, repository: Repository, entries: Sequence[views.Entry]) -> Sequence[views.Entry]:
    for listing in hub.faults.take_all(Listing, Target("api", repository=repository.name)):
        entries = falsify(entries, listing.fault)
    return entries if hub.xet is None else hub.xet.named(entries)


def _cursor(offset: int) -> str:
    """Opaque, as on the hub: clients must take it from the Link header."""
    return base64.urlsafe_b64encode(b"offset:%d" % offset).decode()


def _offset(cursor: str) -> int:
    """Raises ValueError."""
    if not cursor:
        return 0
    try:
        kind, _, offset = base64.urlsafe_b64decode(cursor).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("not a cursor") from None
    if kind != "offset" or not offset.isdigit():
        raise ValueError("not a cursor")
    return int(offset)
