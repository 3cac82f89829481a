"""Watches: what has happened to a collection since a version, and then everything that happens, as it happens.

The store tells every watch of a resource about each change right when it is made; the watch keeps it in a buffer until
its connection can take it. A watch that falls too far behind is ended instead of using up the memory; its client resumes
from the last version that it saw.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from local.kube import causes, errors
from local.kube.causes import Cause
from local.kube.reads import NOT_OLDER, ListOptions, Selection, parse_version
from local.kube.resources import Resource
from local.kube.store import Change, Expired, Store, Stored

# k8s.io/apiserver/pkg/storage/cacher: a bookmark a minute.
BOOKMARK_SECONDS = 60.0
# k8s.io/apiserver --min-request-timeout: a watch without timeoutSeconds ends after 1 to 2 times this.
MIN_TIMEOUT_SECONDS = 1800.0
BUFFER_LIMIT = 20_000

INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


class Encoder(Protocol):
    """Turns objects into the bytes of events, in the representation that the client asked for."""

    def event(self, kind: str, stored: Stored) -> bytes:
        """One event about an object: ADDED, MODIFIED or DELETED."""

    def bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        """One BOOKMARK."""

    def error(self, error: errors.ApiError) -> bytes:
        """One ERROR, after which the watch ends."""


@dataclass(frozen=True)
class WatchOptions:
    """Query parameters that only watches have."""

    bookmarks: bool = False
    timeout: float | None = None


class Watches:
    """All open watches of the server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: set[_Feed] = set()

    def open(self, resource: Resource, selection: Selection, options: ListOptions, extra: WatchOptions) -> "Watch":
        """Begin a watch; nothing that happens from now on is missed. Raises ApiError 422."""
        _check(options)
        version = parse_version(options.version)
        feed = _Feed(resource)
        feed.end_subscription = self._store.subscribe(feed.push, resource.storage_key)
        self._open.add(feed)
        return Watch(self._store, feed, selection, version, options, extra, lambda: self._open.discard(feed))

    def count(self) -> int:
        """Number of open watches."""
        return len(self._open)

    def close(self, resources: frozenset[Resource] | None = None) -> None:
        """End the watches of these resources, or all."""
        for feed in tuple(self._open):
            if resources is None or feed.resource in resources:
                feed.end()


