"""`hf://organization/name`: models on the Hugging Face Hub, or on a mirror of it.

Settings come from the environment, read at the time of each call:

`HF_ENDPOINT`  the hub's address, https://huggingface.co by default.
`HF_TOKEN`     used where a DynamoModel has no `spec.source.secretRef`. It is the token of the whole installation: every
               namespace can cache what it can read, so give it to a controller only if that is meant. No token file is
               read (`~/.cache/huggingface/token` belongs to a person, and a controller has none).

`MODELCACHE_XET_ABOVE_BYTES`  files larger than this are read through Xet, by default 50 GB: the hub's CDN serves no larger
               ones ("Storage limits" in its documentation). For mirrors with another limit.

Keys of a Secret: `token` or `HF_TOKEN`, or one of any name; `ca.crt`, see `modelcache.sources.tls`, for a mirror with a
certificate of one's own authority (not for what comes through Xet, whose client reads only the environment).

The token is sent to the origin of `HF_ENDPOINT` and to nobody else: links to further pages are followed there whatever
host they name, and `Location.headers` must not follow a redirect to the CDN.

This module is light: agents, which only locate files, never import `huggingface_hub` (300 ms, 25 MiB). Asking the hub is in
`modelcache.sources.hf_client`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from modelcache.sources.base import Credential, Location, Resolution, SourceFile, XetContent
from modelcache.sources.errors import EmptyRepository, InvalidURI
from modelcache.sources.hf_access import access_from, file_url
from modelcache.sources.select import selected
from modelcache.sources.uri import SourceURI, check_revision

if TYPE_CHECKING:
    from modelcache.sources.hf_client import HubClient

DEFAULT_REVISION = "main"
"""The hub names every repository's default branch so."""

XET_ABOVE_BYTES = 50 * 1000**3
"""Files above this size cannot be had over plain HTTP."""
XET_VARIABLE = "MODELCACHE_XET_ABOVE_BYTES"
_XET = "xet:"
"""What `SourceFile.locator` begins with for a file that comes through Xet; its hash there follows."""

# The hub puts this file into every repository: one that has nothing else is empty to its owner.
_ALWAYS_THERE = frozenset({".gitattributes"})


class HuggingFaceSource:
    """The source for `hf://`."""

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout`: seconds for each single read from the network."""
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
        """Pin the revision to a commit and list that commit's files. See `modelcache.sources.base.Source`."""
        # Here and not above: see the module docstring.
        from modelcache.sources.hf_client import HubClient

        wanted = wanted_revision(uri, revision)
        access = access_from(self._environ, credential)
        above = self._xet_above()
        with HubClient(access, uri, wanted, timeout=self._timeout, clock=self._clock, xet_above=above) as client:
            return self._resolved(client, uri, wanted, include, exclude)

    def _resolved(
        self, client: HubClient, uri: SourceURI, wanted: str, include: Sequence[str], exclude: Sequence[str]
    ) -> Resolution:
        info = client.revision_info()
        listed = client.files(info.sha)
        if all(file.path in _ALWAYS_THERE for file in listed):
            raise EmptyRepository(
                f"{uri} has no files at {wanted!r} ({info.sha[:12]}): push some, or correct the revision."
            )
        files = [file for file in listed if selected(file.path, include, exclude)]
        if not files:
            raise EmptyRepository(
                f"{uri} has {len(listed)} files at {wanted!r}, but spec.source.include {list(include)} and exclude "
                f"{list(exclude)} leave none of them: correct the patterns."
            )
        if info.gated:
            # A gated repository lists its files for everybody; ask for one, so that it is now that we learn of a missing
            # permission, and not later on each node.
            client.check_readable(info.sha, files[0].path)
        return Resolution(
            uri=str(uri),
            revision=info.sha,
            files=tuple(sorted(files, key=lambda file: file.path.encode("utf-8", "surrogatepass"))),
        )

    def _xet_above(self) -> int:
        text = self._environ.get(XET_VARIABLE, "")
        if not text:
            return XET_ABOVE_BYTES
        if not text.isdecimal():
            raise InvalidURI(f"{XET_VARIABLE} is {text[:40]!r} where the controller runs: write a number of bytes.")
        return int(text)

    def locate(self, uri: SourceURI, revision: str, file: SourceFile, credential: Credential | None) -> Location:
        """Name the file's address on the hub, without asking it. See `modelcache.sources.base.Source`.

        The hub answers small files directly and redirects others to a CDN, with an address that expires: ask this one
        again then. Ask for `Accept-Encoding: identity`: the hub compresses text, and then ignores `Range`.
        """
        access = access_from(self._environ, credential)
        xet = None
        if file.locator is not None and file.locator.startswith(_XET):
            repository = f"{uri.authority}/{uri.path}"
            token_url = f"{access.endpoint}/api/models/{repository}/xet-read-token/{revision}"
            xet = XetContent(file.locator.removeprefix(_XET), token_url)
        return Location(
            url=file_url(access.endpoint, uri, revision, file.path),
            headers=access.headers,
            xet=xet,
            authorities=access.authorities,
        )


def wanted_revision(uri: SourceURI, revision: str | None) -> str:
    """Return the revision meant by the URI and by `spec.version` together. Raises InvalidURI if they disagree."""
    if revision is not None and uri.revision is not None and revision != uri.revision:
        raise InvalidURI(
            f"{uri} is asked for at {uri.revision!r} by its URI and at {revision!r} by spec.version: keep one."
        )
    return check_revision(revision or uri.revision or DEFAULT_REVISION)
