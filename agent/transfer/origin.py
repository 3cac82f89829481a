"""Reads ranges of files from their origin over HTTP, kindly and suspiciously.

Kindly: within the shared budget, over kept-alive connections, waiting when told to. Suspiciously: what is asked for is
known (size, range), and an answer that does not fit is an error with a name, never bytes in the file.

Redirects are followed here, one by one. Hugging Face answers a request for a large file with a redirect to a signed URL
at a CDN. The credential is for the first origin only and is not sent on; the signed URL is kept for the other pieces of the
same file, and asked for again when the CDN does not accept it any more.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.transfer.backoff import LONGEST_RETRY_AFTER
from agent.transfer.body import Body
from agent.transfer.budget import OriginBudget
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock
from agent.transfer.connections import Connection, ConnectionPool, Origin, split_url
from agent.transfer.limiter import TokenBucket
from agent.transfer.pace import PaceBoard
from agent.transfer.places import Place, Places
from agent.transfer.refusals import ARCHIVED, EXPIRED, another_version, refusal_code
from agent.transfer.source import RangesIgnored, Sink
from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import (
    MalformedListing,
    NotFound,
    RateLimited,
    SourceChanged,
    SourceError,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from modelcache.sources.patience import retry_after

MAX_REDIRECTS = 5
"""Hugging Face needs one, a mirror in front of it two."""
MAX_DENIALS = 4
"""How often a place that is not accepted is replaced in one read: once for its own, and for those of other threads."""
DRAIN_BYTES = 64 * 1024
"""An error page or redirect up to this size is read so that the connection can be used again."""
USER_AGENT = "dynamo-model-cache"

_CONTENT = (200, 206)
_REDIRECTS = (301, 302, 303, 307, 308)
_DENIED = (401, 403, 404, 410)
_ASKS_FOR_PATIENCE = (429, 503)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True)
class Web:
    """What all downloads of the agent share when they talk to origins."""

    connections: ConnectionPool
    budget: OriginBudget
    limiter: TokenBucket
    pace: Callable[[str], PaceBoard]
    clock: Clock
    stall_seconds: float


class _Redirected(Exception):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url


class _Denied(Exception):
    def __init__(self, error: SourceError) -> None:
        super().__init__()
        self.error = error


class OriginSource:
    """The PieceSource of one model; its `places` know the credential."""

    def __init__(self, web: Web, places: Places) -> None:
        self._web = web
        self._places = places

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        """See PieceSource. SourceErrors name the file and the address without its query."""
        for _ in range(MAX_DENIALS):
            place = self._places.of(file)
            try:
                self._follow(file, place, sink, cancel)
            except _Denied as denied:
                if not self._places.denied(file, place):
                    raise denied.error from None
                last = denied.error
            else:
                place.worked = True
                return
        raise last

    def forget(self, file: ManifestFile) -> None:
        """See PieceSource."""
        self._places.forget(file)

    def _follow(self, file: ManifestFile, place: Place, sink: Sink, cancel: CancelToken) -> None:
        """Reads from a place, through redirects. Raises _Denied and what `read` raises."""
        with place.first_answer(cancel) as answered:
            url = place.target or place.location.url
            for _ in range(MAX_REDIRECTS + 1):
                try:
                    self._exchange(file, place.location, url, sink, cancel, answered)
                except _Redirected as redirect:
                    place.target = url = redirect.url
                except RateLimited:
                    raise
                except Unreachable:
                    # It may be the host that the origin had sent us to that is away: the next try asks the origin again.
                    place.target = None
                    raise
                else:
                    return
        raise Unsupported(
            f"{file.path}: {_shown(place.location.url)} leads through more than {MAX_REDIRECTS} redirects"
        )

    def _exchange(
        self,
        file: ManifestFile,
        location: Location,
        url: str,
        sink: Sink,
        cancel: CancelToken,
        answered: Callable[[], None],
    ) -> None:
        """One request and its answer; `answered` is called when content begins to come.

        Raises _Redirected, _Denied, SourceError, RangesIgnored, Cancelled.
        """
        origin, target = split_url(url)
        headers = {"accept": "*/*", "user-agent": USER_AGENT}
        if origin == split_url(location.url)[0]:
            headers.update({name.lower(): value for name, value in location.headers.items()})
        headers["accept-encoding"] = "identity"
        whole = sink.position == 0 and sink.end == file.size
        if not whole:
            headers["range"] = f"bytes={sink.position}-{sink.end - 1}"
        where = f"{file.path}: {_shown(url)}"
        with self._web.budget.request(origin.text, cancel):
            connection, response = self._send(origin, target, headers, location.authorities, where, cancel)
            kept = False
            try:
                if response.status in _CONTENT:
                    answered()
                with cancel.on_cancel(connection.abort):
                    self._answer(file, connection, response, url, origin, sink, cancel, where, ranged=not whole)
                    kept = response.isclosed() and not response.will_close
            except (OSError, http.client.HTTPException) as error:
                cancel.check()
                raise _interrupted(where, error, self._web.stall_seconds) from error
            except (_Redirected, _Denied):
                kept = response.isclosed() and not response.will_close
                raise
            finally:
                if kept:
                    self._web.connections.give_back(connection)
                else:
                    response.close()
                    connection.close()

    def _send(
        self,
        origin: Origin,
        target: str,
        headers: Mapping[str, str],
        authorities: str | None,
        where: str,
        cancel: CancelToken,
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Sends the request; a kept-alive connection that the server has closed meanwhile is replaced by a new one."""
        fresh = False
        while True:
            connection = self._web.connections.take(origin, fresh=fresh, authorities=authorities)
            try:
                connection.connect(self._web.stall_seconds)
                cancel.check()
                with cancel.on_cancel(connection.abort):
                    return connection, connection.get(target, headers)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                cancel.check()
                if connection.reused and not isinstance(error, TimeoutError):
                    fresh = True
                    continue
                raise _interrupted(where, error, self._web.stall_seconds) from error
            except BaseException:
                connection.close()
                raise

    def _answer(
        self,
        file: ManifestFile,
        connection: Connection,
        response: http.client.HTTPResponse,
        url: str,
        origin: Origin,
        sink: Sink,
        cancel: CancelToken,
        where: str,
        *,
        ranged: bool,
    ) -> None:
        status = response.status
        said = f"{where} answered {status} {response.reason}".rstrip()
        if status in _REDIRECTS:
            self._web.budget.accepted(origin.text)
            next_url = _redirect_target(url, response.headers.get("Location"), said)
            _drain(response)
            raise _Redirected(next_url)
        if status in _CONTENT:
            self._web.budget.accepted(origin.text)
            self._body(file, connection, response, origin, sink, cancel, where, ranged=ranged)
            return
        asked = retry_after(response.headers.get("Retry-After"), self._web.clock.unix(), LONGEST_RETRY_AFTER)
        code = refusal_code(response.headers.get("Content-Type", ""), _drain(response))
        said = f"{said} ({code})" if code else said
        if status in _ASKS_FOR_PATIENCE:
            raise self._web.budget.rejected(origin.text, said, asked, busy=status == 503 and code != "SlowDown")
        if status >= 500 or status in (408, 425):
            raise Unreachable(said, retry_after=asked)
        if code == ARCHIVED:
            raise Unsupported(
                f"{said}: the object is archived; restore it in S3, or leave it out with spec.source.exclude"
            )
        if status in _DENIED or code in EXPIRED:
            raise _Denied(_denied(status, said))
        if status == 412:
            raise SourceChanged(f"{said}: the file was replaced since the manifest was made")
        if status == 416:
            raise SourceChanged(f"{said}: the file is shorter than the {file.size} bytes in the manifest")
        raise Unsupported(f"{said}, which cannot be used to read a file; check the address of the source")

    def _body(
        self,
        file: ManifestFile,
        connection: Connection,
        response: http.client.HTTPResponse,
        origin: Origin,
        sink: Sink,
        cancel: CancelToken,
        where: str,
        *,
        ranged: bool,
    ) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise MalformedListing(f"{where} sends the file encoded as {encoding!r} although that was not asked for")
        digested = bool(file.sha256 or file.git_oid or file.checksum)
        now = another_version(file.etag, response.headers, digested=digested)
        if now:
            raise SourceChanged(f"{where} has {now} now, the manifest says {file.etag}: the file was replaced")
        if response.status == 206:
            end = _ranged_end(response, file, sink, where)
        else:
            if ranged:
                if not (sink.start == 0 and sink.end == file.size):
                    raise RangesIgnored
                sink.restart()
            if response.length is not None and response.length != file.size:
                raise SourceChanged(f"{where} has {response.length} bytes, the manifest says {file.size}")
            end = file.size
        self._receive(connection.body(response, self._web.clock), origin, sink, end, cancel, where)
        if sink.position < sink.end:
            raise Unreachable(f"{where} sent a shorter range than was asked for, up to byte {end}")

    def _receive(
        self,
        body: Body,
        origin: Origin,
        sink: Sink,
        end: int,
        cancel: CancelToken,
        where: str,
    ) -> None:
        """Moves the body into the sink, up to byte `end`."""
        pacer = self._web.pace(origin.text).start()
        while sink.position < end:
            view = sink.space()
            count = body.read_into(view[: self._web.limiter.portion(min(len(view), end - sink.position))])
            if count == 0:
                cancel.check()
                raise Unreachable(f"{where}: the connection was closed at byte {sink.position} of {end}")
            sink.filled(count)
            self._web.limiter.pay(count, cancel)
            if pacer.advance(count) and sink.position < end:
                raise Unreachable(
                    f"{where} is far slower than other transfers from there: reconnecting", retry_after=0.0
                )
        pacer.finish()
        if not body.finish():
            raise SourceChanged(f"{where} sends more than the {end} bytes in the manifest")


