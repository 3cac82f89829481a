"""What sources without commits have in common: the revision of a listing, and which of its files are meant.

A bucket, a web server or a directory has no revisions of its own. There the revision is a digest of what was listed: paths,
sizes, and of each file the strongest thing that tells one content from another. The same files have the same revision
whenever and by whomever they are listed, and it can be given as `spec.version`: then they are refused once they change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import msgspec

from modelcache.sources.base import Resolution, SourceFile
from modelcache.sources.errors import EmptyRepository, RevisionNotFound, SourceChanged
from modelcache.sources.select import selected
from modelcache.sources.uri import SourceURI

_REVISION = re.compile(r"[0-9a-f]{64}")


def resolution_of(
    uri: SourceURI,
    wanted: str | None,
    listed: Iterable[SourceFile],
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    place: str = "",
) -> Resolution:
    """The files of a listing that are wanted, with their revision.

    `place` is what else decides about the content: which server has the bucket of that name. It is part of the revision, so
    that nobody can give other content the revision of somebody else's. Raises EmptyRepository when nothing is left,
    SourceChanged when `wanted` is the revision of an earlier listing and it is another one now, and RevisionNotFound when
    `wanted` is anything else.
    """
    every = list(listed)
    files = [file for file in every if selected(file.path, include, exclude)]
    if not files:
        raise EmptyRepository(
            f"{uri} has {len(every)} files, but spec.source.include {list(include)} and exclude {list(exclude)} leave none "
            f"of them: correct the patterns."
            if every
            else f"{uri} has no files: put some there, or correct the address."
        )
    files.sort(key=lambda file: file.path.encode("utf-8", "surrogatepass"))
    found = revision_of(place, files)
    if wanted is not None and wanted != found:
        if _REVISION.fullmatch(wanted):
            raise SourceChanged(
                f"{uri} is not any more what it was: its files were revision {wanted[:12]}, now they are {found[:12]}. Put "
                f"the former files back, or set spec.version to {found} (or remove it) to take the new ones."
            )
        raise RevisionNotFound(
            f"{uri} has no versions to choose from, so not {wanted!r}: remove spec.version, or set it to {found}, which "
            f"stands for the files that are there now."
        )
    return Resolution(uri=str(uri), revision=found, files=tuple(files))


def revision_of(place: str, files: Sequence[SourceFile]) -> str:
    """64 hex digits that stand for exactly these files. `files` must be sorted."""
    # In hex, because msgspec does not encode lone surrogates; such a path is refused later, with a message of its own.
    lines = [
        (file.path.encode("utf-8", "surrogatepass").hex(), file.size, file.sha256, file.checksum, file.etag)
        for file in files
    ]
    return hashlib.sha256(msgspec.json.encode([place, lines])).hexdigest()
