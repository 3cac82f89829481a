"""Tells at once when somebody changes something in the cache: inotify, through watchdog.

Events only say *where* to look. What the agent does by itself causes events as well, and some are lost (the kernel's queue
overflows, there are no watches left), so nothing is concluded from one: it leads to a look at what lies there, and a look at
everything is taken from time to time anyway.

A hard link has many names, and the kernel tells only about the one that was used. So all places are watched in which
published content has one: models/, hub/, and blobs/.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from modelcache.paths import CachePaths

_CHANGES: list[type[FileSystemEvent]] = [
    FileAttribEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]
"""Without those of opening and closing: pods read 20,000 files when they start."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Touched(NamedTuple):
    """Where something has changed: a content, a model, or a directory of the hub view; what is empty means all of them."""

    sha256: str = ""
    namespace: str = ""
    name: str = ""
    repo: str = ""


def touched(paths: CachePaths, path: str) -> Touched | None:
    """What a changed path belongs to; None where it does not matter."""
    for top in (paths.models, paths.hub, paths.blobs):
        if path == str(top):
            return Touched()
    for top, field in ((paths.models, "name"), (paths.hub, "repo")):
        if path.startswith(f"{top}/"):
            namespace, *below = path[len(str(top)) + 1 :].split("/")
            return Touched(namespace=namespace)._replace(**{field: below[0] if below else ""})
    name = path.rpartition("/")[2]
    if path.startswith(f"{paths.blobs}/") and _SHA256.fullmatch(name):
        return Touched(name)
    return None


class TreeWatch:
    """Watches from `start` to `close`. `noticed` is called from a thread of its own, soon after each change."""

    def __init__(self, paths: CachePaths, noticed: Callable[[Touched], None]) -> None:
        self._paths = paths
        self._noticed = noticed
        self._observer = Observer()

    def start(self) -> None:
        """Blocks while it walks the tree: one watch for each directory. Raises OSError when there are none left at all."""
        # A directory that is made while its parent is walked is found twice, which does no harm. The warning about it names all
        # watches there are, in one line.
        warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)
        handler = _Handler(self._take)
        for top in (self._paths.models, self._paths.hub, self._paths.blobs):
            self._observer.schedule(handler, str(top), recursive=True, event_filter=_CHANGES)
        self._observer.start()

    def close(self) -> None:
        """Stops watching. Idempotent."""
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def _take(self, path: str) -> None:
        found = touched(self._paths, path)
        if found is not None:
            self._noticed(found)


class _Handler(FileSystemEventHandler):
    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            if path:
                self._take(path if isinstance(path, str) else path.decode("utf-8", "surrogateescape"))