def _ranged_end(response: http.client.HTTPResponse, file: ManifestFile, sink: Sink, where: str) -> int:
    """One after the last byte that a 206 will bring. Raises SourceError when it is not what was asked for."""
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise Unreachable(f"{where} sent a part without a usable Content-Range ({text[:80]!r})")
    first, last, total = int(match[1]), int(match[2]), match[3]
    if total != "*" and int(total) != file.size:
        raise SourceChanged(f"{where} has {total} bytes, the manifest says {file.size}")
    if first != sink.position or not first <= last < sink.end:
        raise Unreachable(f"{where} sent bytes {first}-{last}, asked for were {sink.position}-{sink.end - 1}")
    if response.length is not None and response.length != last - first + 1:
        raise Unreachable(f"{where} sent a part whose Content-Length contradicts its Content-Range")
    return last + 1


def _redirect_target(url: str, location: str | None, said: str) -> str:
    if not location:
        raise Unreachable(f"{said} without saying where to")
    try:
        target = urllib.parse.urljoin(url, location)
        old, new = urllib.parse.urlsplit(url).scheme, urllib.parse.urlsplit(target).scheme
    except ValueError:
        raise Unsupported(f"{said} with an address that is none; check the source's server") from None
    if new not in ("http", "https") or (old == "https" and new == "http"):
        raise Unsupported(f"{said} with an address of the scheme {new!r}, which is not followed from {old!r}")
    return target


