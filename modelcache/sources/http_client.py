"""Ask a web server about files: their size, and what tells one version from another.

Always by a GET for the first byte: servers that serve signed addresses accept nothing else, and the answer also says how large
the whole is. Redirects are followed here, one by one, so that the credential stays with the host that it is for.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx2

from modelcache.manifest import path_problem
from modelcache.sources.base import SourceFile
from modelcache.sources.errors import (
    EmptyRepository,
    MalformedListing,
    NotFound,
    RateLimited,
    SourceError,
    Unauthorized,
    Unreachable,
    UnsafePath,
    Unsupported,
)
from modelcache.sources.http import LAST_MODIFIED, url_of
from modelcache.sources.limit import Limit
from modelcache.sources.patience import retry_after
from modelcache.sources.select import selected
from modelcache.sources.sums import FILE_NAME, LARGEST, parse_sums
from modelcache.sources.tls import CA_KEY, tls_context
from modelcache.sources.uri import SourceURI
from modelcache.sources.web import MAX_REDIRECTS, REDIRECTS, guard, next_address, origin_of

_CONNECT_TIMEOUT = 10.0
_DEADLINE = 600.0
"""Seconds for all requests of one client: 200,000 files of a server 50 ms away."""
_THREADS = 16
_CONTENT_RANGE = re.compile(r"bytes (?:\d{1,18}-\d{1,18}|\*)/(\d{1,18})")


class HttpClient:
    """The questions of one `resolve`."""

    def __init__(
        self,
        uri: SourceURI,
        headers: Mapping[str, str],
        environ: Mapping[str, str],
        *,
        timeout: float,
        clock: Callable[[], float],
        authorities: str | None = None,
    ) -> None:
        """`headers` go to the host of `uri` alone. Raises Unsupported for `authorities` that are none."""
        self._uri = uri
        self._credential = headers
        self._clock = clock
        self._deadline = clock() + _DEADLINE
        self._limits: dict[int, Limit] = {}
        """By the number of the connection's descriptor."""
        self._client = httpx2.Client(
            verify=tls_context(environ, authorities),
            headers={"User-Agent": "dynamo-model-cache", "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            limits=httpx2.Limits(max_connections=_THREADS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        for limit in self._limits.values():
            limit.lift()

    def _limit(self, connection: socket.socket) -> None:
        number = connection.fileno()
        # Whose number is in use again was closed: a server may end each connection, and a folder have thousands of files.
        closed = self._limits.pop(number, None)
        if closed is not None:
            closed.lift()
        self._limits[number] = Limit(connection, _DEADLINE)

    def file(self, name: str) -> SourceFile:
        """The one file of the URI. Raises SourceError."""
        with self._get(url_of(self._uri, ""), first_byte=True) as response:
            size, version = self._size(response), _version(response)
        if version is None:
            raise Unsupported(
                f"{_shown(self._uri)} has neither ETag nor Last-Modified, so that a change could not be noticed: put it into "
                f"a folder with {FILE_NAME}."
            )
        return SourceFile(path=name, size=size, etag=version)

    def folder(self, include: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
        """What SHA256SUMS lists. Only files that are wanted are asked for; of the others the size is 0. Raises SourceError."""
        sums_url = url_of(self._uri, FILE_NAME)
        data = self._read(sums_url)
        sums = parse_sums(data, _shown_url(sums_url))
        sums.pop(FILE_NAME, None)
        if not sums:
            raise EmptyRepository(f"{_shown_url(sums_url)} lists no files: write it again with sha256sum.")
        wanted = [path for path in sums if selected(path, include, exclude)]
        for path in wanted:
            problem = path_problem(path)
            if problem:  # before anything is asked for: it would mean another address
                raise UnsafePath(f"{_shown_url(sums_url)} lists {ascii(path)[:200]}, {problem}: correct the list.")
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="head") as pool:
            sizes = dict(zip(wanted, pool.map(self._size_of, wanted), strict=True))
        itself = SourceFile(path=FILE_NAME, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        return [itself, *(SourceFile(path=path, size=sizes.get(path, 0), sha256=sums[path]) for path in sums)]

    def _size_of(self, path: str) -> int:
        try:
            with self._get(url_of(self._uri, path), first_byte=True) as response:
                return self._size(response)
        except NotFound:
            raise NotFound(
                f"{_shown(self._uri)}: {FILE_NAME} lists {path[:200]!r}, which is not there; put it there, or correct the list."
            ) from None

    def _read(self, url: str) -> bytes:
        body = bytearray()
        try:
            with self._get(url, first_byte=False) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    self._check_deadline()
                    if len(body) > LARGEST:
                        raise MalformedListing(
                            f"{_shown_url(url)} has more than {LARGEST} bytes: it is no list of files."
                        )
        except NotFound:
            raise NotFound(
                f"{_shown_url(url)} does not exist: a folder needs it as its list of files (sha256sum * > {FILE_NAME}); for "
                f"one file, write its address without a slash at the end."
            ) from None
        return bytes(body)

    def _size(self, response: httpx2.Response) -> int:
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise Unsupported(
                f"{_shown_url(str(response.url))} comes compressed ({encoding[:40]!r}) although that was not asked for, so "
                f"that its size and digest are not those of the file: switch that off for it."
            )
        total = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if total is not None and response.status_code in (206, 416):
            return int(total[1])
        text = response.headers.get("Content-Length", "")
        if response.status_code == 200 and text.isdecimal() and len(text) < 19:
            return int(text)
        raise Unsupported(
            f"{_shown_url(str(response.url))}: the server does not say how large the file is; serve it as a static file."
        )

    @contextlib.contextmanager
    def _get(self, url: str, *, first_byte: bool) -> Iterator[httpx2.Response]:
        """An answer with content, or 416 for a file without a first byte. Raises SourceError."""
        target, origin = url, origin_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            self._check_deadline()
            headers = {"Range": "bytes=0-0"} if first_byte else {}
            headers.update(self._credential if origin_of(target) == origin else {})
            asked = self._client.stream(
                "GET", target, headers=headers, extensions={"trace": guard(target, self._limit)}
            )
            with self._translated(target), asked as response:
                if response.status_code in REDIRECTS:
                    target = _next(target, response)
                    continue
                empty = first_byte and response.status_code == 416
                if response.status_code not in (200, 206) and not empty:
                    raise _refusal(target, response, credential=bool(self._credential))
                yield response
                return
        raise Unsupported(
            f"{_shown_url(url)} leads through more than {MAX_REDIRECTS} redirects: give the last address."
        )

    def _check_deadline(self) -> None:
        if self._clock() > self._deadline:
            raise Unreachable(
                f"{_shown(self._uri)} is too slow: not listed after {_DEADLINE:.0f} s; it is asked again."
            )

    @contextlib.contextmanager
    def _translated(self, url: str) -> Iterator[None]:
        where = _shown_url(url)
        try:
            yield
        except httpx2.TimeoutException:
            raise Unreachable(f"{where} does not answer in time: check the network and the proxy.") from None
        except (httpx2.InvalidURL, httpx2.DecodingError, httpx2.UnsupportedProtocol) as error:
            raise MalformedListing(
                f"{where} cannot be understood ({type(error).__name__}): check the address."
            ) from None
        except ValueError:  # labels that are empty or too long, no port: from a redirect
            raise Unsupported(f"{where} names a host that cannot exist: check the address.") from None
        except httpx2.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Unreachable(
                    f"{where}: its certificate is not trusted; store that of your certificate authority under the key "
                    f"{CA_KEY!r} of the Secret of spec.source.secretRef, or set SSL_CERT_FILE."
                ) from None
            detail = str(error) or type(error).__name__
            raise Unreachable(f"{where} cannot be reached ({detail}): check the address, network and proxy.") from None


def _version(response: httpx2.Response) -> str | None:
    etag = response.headers.get("ETag", "").strip()
    modified = response.headers.get("Last-Modified", "").strip()
    return etag or (f"{LAST_MODIFIED}{modified}" if modified else None)


def _next(url: str, response: httpx2.Response) -> str:
    target = next_address(url, response.headers.get("Location", ""), _shown_url(url))
    if urlsplit(target).path == urlsplit(url).path + "/":
        raise Unsupported(
            f"{_shown_url(url)} is a folder: write it with a slash at the end, and put {FILE_NAME} into it."
        )
    return target


def _refusal(url: str, response: httpx2.Response, *, credential: bool) -> SourceError:
    status, where = response.status_code, _shown_url(url)
    after = retry_after(response.headers.get("Retry-After"), time.time())
    if status in (404, 410):
        return NotFound(f"{where} does not exist ({status}): correct the address.")
    if status in (401, 403, 407):
        if credential:
            return Unauthorized(
                f"{where} does not accept the credential from spec.source.secretRef ({status}): put a valid one there."
            )
        return Unauthorized(
            f"{where} wants a credential ({status}): set spec.source.secretRef to a Secret with 'token', or 'username' and "
            f"'password'."
        )
    if status == 429:
        return RateLimited(f"{where} asks for fewer requests (429): it is asked again by itself.", retry_after=after)
    if status >= 500 or status in (408, 425):
        return Unreachable(f"{where} is in trouble ({status}): it is asked again by itself.", retry_after=after)
    return Unsupported(f"{where} answers {status}, which is no file: check the address.")


def _shown(uri: SourceURI) -> str:
    return _shown_url(f"{uri.scheme}://{uri.authority}/{uri.path}")


def _shown_url(url: str) -> str:
    """Without the query, where signed addresses carry their authority, and without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]
