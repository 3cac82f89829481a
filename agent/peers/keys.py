"""What content is called between agents: by its digest, never by a path.

    sha256:<64 hex>    the digest under which the content is a blob
    git:<40 hex>       git's blob id, for files whose sha256 nobody has computed yet (see `modelcache.manifest`)

Content for which a source publishes no digest at all has no name that two agents could agree on, and is not shared until
the manifest is complete.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

from modelcache.manifest import Manifest, ManifestFile

ContentKey = NewType("ContentKey", str)
"""A digest with its algorithm in front, as above."""


class TenantKey(NamedTuple):
    """Content as one namespace has it: whether it may be read there is another question for each (`agent.store.admission`)."""

    namespace: str
    key: ContentKey


_KEY = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")


def parse_key(text: str) -> ContentKey | None:
    """The key that `text` is, None when it is none: a path, another algorithm, upper case."""
    return ContentKey(text) if _KEY.fullmatch(text) else None


def key_of(file: ManifestFile) -> ContentKey | None:
    """The name to ask for: the sha256 where it is known. None for content that is not shared (also: empty files)."""
    return next(iter(keys_of(file)), None)


def keys_of(file: ManifestFile) -> tuple[ContentKey, ...]:
    """All names under which a peer may ask for the file, the strongest first.

    A peer that still works from the manifest before it was completed knows only git's blob id.
    """
    if file.size == 0:
        return ()
    sha256 = (ContentKey(f"sha256:{file.sha256}"),) if file.sha256 else ()
    git = (ContentKey(f"git:{file.git_oid}"),) if file.git_oid else ()
    return sha256 + git


def sizes_in(manifest: Manifest) -> dict[ContentKey, int]:
    """Everything that a peer of this manifest may read, with its size in bytes."""
    return {key: file.size for file in manifest.files for key in keys_of(file)}
