"""Content that is on its way into a publication, and must not be taken for garbage meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self


class Hold:
    """Keeps content from garbage collection between its arrival and its publication. Use as a context manager."""

    def __init__(self, registry: list[Hold], lock: AbstractContextManager[bool]) -> None:
        self._registry = registry
        self._lock = lock
        self.blobs: set[str] = set()
        self.partials: set[str] = set()
        """Read them under the lock of the store, change them through `add`."""

    def add(self, *, blobs: Iterable[str] = (), partials: Iterable[str] = ()) -> None:
        """Keeps these as well. After this returns, what is still there stays there: so add first, then look."""
        with self._lock:  # not while garbage, which was chosen a moment ago, is being deleted
            self.blobs.update(blobs)
            self.partials.update(partials)

    def __enter__(self) -> Self:
        with self._lock:
            self._registry.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._registry.remove(self)
