"""What a DynamoModel asks for (`Request`), what that was pinned to (`Pinned`), and why it could not be (`Problem`)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache, cached_property

import msgspec

from modelcache.api.spec import Spec
from modelcache.manifest import Manifest, filters_text
from modelcache.sources.base import installed_schemes
from modelcache.sources.errors import InvalidURI
from modelcache.sources.uri import SourceURI, in_namespace, parse_uri

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Request:
    """The part of a spec that decides which files are meant. While it stays the same, nothing is resolved again."""

    uri: SourceURI
    revision: str | None
    """As asked for: a branch, tag or commit; None for the default of the source."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @staticmethod
    def of(spec: Spec, namespace: str) -> Request | None:
        """What `spec` asks for in a DynamoModel of `namespace`; None without a source. Raises InvalidURI."""
        if spec.source is None:
            return None
        uri = parse_uri(spec.source.uri, _schemes())
        if spec.version and uri.revision and spec.version != uri.revision:
            raise InvalidURI(
                f"spec.source.uri asks for revision {uri.revision!r} and spec.version for {spec.version!r}; keep one of them."
            )
        return Request(
            # Without its revision: one found earlier can then be asked for without contradicting it.
            uri=in_namespace(msgspec.structs.replace(uri, revision=None), namespace),
            revision=spec.version or uri.revision,
            include=tuple(sorted(set(spec.source.include))),
            exclude=tuple(sorted(set(spec.source.exclude))),
        )

    @cached_property
    def filters(self) -> str:
        """Include and exclude in the canonical form of the manifest; empty without."""
        return filters_text(self.include, self.exclude)

    @cached_property
    def key(self) -> str:
        """One text for equal requests: `hf://org/name@revision`, and a digest of the filters where there are any."""
        revision = f"@{self.revision}" if self.revision else ""
        filters = f" files:{hashlib.sha256(self.filters.encode()).hexdigest()[:16]}" if self.filters else ""
        return f"{self.uri}{revision}{filters}"

    @property
    def hub_ref(self) -> str:
        """Branch or tag under which the hub view offers the files: what was asked for, `main` for a commit or nothing.

        Empty for sources that are no Hugging Face repository. `main` is what `huggingface_hub` looks for by default.
        """
        if self.uri.scheme != "hf":
            return ""
        return "main" if self.revision is None or _COMMIT.fullmatch(self.revision) else self.revision

    @property
    def origin(self) -> str:
        """Who answers it, for fairness: the hub as a whole, else a host or bucket."""
        return self.uri.scheme if self.uri.scheme in ("hf", "ngc") else f"{self.uri.scheme}://{self.uri.authority}"


@cache
def _schemes() -> tuple[str, ...]:
    """Looking for installed packages reads their metadata from disk; they do not change while this process runs."""
    return installed_schemes()


@dataclass(frozen=True)
class Pinned:
    """A manifest with what is asked of it again and again, computed once. `encoded` is its canonical JSON."""

    manifest: Manifest
    encoded: bytes = field(repr=False)
    digest: str
    size: int
    complete: bool
    tree_digest: str | None
    undigested: bool
    """Whether the source publishes no digest at all of some file; see `controller.survey`."""

    @staticmethod
    def of(manifest: Manifest) -> Pinned:
        """Compute everything; some hundred milliseconds for a manifest of the largest allowed size."""
        encoded = manifest.encode()
        return Pinned(
            manifest=manifest,
            encoded=encoded,
            digest=hashlib.sha256(encoded).hexdigest(),
            size=manifest.size,
            complete=manifest.complete,
            tree_digest=manifest.tree_digest(),
            undigested=any(not file.sha256 and not file.git_oid and file.size for file in manifest.files),
        )

    @property
    def revision(self) -> str:
        """The immutable revision."""
        return self.manifest.revision

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self.manifest.files)

    def answers(self, request: Request) -> bool:
        """Whether this can be the answer to `request`: the same place and the same filters."""
        return self.manifest.source == str(request.uri) and self.manifest.filters == request.filters


@dataclass(frozen=True)
class Problem:
    """Why something could not be done, in the words of a condition. `next_try` is RFC 3339, None when nothing is planned."""

    reason: str
    message: str
    next_try: str | None = None

    @property
    def sentence(self) -> str:
        """The message, with the time of the next try."""
        return f"{self.message} Next try at {self.next_try}." if self.next_try else self.message
