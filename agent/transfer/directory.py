"""Reads files that are on this machine already: `file://` locations, such as a share that is mounted on the node.

Where source and cache are on one file system that can share content between files (see `agent.transfer.reflink`), it is
shared: nothing is written and no room is taken. Everything else is the same: each piece is read for its digests, and the file
must be the one that was listed, and still be it afterwards. Otherwise bytes are copied.
"""

from __future__ import annotations

import os
import stat
import urllib.parse
import urllib.request
from pathlib import Path

from agent.transfer.cancel import CancelToken
from agent.transfer.places import Places
from agent.transfer.source import PieceSource, Sink
from modelcache.manifest import ManifestFile
from modelcache.sources.errors import (
    NotFound,
    SourceChanged,
    Unauthorized,
    Unreachable,
    UnsafePath,
    Unsupported,
)
from modelcache.sources.file import version_of


class DirectorySource:
    """The PieceSource of a model whose files are local. Checked like any other while it is read."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        """See PieceSource."""
        location = self._places.of(file).location
        path = local_path(location.url)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            if file.sha256 is not None:
                # Its content is known by now, so somebody has it: from whom is only a question of time.
                raise Unreachable(
                    f"{file.path}: {path} does not exist on this node, and no other node offers it now"
                ) from None
            raise NotFound(f"{file.path}: {path} does not exist on this node") from error
        except PermissionError as error:
            raise Unauthorized(f"{file.path}: {path} may not be read by the agent; check its owner and mode") from error
        except OSError as error:
            raise Unreachable(f"{file.path}: {path}: {error.strerror}") from error
        try:
            _check_place(descriptor, location.within, file)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                raise SourceChanged(f"{file.path}: {path} has {found.st_size} bytes, the manifest says {file.size}")
            if file.sha256 is None and file.etag is not None and file.etag != version_of(found):
                raise SourceChanged(f"{file.path}: {path} was written to since it was listed")
            os.posix_fadvise(descriptor, sink.position, sink.end - sink.position, os.POSIX_FADV_SEQUENTIAL)
            while sink.position < sink.end:
                cancel.check()
                if not sink.share(descriptor):
                    sink.filled(_read(descriptor, sink, path, file))
            if _moment(os.fstat(descriptor)) != _moment(found):
                raise SourceChanged(f"{file.path}: {path} was written to while it was read")
        finally:
            os.close(descriptor)

    def forget(self, file: ManifestFile) -> None:
        """See PieceSource: nothing is cached."""


def _check_place(descriptor: int, within: str | None, file: ManifestFile) -> None:
    """What was opened may be elsewhere than its name says: somebody may have changed a directory into a link meanwhile."""
    if within is None:
        return
    opened = Path(f"/proc/self/fd/{descriptor}").readlink()
    if not opened.is_relative_to(Path(within).resolve()):
        raise UnsafePath(f"{file.path} leads to {opened}, outside of what may be read ({within})")


def _moment(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def local_path(url: str) -> str:
    """The path of a `file://` URL. Raises Unsupported for one that names another machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise Unsupported(f"{url[:200]!r} names the host {parts.netloc!r}; file:// means this node: write file:///path")
    return urllib.request.url2pathname(parts.path)


def _read(descriptor: int, sink: Sink, path: str, file: ManifestFile) -> int:
    try:
        count = os.preadv(descriptor, [sink.space()], sink.position)
    except OSError as error:
        raise Unreachable(f"{file.path}: {path} at byte {sink.position}: {error.strerror}") from error
    if count == 0:
        raise SourceChanged(f"{file.path}: {path} ends at byte {sink.position}, the manifest says {file.size}")
    return count


class LocatedSource:
    """Reads every file from where its place says: `file://` from this machine, Xet through its client, the rest by HTTP."""

    def __init__(self, places: Places, origin: PieceSource, xet: PieceSource) -> None:
        self._places = places
        self._origin = origin
        self._xet = xet
        self._directory = DirectorySource(places)

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        """See PieceSource."""
        location = self._places.of(file).location
        if location.xet is not None:
            source = self._xet
        elif location.url.startswith("file:"):
            source = self._directory
        else:
            source = self._origin
        source.read(file, sink, cancel)

    def forget(self, file: ManifestFile) -> None:
        """See PieceSource."""
        self._places.forget(file)
