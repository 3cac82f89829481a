"""`file:///path` and `pvc://claim/path`: directories that nodes see, because they are there or because a claim is mounted.

Only nodes can look at them. The controller asks one node for the listing (`modelcache.sources.answer`), that node also computes
what digests are missing, and from then on the manifest is complete: a node that does not see the directory gets the files
from others, one that does may read its own, and either way every byte is compared with the digests.

A `SHA256SUMS` in the directory (see `modelcache.sources.sums`) is honoured: files are what it says, or they are refused. Files
without a digest are pinned by their time of modification until the first node has read them; whatever is written during
the copy is noticed by comparing size and times before and after each read.

What may be read is for the administrator of the nodes to say, because an agent can read more than whoever writes a
DynamoModel; without these settings in the agent's environment nothing can:

MODELCACHE_FILE_ROOTS  directories below which `file://` may point, absolute, with `:` between them
MODELCACHE_CLAIMS      directory in which claims are mounted as `<namespace>/<claim>`; a DynamoModel reaches those of its own
                       namespace only, because the controller writes the namespace into the URI (`pvc://namespace/claim/path`)

Links may lead elsewhere, but not out of what may be read: that is looked at here, and again on the opened file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modelcache.sources.base import Credential, Location, Resolution, SourceFile
from modelcache.sources.errors import (
    MalformedListing,
    NotFound,
    SourceError,
    Unauthorized,
    Unreachable,
    UnsafePath,
    Unsupported,
)
from modelcache.sources.listing import resolution_of
from modelcache.sources.select import excluded_below, selected
from modelcache.sources.sums import FILE_NAME, LARGEST, parse_sums
from modelcache.sources.uri import SourceURI

MAX_ENTRIES = 500_000
"""Files of a listing; a manifest holds less than half of that."""


class Directory(msgspec.Struct, frozen=True):
    """Where a URI leads on this node: `path`, and `within`, which it must not leave. Absolute, neither needs to exist."""

    path: Path
    within: Path


class FileSource:
    """The source for `file://`."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ

    def resolve(
        self,
        uri: SourceURI,
        revision: str | None,
        credential: Credential | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> Resolution:
        """List the directory as this node sees it. See `modelcache.sources.base.Source`."""
        place = self._place(uri)
        with _translated(uri, place.path):
            _check_inside(uri, place, place.path)
            folder = stat.S_ISDIR(place.path.stat().st_mode)
        listed = _listed(uri, place, include, exclude) if folder else [_single(uri, place)]
        return resolution_of(uri, revision, listed, include, exclude)

    def locate(self, uri: SourceURI, revision: str, file: SourceFile, credential: Credential | None) -> Location:
        """Name the file on this node. See `modelcache.sources.base.Source`."""
        place = self._place(uri)
        path = place.path if file.locator == SINGLE else place.path / file.path
        return Location(url=f"file://{urllib.request.pathname2url(str(path))}", headers={}, within=str(place.within))

    def _place(self, uri: SourceURI) -> Directory:
        """Raises Unsupported for what may not be read."""
        path = Path(uri.path)
        roots = [Path(root) for root in self._environ.get("MODELCACHE_FILE_ROOTS", "").split(":") if root]
        for root in roots:
            if root.is_absolute() and path.is_relative_to(root):
                return Directory(path, root)
        allowed = f"only below {', '.join(map(str, roots))}" if roots else "nowhere"
        raise Unsupported(
            f"{uri} may not be read: on this node file:// may point {allowed}. Ask the administrator of the nodes to add the "
            f"directory to MODELCACHE_FILE_ROOTS of the agent."
        )


class ClaimSource(FileSource):
    """The source for `pvc://`; the URI has the namespace in front of the claim."""

    def _place(self, uri: SourceURI) -> Directory:
        mounts = self._environ.get("MODELCACHE_CLAIMS", "")
        claim, _, path = uri.path.partition("/")
        if not Path(mounts).is_absolute():
            raise Unsupported(
                f"{uri} cannot be read: the agent of this node has no claims. Ask the administrator of the nodes to mount "
                f"them and set MODELCACHE_CLAIMS."
            )
        within = Path(mounts) / uri.authority / claim
        if not claim or not within.is_dir():
            raise NotFound(
                f"{uri}: the claim {claim!r} is not mounted into the agent of this node; it is looked for at {within}."
            )
        return Directory(within / path, within)


SINGLE = "file"
"""`SourceFile.locator` of the one file that a URI names."""


def version_of(found: os.stat_result) -> str:
    """What tells one content of a file from another on all nodes that see it: `SourceFile.etag`."""
    return f"mtime {found.st_mtime_ns}"


def _single(uri: SourceURI, place: Directory) -> SourceFile:
    with _translated(uri, place.path):
        found = _stat_inside(uri, place, place.path)
        return SourceFile(path=place.path.name, size=found.st_size, etag=version_of(found), locator=SINGLE)


def _listed(uri: SourceURI, place: Directory, include: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
    """All files. Those that are not wanted are not looked at, so that nothing can be wrong with them: their size is 0."""
    files: dict[str, SourceFile] = {}
    for path in _walk(uri, place, exclude):
        name = str(path.relative_to(place.path))
        if len(files) >= MAX_ENTRIES:
            raise MalformedListing(f"{uri} has more than {MAX_ENTRIES} files: this is no model.")
        if name != FILE_NAME and not selected(name, include, exclude):
            files[name] = SourceFile(path=name, size=0)
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UnsafePath(f"{uri} has the file {ascii(name)[:200]}, whose name is not UTF-8: rename it.") from None
        with _translated(uri, path):
            found = _stat_inside(uri, place, path)
        files[name] = SourceFile(path=name, size=found.st_size, etag=version_of(found))
    if FILE_NAME not in files:
        return list(files.values())
    sums = _sums(uri, place)
    absent = next((path for path in sums if path not in files and selected(path, include, exclude)), None)
    if absent is not None:
        raise NotFound(
            f"{uri}: {FILE_NAME} lists {ascii(absent)[:200]}, which is not there; put it there, or correct the list."
        )
    # A digest says all; when the file was written does not matter then, and differs between copies on several nodes.
    return [
        msgspec.structs.replace(file, sha256=sums[name], etag=None) if name in sums else file
        for name, file in files.items()
    ]


def _walk(uri: SourceURI, place: Directory, exclude: Sequence[str]) -> Iterator[Path]:
    """All files, in no order. Links to directories are not followed: they may lead round in circles."""
    directories = [place.path]
    while directories:
        directory = directories.pop()
        with _translated(uri, directory):
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        for entry in entries:
            path = directory / entry.name
            name = str(path.relative_to(place.path))
            with _translated(uri, path):
                if entry.is_dir(follow_symlinks=False):
                    if not excluded_below(name, exclude):
                        directories.append(path)
                    continue
                if entry.is_symlink() and selected(name, (), exclude) and entry.is_dir():
                    if excluded_below(name, exclude):
                        continue
                    _check_inside(uri, place, path)
                    raise Unsupported(
                        f"{uri}: {path} is a link to a directory, which is not followed: put a copy there, or leave it out "
                        f"with spec.source.exclude."
                    )
            yield path


def _check_inside(uri: SourceURI, place: Directory, path: Path) -> Path:
    """Where `path` leads, whether that is there or not. Raises UnsafePath if that is not below `place.within`."""
    real = path.resolve()
    if not real.is_relative_to(place.within.resolve()):
        raise UnsafePath(f"{uri}: {path} leads outside of what may be read ({place.within}): put a copy there.")
    return real


def _stat_inside(uri: SourceURI, place: Directory, path: Path) -> os.stat_result:
    """The properties of a regular file below `place.within`, whichever links lead there. Raises SourceError and OSError."""
    found = _check_inside(uri, place, path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise Unsupported(f"{uri}: {path} is neither a file nor a directory: remove it, or leave it out with exclude.")
    return found


def _sums(uri: SourceURI, place: Directory) -> dict[str, str]:
    """What SHA256SUMS says, and its own digest."""
    path = place.path / FILE_NAME
    with _translated(uri, path):
        data = path.read_bytes() if _stat_inside(uri, place, path).st_size <= LARGEST else None
    if data is None:
        raise MalformedListing(f"{path} has more than {LARGEST} bytes: it is no list of files.")
    return {**parse_sums(data, str(path)), FILE_NAME: hashlib.sha256(data).hexdigest()}


@contextmanager
def _translated(uri: SourceURI, path: Path) -> Iterator[None]:
    """Turn what the file system raises into one of our errors."""
    try:
        yield
    except OSError as error:
        raise _explained(uri, path, error) from None
    except (RuntimeError, ValueError) as error:  # links that lead round in a circle; a NUL in the path
        raise UnsafePath(f"{uri}: {ascii(str(path))[:300]} cannot be followed: {error}; put a file there.") from None


def _explained(uri: SourceURI, path: Path, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{uri}: {path} does not exist on this node; put it there, or correct the address.")
    if isinstance(error, PermissionError):
        return Unauthorized(f"{uri}: {path} may not be read by the agent; correct its owner or mode.")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return UnsafePath(f"{uri}: {str(path)[:300]} cannot be opened ({error.strerror}): use other names or links.")
    return Unreachable(f"{uri}: {path}: {error.strerror}; check the file system on this node.")
