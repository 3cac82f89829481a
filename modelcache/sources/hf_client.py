"""Ask a Hugging Face hub what a revision is and what is in it.

From `huggingface_hub` come the HTTP session (proxies, certificates, offline mode) and the reading of the hub's errors.
Its listing calls are not used, because a controller cannot live with three properties of version 2.4: `list_repo_tree` has no
timeout, it sleeps through 429 and 5xx for minutes where we want to report them, and it follows a `Link` to any host, token
included. Here each request has a timeout, a listing has a deadline and a largest size, nothing is retried (the caller
knows when to ask again), and every request goes to the endpoint's own origin.

Answers are decoded strictly into the few fields that we use; what does not fit is MalformedListing, not a guess.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from types import TracebackType
from typing import Annotated, Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx2
import msgspec
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import get_session, hf_raise_for_status

from modelcache.sources.base import SourceFile
from modelcache.sources.errors import MalformedListing, Unreachable
from modelcache.sources.hf_access import Access, file_url
from modelcache.sources.hf_refusal import Asked, explain
from modelcache.sources.tls import tls_context
from modelcache.sources.uri import SourceURI
from modelcache.sources.web import MAX_REDIRECTS, REDIRECTS, guard, next_address, origin_of

_CONNECT_TIMEOUT = 10.0
_DEADLINE = 300.0
"""Seconds for all requests of one client; the largest repositories list in a tenth of that."""
_LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes; a page of 1000 entries has about 300 KiB."""
_MOST_FILES = 500_000

_Hex40 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40}\Z")]
_Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Size = Annotated[int, msgspec.Meta(ge=0)]

T = TypeVar("T")


class RevisionInfo(msgspec.Struct, frozen=True):
    """What `/api/models/{id}/revision/{revision}` says, as far as we need it."""

    sha: _Hex40
    gated: bool | str | None = None


class _Lfs(msgspec.Struct, frozen=True):
    oid: _Hex64
    size: _Size


class _Entry(msgspec.Struct, frozen=True):
    type: str
    path: str


class _FileEntry(msgspec.Struct, frozen=True, rename={"xet_hash": "xetHash"}):
    path: str
    size: _Size
    oid: _Hex40
    lfs: _Lfs | None = None
    xet_hash: _Hex64 | None = None


