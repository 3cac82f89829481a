"""The bytes of files: `/{id}/resolve/{revision}/{path}`, and the signed addresses to which it sends clients for large ones.

Files in git are answered directly. Files in LFS are answered with 302 to another origin, with the facts about the file
(`X-Linked-Size`, `X-Linked-Etag`, `X-Repo-Commit`) on the redirect itself; there, only the signature counts.
"""

import gzip
from urllib.parse import quote

from local.hub import message
from local.hub.faults import Close, Flip, Gzip, IgnoreRange, Stall, Target, Truncate
from local.hub.hub import Hub
from local.hub.message import FileBody, Request, Response
from local.hub.ranges import Unsatisfiable, parse_range
from local.hub.repository import HubFile

_TEXT_SUFFIXES = (".json", ".txt", ".md", ".py", ".yaml", ".csv", ".gitattributes")


def resolve_target(request: Request) -> Target:
    """Say which file a `resolve` address is about."""
    organization, model, _, _, *path = request.segments
    return Target("resolve", f"{organization}/{model}", "/".join(path))


def cdn_target(request: Request) -> Target:
    """Say which file a signed address is about."""
    segments = request.segments
    return Target("cdn", "/".join(segments[1:3]), "/".join(segments[4:]))


def answer_resolve(hub: Hub, request: Request) -> Response:
    """Answer `/{organization}/{model}/resolve/{revision}/{path}`."""
    target = resolve_target(request)
    entered = hub.enter(target.repository, request, "content")
    if isinstance(entered, Response):
        return entered
    revision = request.segments[3]
    commit = entered.find(revision)
    if commit is None:
        return message.revision_not_found(revision)
    file = commit.files.get(target.file)
    if file is None:
        missing = message.entry_not_found(target.file)
        return Response(missing.status, {**missing.headers, "X-Repo-Commit": commit.id}, missing.body)
    if file.sha256 is None:
        return _send(hub, request, target, file, {"X-Repo-Commit": commit.id})
    path = f"/lfs/{target.repository}/{commit.id}/{quote(file.path, errors='surrogatepass')}"
    return Response(
        302,
        {
            "Location": f"{hub.cdn_url}{path}?{hub.signer.query(path)}",
            "X-Repo-Commit": commit.id,
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{file.sha256}"',
            "ETag": f'"{file.sha256}"',
            "Accept-Ranges": "bytes",
        },
    )


def answer_cdn(hub: Hub, request: Request) -> Response:
    """Answer `/lfs/{organization}/{model}/{commit}/{path}` with its signature in the query."""
    if "authorization" in request.headers:
        return _cdn_error(400, "InvalidArgument", "Only one auth mechanism allowed")
    refusal = hub.signer.refusal(request.path, request.query)
    if refusal:
        return _cdn_error(403, "AccessDenied", refusal)
    target = cdn_target(request)
    repository = hub.repositories.get(target.repository)
    commit = repository.find(request.segments[3]) if repository else None
    file = commit.files.get(target.file) if commit else None
    if file is None:
        return _cdn_error(404, "NoSuchKey", "The specified key does not exist.")
    return _send(hub, request, target, file, {})


def _send(hub: Hub, request: Request, target: Target, file: HubFile, headers: dict[str, str]) -> Response:
    name = quote(file.path.rpartition("/")[2], safe="", errors="surrogatepass")
    headers = {
        **headers,
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "text/plain; charset=utf-8" if _is_text(file) else "application/octet-stream",
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
    }
    whole = FileBody(target.repository, file, 0, file.size)
    if request.method == "HEAD":
        return Response(200, headers, whole)
    if _compressible(request, file) and hub.faults.take(Gzip, target):
        with file.open() as opened:
            packed = gzip.compress(opened.read(), mtime=0)
        return Response(200, {**headers, "Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}, packed)
    try:
        asked = parse_range(request.headers.get("range"), file.size)
    except Unsatisfiable:
        return Response(416, {**headers, "Content-Range": f"bytes */{file.size}"})
    if asked is None or hub.faults.take(IgnoreRange, target):
        return Response(200, headers, _with_faults(hub, target, whole))
    start, stop = asked
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    return Response(206, headers, _with_faults(hub, target, FileBody(target.repository, file, start, stop)))


def _with_faults(hub: Hub, target: Target, body: FileBody) -> FileBody:
    start, stop = body.start, body.stop
    if truncate := hub.faults.take(Truncate, target, lambda fault: fault.length < stop - start):
        stop = start + truncate.fault.length
    flips = hub.faults.take_all(Flip, target, lambda fault: start <= fault.offset < stop)
    close = hub.faults.take(Close, target, lambda fault: fault.after < stop - start)
    stall = hub.faults.take(Stall, target, lambda fault: fault.after < stop - start)
    return FileBody(
        repository=body.repository,
        file=body.file,
        start=start,
        stop=stop,
        flips={flip.fault.offset: flip.fault.xor for flip in flips},
        close_at=start + close.fault.after if close else None,
        stall_at=start + stall.fault.after if stall else None,
        stall_ends=stall.removed.wait if stall else None,
    )


def _compressible(request: Request, file: HubFile) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "") and _is_text(file)


def _is_text(file: HubFile) -> bool:
    return file.path.endswith(_TEXT_SUFFIXES)


def _cdn_error(status: int, code: str, text: str) -> Response:
    """The CDN is an object store and answers in its language."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
    return Response(status, {"Content-Type": "application/xml"}, body.encode())
