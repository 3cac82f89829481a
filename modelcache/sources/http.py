"""`https://host/path`: one file, or a folder that says in `SHA256SUMS` what is in it. Also `http://`, without credentials.

A slash at the end makes a folder of it. Its `SHA256SUMS` (see `modelcache.sources.sums`) is the listing, because a web server
has none that could be relied on; `SHA256SUMS` itself is one of the files.

What is checked: the sha256 of every file of a folder. Of a single file nothing is published; `spec.verification.checksum`
can give its sha256. Without that, the first node's sha256 becomes the manifest's. What keeps the versions apart until then is
the server's ETag, or else its Last-Modified: each request carries it as a condition, and each answer is compared with it. A
server that sends neither cannot be used for a single file.

Files are read by ranges, over several connections and resumable. From a server that ignores `Range` a file is read in one go,
by one connection, and from its beginning again after an interruption; of several nodes one reads it, and the others have it
from there. Nothing else differs.

Redirects are followed, within https for https; the credential goes to the first host only. Keys of a Secret: `token` (bearer),
or `username` and `password` (basic); `ca.crt`, see `modelcache.sources.tls`.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, unquote, urlsplit

from modelcache.sources.base import Credential, Location, Resolution, SourceFile
from modelcache.sources.errors import InvalidURI, Unauthorized, Unsupported
from modelcache.sources.listing import resolution_of
from modelcache.sources.tls import CA_KEY
from modelcache.sources.uri import SourceURI

SECRET_KEYS = ("token", "username", "password", CA_KEY)
"""Keys of a Secret that are looked at."""

LAST_MODIFIED = "last-modified "
"""In front of the date, where `SourceFile.etag` holds that because the server sends no ETag."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HttpSource:
    """The source for `https://` and `http://`."""

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout`: seconds for each single read from the network. `clock`: seconds."""
        self._environ = environ
        self._timeout = timeout
        self._clock = clock

    def resolve(
        self,
        uri: SourceURI,
        revision: str | None,
        credential: Credential | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> Resolution:
        """Ask for the file, or for the SHA256SUMS of the folder. See `modelcache.sources.base.Source`."""
        # Here and not above: agents, which only locate, do without it.
        from modelcache.sources.http_client import HttpClient

        path, question, _ = uri.path.partition("?")
        folder = path.endswith("/")
        if folder and question:
            raise InvalidURI(f"{uri.scheme}://{uri.authority}/{path} is a folder and cannot have a query: remove it.")
        headers, authorities = headers_from(uri, credential), authorities_from(credential)
        with HttpClient(
            uri, headers, self._environ, timeout=self._timeout, clock=self._clock, authorities=authorities
        ) as client:
            listed = client.folder(include, exclude) if folder else [client.file(unquote(path.rpartition("/")[2]))]
        return resolution_of(uri, revision, listed, include, exclude)

    def locate(self, uri: SourceURI, revision: str, file: SourceFile, credential: Credential | None) -> Location:
        """Name the file's address and the version that is meant. See `modelcache.sources.base.Source`."""
        return Location(
            url=url_of(uri, file.path),
            headers={**headers_from(uri, credential), **condition_of(file.etag)},
            authorities=authorities_from(credential),
        )


def url_of(uri: SourceURI, path: str) -> str:
    """Where a file of the folder is; for the URI of one file, where that is."""
    url = f"{uri.scheme}://{uri.authority}/{uri.path}"
    return url + quote(path, errors="surrogatepass") if uri.path.partition("?")[0].endswith("/") else url


def condition_of(version: str | None) -> dict[str, str]:
    """The header that makes a server refuse another version (RFC 9110, section 13.1). Weak ETags cannot be used for that."""
    if version is None or version.startswith("W/"):
        return {}
    if version.startswith(LAST_MODIFIED):
        return {"If-Unmodified-Since": version.removeprefix(LAST_MODIFIED)}
    return {"If-Match": version}


def authorities_from(credential: Credential | None) -> str | None:
    """By which certificate authorities servers are verified, if the Secret says so."""
    return credential.values.get(CA_KEY) if credential is not None else None


def headers_from(uri: SourceURI, credential: Credential | None) -> dict[str, str]:
    """The header that carries the credential, if there is one. Raises Unauthorized and Unsupported."""
    if credential is None or credential.values.keys() == {CA_KEY}:
        return {}
    if uri.scheme == "http" and urlsplit(f"//{uri.authority}").hostname not in _LOOPBACK:
        raise Unsupported(f"http://{uri.authority} would get the credential unencrypted: use https://.")
    token, user, password = (credential.values.get(key, "").strip() for key in ("token", "username", "password"))
    if token:
        _check(token)
        return {"Authorization": f"Bearer {token}"}
    if not user or not password:
        raise Unauthorized(
            "The Secret of spec.source.secretRef has neither the key 'token' nor 'username' and 'password': add them, or "
            "name the key of a bearer token in spec.source.secretRef.key."
        )
    if ":" in user:  # where the password would begin (RFC 7617, section 2)
        raise Unauthorized("The 'username' in the Secret of spec.source.secretRef contains ':': store the user alone.")
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _check(token: str) -> None:
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise Unauthorized("The token of spec.source.secretRef contains blanks or control characters: store it alone.")