class HubClient:
    """The questions of one `resolve`: one repository, one revision, one deadline."""

    def __init__(
        self,
        access: Access,
        uri: SourceURI,
        revision: str,
        *,
        timeout: float,
        clock: Callable[[], float],
        xet_above: int,
    ) -> None:
        """`xet_above`: larger files, in bytes, are to be read through Xet. Raises Unsupported for authorities that are none."""
        self._xet_above = xet_above
        self._asked = Asked(access=access, uri=uri, revision=revision)
        self._access = access
        self._uri = uri
        self._revision = revision
        self._repository = f"{uri.authority}/{uri.path}"
        self._timeout = httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
        self._clock = clock
        self._deadline = clock() + _DEADLINE
        # Not huggingface_hub's own headers: making them asks the network about the running program.
        agent = f"dynamo-model-cache/{metadata.version('dynamo-model-cache')}"
        self._headers = {"User-Agent": agent, "Accept": "application/json", **access.headers}
        self._own: httpx2.Client | None = None
        if access.authorities is not None:
            # What huggingface_hub does before each request (offline mode), with this source's own verification.
            hooks = get_session().event_hooks
            context = tls_context({}, access.authorities)
            self._own = httpx2.Client(verify=context, event_hooks=hooks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            self._own.close()

    @property
    def _session(self) -> httpx2.Client:
        return self._own or get_session()

    def revision_info(self) -> RevisionInfo:
        """Ask which commit the revision is now."""
        url = f"{self._access.endpoint}/api/models/{self._repository}/revision/{quote(self._revision, safe='')}"
        body, _ = self._get(url)
        return self._decode(body, RevisionInfo, "the revision")

    def files(self, commit: str) -> list[SourceFile]:
        """List all files of a commit, in the hub's order and with the paths as they come."""
        files = []
        for raw in self._entries(commit):
            entry = self._decode(raw, _Entry, "an entry of the listing")
            if entry.type == "file":
                files.append(self._source_file(self._decode(raw, _FileEntry, f"the entry of {entry.path!r}")))
            if len(files) > _MOST_FILES:
                raise MalformedListing(f"{self._uri} lists more than {_MOST_FILES} files: this is no model.")
        return files

    def check_readable(self, commit: str, path: str) -> None:
        """Make sure that the token may read the content of a file, and raise what the hub says if not."""
        url = file_url(self._access.endpoint, self._uri, commit, path)
        with self._translated():
            # The redirect to the CDN is the permission; there is no need to follow it.
            response = self._session.head(
                url,
                headers=self._headers,
                timeout=self._timeout,
                follow_redirects=False,
                extensions={"trace": guard(url)},
            )
            hf_raise_for_status(response)

    def _entries(self, commit: str) -> Iterator[msgspec.Raw]:
        """All pages of the recursive tree."""
        url: str | None = (
            f"{self._access.endpoint}/api/models/{self._repository}/tree/{commit}?recursive=true&expand=false"
        )
        while url is not None:
            body, url = self._get(url)
            yield from self._decode(body, list[msgspec.Raw], "the listing")

    def _source_file(self, entry: _FileEntry) -> SourceFile:
        if entry.lfs is not None:
            if entry.lfs.size != entry.size:
                raise MalformedListing(
                    f"{self._uri} lists {entry.path!r} with {entry.size} and with {entry.lfs.size} bytes: ask who runs "
                    f"{self._access.endpoint}."
                )
            # The object id is that of the pointer, which nobody downloads.
            return SourceFile(path=entry.path, size=entry.size, sha256=entry.lfs.oid, locator=self._locator(entry))
        if entry.xet_hash is not None:
            return SourceFile(path=entry.path, size=entry.size, locator=self._locator(entry))
        return SourceFile(path=entry.path, size=entry.size, git_oid=entry.oid)

    def _locator(self, entry: _FileEntry) -> str | None:
        return f"xet:{entry.xet_hash}" if entry.xet_hash is not None and entry.size > self._xet_above else None

    def _get(self, url: str) -> tuple[bytes, str | None]:
        """Return the body of the answer and the address of the next page, if there is one."""
        body, target = bytearray(), url
        for _ in range(MAX_REDIRECTS + 1):
            with self._translated(), self._asking(target) as response:
                if response.status_code in REDIRECTS:  # of a repository that was renamed
                    target = next_address(target, response.headers.get("Location", ""), self._access.endpoint)
                    continue
                if response.status_code >= 400:
                    # Headers say it all, and an error's body may be as long as it likes.
                    response.close()
                hf_raise_for_status(response)
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _LARGEST_ANSWER:
                        raise MalformedListing(
                            f"{self._access.endpoint} answers more than {_LARGEST_ANSWER} bytes to {url}."
                        )
                    if self._clock() > self._deadline:
                        raise Unreachable(
                            f"{self._access.endpoint} has not finished listing {self._uri} after {_DEADLINE:.0f} s."
                        )
                link = response.links.get("next", {}).get("url")
                return bytes(body), self._own_address(urljoin(str(response.url), link)) if link else None
        raise MalformedListing(
            f"{self._access.endpoint} leads through more than {MAX_REDIRECTS} redirects to {self._uri}: check that HF_ENDPOINT "
            f"names a hub."
        )

    def _asking(self, url: str) -> AbstractContextManager[httpx2.Response]:
        """A request that follows no redirect, with the token for the endpoint's own origin alone."""
        headers = dict(self._headers)
        if origin_of(url) != origin_of(self._access.endpoint):
            headers.pop("Authorization", None)
        extensions = {"trace": guard(url)}
        return self._session.stream(
            "GET", url, headers=headers, timeout=self._timeout, follow_redirects=False, extensions=extensions
        )

    def _own_address(self, link: str) -> str:
        """Return `link` at our endpoint. A mirror may pass on links that name the hub behind it; they get no token."""
        parts = urlsplit(link)
        _, api, rest = parts.path.partition("/api/models/")
        if not api:
            raise MalformedListing(
                f"{self._access.endpoint} continues its listing at {parts.path!r}, which is no listing."
            )
        return f"{self._access.endpoint}{api}{rest}?{parts.query}"

    def _decode(self, body: bytes | msgspec.Raw, kind: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedListing(
                f"{self._uri}: {what} from {self._access.endpoint} is not what a hub answers ({error}): check that "
                f"HF_ENDPOINT names a Hugging Face hub or mirror."
            ) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what a request raises into one of our errors."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled, ValueError) as error:
            # Without its cause, whose text is the server's.
            raise explain(error, self._asked, time.time()) from None
