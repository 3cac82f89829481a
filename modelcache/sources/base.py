"""What a source of models is: the one interface behind which every scheme (`hf://`, `s3://`, ...) lives.

A source knows one URI scheme. It is asked two things and does no more than these:

`resolve`   once per model, by the controller: which revision is meant, and which files with which digests make it up.
            The answer is immutable: a branch that moves afterwards changes nothing.
`locate`    per file, by whoever reads bytes: where one file of that revision can be read with HTTP `Range` requests.

The bytes themselves never pass through a source. Resuming, checking, limiting and sharing them with peers is the same
work for every scheme, so it exists once, in the transfer engine; a source that brought a downloader of its own would
bring a second, weaker copy of all that. The price is that a source must be readable by ranges, which all of ours are.

What a source returns is *untrusted*: types and formats are checked here (a size is a non-negative integer, a sha256 is
64 hex digits), but paths are passed on as they were listed. `modelcache.manifest` decides which paths are safe to
write, in one place for all sources. How a source fails is in `modelcache.sources.errors`.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from typing import Any, Protocol, cast

import msgspec

from modelcache.sources.errors import Unsupported
from modelcache.sources.uri import SourceURI

ENTRY_POINT_GROUP = "modelcache.sources"
"""Packages add a scheme with an entry point of this group: its name is the scheme, its value a `SourceFactory`."""

_BUILT_IN: Mapping[str, str] = {
    "hf": "modelcache.sources.hf:HuggingFaceSource",
    "s3": "modelcache.sources.s3:S3Source",
    "https": "modelcache.sources.http:HttpSource",
    "http": "modelcache.sources.http:HttpSource",
    "file": "modelcache.sources.file:FileSource",
    "pvc": "modelcache.sources.file:ClaimSource",
}


SETTING_KEYS = frozenset({
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_S3_ADDRESSING_STYLE",
    "AWS_NO_SIGN_REQUEST", "ca.crt",
})  # fmt: skip
"""Keys of Secrets whose values are no secrets, and are of use in messages."""


NODE_SCHEMES = frozenset({"file", "pvc"})
"""What only nodes can see: the controller has one of them ask, see `modelcache.sources.answer`."""


class Credential(msgspec.Struct, frozen=True):
    """The values of one Secret, e.g. `{"token": "hf_..."}`. They live in memory only.

    Neither `repr` nor `str` nor a rich traceback shows a value, so that a log line cannot leak one by accident.
    """

    values: Mapping[str, str]

    def secrets(self) -> tuple[str, ...]:
        """The values that must not be shown, the longest first. Settings that lie in the same Secret are none."""
        secret = (value for key, value in self.values.items() if key not in SETTING_KEYS)
        return tuple(sorted(secret, key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Credential(keys={sorted(self.values)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("keys", sorted(self.values))]


class SourceFile(msgspec.Struct, frozen=True):
    """One file of a resolved revision, as the source lists it: `path` is unchecked input."""

    path: str
    size: int
    """Bytes, >= 0."""
    sha256: str | None = None
    """64 lower-case hex digits where the source publishes it (Hugging Face: LFS and Xet files)."""
    git_oid: str | None = None
    """40 lower-case hex digits, sha1 of `blob <size>\\0` and the bytes, where the source publishes it."""
    etag: str | None = None
    """Opaque version of the object where it has one (S3, HTTP), to detect a change under the same name."""
    checksum: str | None = None
    """Another checksum of the content that the source publishes, as `modelcache.checksums` writes it."""
    locator: str | None = None
    """What `locate` will need beyond URI, revision and path; opaque to everybody but the source."""


class Resolution(msgspec.Struct, frozen=True):
    """What a URI and a revision meant at the moment of asking; the same whenever it is asked for `revision` again."""

    uri: str
    """Canonical URI without revision."""
    revision: str
    """Immutable name of the content: for Hugging Face the 40 hex digits of the commit."""
    files: tuple[SourceFile, ...]
    """Sorted by the bytes of the path; at least one."""


class XetContent(msgspec.Struct, frozen=True):
    """A file in Xet, the content-addressed storage of Hugging Face.

    `hash` are 64 hex digits (Xet's own, not a digest of the bytes); `token_url` is where `Location.headers` get a
    short-lived token and the address of the storage (the hub's `xet-read-token` API).
    """

    hash: str
    token_url: str


class Location(msgspec.Struct, frozen=True):
    """Where the bytes of one file can be read: `file://`, or HTTP(S) that honours `Range`.

    `headers` are meant for the origin (scheme, host, port) of `url` and for nobody else. A reader that follows a
    redirect to another origin must drop them: Hugging Face redirects to a CDN with a signed URL, and a token sent there
    is a leaked token. When a redirect's target expires, ask `url` again; after `expires_at` (Unix seconds; None = does
    not expire), call `locate` again.
    """

    url: str
    headers: Mapping[str, str]
    expires_at: float | None = None
    xet: XetContent | None = None
    """The bytes come from there, and not from `url`: it serves no files of this size."""
    within: str | None = None
    """For `file://`: the directory below which the file must turn out to be when it is opened, links followed."""
    authorities: str | None = None
    """By which servers are to be verified, in PEM; None: as the environment says. See `modelcache.sources.tls`."""

    def __repr__(self) -> str:
        # A signed URL carries its authority in the query string.
        return f"Location(url={self.url.partition('?')[0]!r}, headers={sorted(self.headers)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.url.partition("?")[0]), ("headers", sorted(self.headers))]


class Source(Protocol):
    """One scheme. Implementations keep no state between calls and may be used from several threads at once."""

    def resolve(
        self,
        uri: SourceURI,
        revision: str | None,
        credential: Credential | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> Resolution:
        """Pin `revision` (None: the URI's own, else the scheme's default) and list its files. Blocks: use a thread.

        `include` and `exclude` are globs as `modelcache.sources.select` explains them. Raises SourceError, only.
        """
        ...

    def locate(self, uri: SourceURI, revision: str, file: SourceFile, credential: Credential | None) -> Location:
        """Say where `file` of the resolved `revision` can be read. May block. Raises SourceError, only."""
        ...


SourceFactory = Callable[[], Source]


def source_for(uri: SourceURI) -> Source:
    """Return the source that reads `uri`, importing its module now: a process pays only for the schemes it meets.

    Raises Unsupported if neither this project nor an installed package reads the scheme.
    """
    target = _BUILT_IN.get(uri.scheme)
    if target is not None:
        module, _, attribute = target.partition(":")
        return cast(SourceFactory, getattr(import_module(module), attribute))()
    for entry_point in metadata.entry_points(group=ENTRY_POINT_GROUP, name=uri.scheme):
        return cast(SourceFactory, entry_point.load())()
    raise Unsupported(
        f"{uri}: nothing installed here reads {uri.scheme}:// sources (readable: {', '.join(installed_schemes())}); "
        f"use one of these, or install a package that provides the scheme as a {ENTRY_POINT_GROUP!r} entry point."
    )


def installed_schemes() -> tuple[str, ...]:
    """Schemes for which `source_for` finds a source, sorted."""
    return tuple(sorted(set(_BUILT_IN) | metadata.entry_points(group=ENTRY_POINT_GROUP).names))