def _denied(status: int, said: str) -> SourceError:
    if status in (400, 401, 403):
        return Unauthorized(f"{said}; check the credential in spec.source.secretRef and what its owner may read")
    return NotFound(
        f"{said}; the file was there when the revision was resolved and is gone, or is hidden from the token"
    )


def _interrupted(where: str, error: Exception, stall_seconds: float) -> Unreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            f"{where}: its certificate is not trusted ({error.verify_message}); "
            "store that of your certificate authority under the key 'ca.crt' of the Secret of spec.source.secretRef, or set "
            "SSL_CERT_FILE"
        )
    if isinstance(error, TimeoutError):
        return Unreachable(f"{where}: nothing came for {stall_seconds:g} s")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return Unreachable(f"{where}: {reason}")


def _drain(response: http.client.HTTPResponse) -> bytes:
    """Reads a short answer to its end, so that the connection can be used again."""
    with contextlib.suppress(OSError, http.client.HTTPException):  # what matters of the answer was its status
        if response.length is not None and response.length <= DRAIN_BYTES:
            return response.read()
        if response.chunked:
            return response.read(DRAIN_BYTES)
    return b""


def _shown(url: str) -> str:
    """A URL for messages: without its query, where signed URLs carry their authority, and without user and password."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"[:300]