class _Feed:
    """The buffer between the store and one connection."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.changes: deque[Change] = deque()
        self.ended = False
        self.end_subscription: Callable[[], None] = lambda: None
        self._wake = asyncio.Event()

    def push(self, change: Change) -> None:
        if len(self.changes) >= BUFFER_LIMIT:
            self.changes.clear()
            self.ended = True
        if not self.ended:
            self.changes.append(change)
        self._wake.set()

    def end(self) -> None:
        self.ended = True
        self._wake.set()

    async def wait(self, seconds: float) -> None:
        """Until there is something to do, or the time is over."""
        if self.changes or self.ended or seconds <= 0:
            return
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass


class Watch:
    """One watch; iterate `events` once, then `close`."""

    def __init__(
        self,
        store: Store,
        feed: _Feed,
        selection: Selection,
        version: int,
        options: ListOptions,
        extra: WatchOptions,
        closed: Callable[[], None],
    ) -> None:
        self._store = store
        self._feed = feed
        self._selection = selection
        self._version = version
        self._options = options
        self._extra = extra
        self._closed = closed
        self._begun_at = store.version

    def close(self) -> None:
        """Stop listening to the store."""
        self._feed.end_subscription()
        self._closed()

    async def events(self, encoder: Encoder) -> AsyncIterator[bytes]:
        """Chunks of whole events, until the time is over or the watch is ended."""
        loop = asyncio.get_running_loop()
        timeout = self._extra.timeout or MIN_TIMEOUT_SECONDS * random.uniform(1, 2)  # noqa: S311  (spreads reconnects)
        deadline = loop.time() + timeout
        first = self._initial(encoder)
        if first is None:
            yield encoder.error(errors.expired(self._expired))
            return
        yield first
        next_bookmark = loop.time() + BOOKMARK_SECONDS
        while not self._feed.ended:
            now = loop.time()
            if now >= deadline:
                break
            if self._extra.bookmarks and now >= next_bookmark:
                next_bookmark = now + BOOKMARK_SECONDS
                yield encoder.bookmark(self._store.version)
            wake_at = min(deadline, next_bookmark) if self._extra.bookmarks else deadline
            await self._feed.wait(wake_at - now)
            if chunk := self._drain(encoder):
                yield chunk
        # What happened up to the end still belongs to it: the deletions that come with the end of a definition.
        if chunk := self._drain(encoder):
            yield chunk
        # With nothing left to deliver the store's version is one that the client may resume from.
        if self._extra.bookmarks and not self._feed.changes and not self._feed.ended:
            yield encoder.bookmark(self._store.version)

    def _initial(self, encoder: Encoder) -> bytes | None:
        """Everything up to the moment the watch was opened; None when the history does not reach back."""
        resource = self._feed.resource
        wants_state = self._options.send_initial_events
        if wants_state is None:
            wants_state = self._version == 0
        chunks: list[bytes] = []
        # Opening and this call may be separated by other writes: they are in the buffer, and in the present state.
        if wants_state:
            self._feed.changes.clear()
            self._version = self._store.version
            chunks += [
                encoder.event("ADDED", stored)
                for stored in self._store.items(resource.storage_key, self._selection.namespace)
                if self._selection.matches(resource, stored)
            ]
            if self._options.send_initial_events and self._extra.bookmarks:
                chunks.append(encoder.bookmark(self._version, INITIAL_EVENTS_END))
        elif self._version == 0:
            self._version = self._begun_at
        else:
            try:
                missed = self._store.changes_after(resource.storage_key, self._version)
            except Expired as expired:
                self._expired = str(expired)
                return None
            self._feed.changes.clear()
            chunks += [chunk for change in missed if (chunk := self._encode(change, encoder))]
            self._version = max(self._version, self._store.version)
        return b"".join(chunks)

    def _drain(self, encoder: Encoder) -> bytes:
        chunks = []
        while self._feed.changes:
            change = self._feed.changes.popleft()
            if change.version > self._version and (chunk := self._encode(change, encoder)):
                chunks.append(chunk)
        return b"".join(chunks)

    def _encode(self, change: Change, encoder: Encoder) -> bytes:
        """The event that the change is to this watch's selection; empty when it is none."""
        resource, selection = self._feed.resource, self._selection
        before = change.old is not None and selection.matches(resource, change.old)
        after = not change.deleted and selection.matches(resource, change.new)
        if after:
            return encoder.event("MODIFIED" if before else "ADDED", change.new)
        if not before:
            return b""
        assert change.old is not None
        return encoder.event("DELETED", change.new if change.deleted else _departed(change.old, change.version))


def _departed(stored: Stored, version: int) -> Stored:
    """The last state that was selected, numbered with the change that took it out of the selection."""
    obj = stored.object | {"metadata": stored.object["metadata"] | {"resourceVersion": str(version)}}
    return Stored(stored.namespace, stored.name, version, obj)


def _check(options: ListOptions) -> None:
    """k8s.io/apimachinery/pkg/apis/meta/internalversion/validation, validateWatchOptions."""
    problems: list[Cause] = []
    match, path = options.version_match, "resourceVersionMatch"
    if options.send_initial_events is not None and match != NOT_OLDER:
        problems.append(
            causes.forbidden(path, f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}")
        )
    if match:
        if options.send_initial_events is None:
            problems.append(
                causes.forbidden(
                    path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
                )
            )
        if match != NOT_OLDER:
            problems.append(causes.not_supported(path, match, [NOT_OLDER]))
        if options.continue_token:
            problems.append(causes.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
    if problems:
        raise errors.invalid_options("ListOptions", problems)
