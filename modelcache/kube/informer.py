"""A local, indexed copy of one kind of objects that follows the API server.

List once, consistently and in pages; watch from exactly there; tell handlers what changed. The copy is always some past
state of the server, usually milliseconds old, and it survives everything that happens to the connection:

* The resource version to go on from comes only from the list, from events and from bookmarks, never from an object
  read elsewhere. Bookmarks keep it fresh on a quiet watch, so that reconnecting is cheap.
* 410, as an HTTP status or as an ERROR event in the stream, means the server has forgotten that version. Then everything
  is listed again and compared with the copy: objects that vanished meanwhile are seen as deletions.
* The server is asked to end each watch after 270 to 330 seconds (at random, so that many clients do not come back
  together), and the client gives up a little later by itself: a half-open connection cannot go unnoticed for longer.
* Failures are waited out with exponential backoff and full jitter, for ever. A watch that ends at once counts as a
  failure, even with status 200.
* An object that does not fit the Struct is logged once per version and kept in `invalid`; the stream goes on.

Handlers are plain functions called in the event loop, in the order of events; they should do no more than put a key
into a WorkQueue. They are level-triggered in spirit: after a relist several changes of one object arrive as one.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Generic, TypeVar

import msgspec

from modelcache.kube.backoff import Backoff
from modelcache.kube.cache import Cache, Change, Invalid, Seen
from modelcache.kube.client import PAGE_SIZE, KubeClient
from modelcache.kube.clock import Clock, LoopClock
from modelcache.kube.errors import Forbidden, Gone, KubeError, ServerError, Unreachable, error_from_body, printable
from modelcache.kube.resources import ObjectKey, ResourceType
from modelcache.kube.session import Query

_log = logging.getLogger(__name__)

T = TypeVar("T")
ChangeHandler = Callable[[T | None, T | None], None]
KeyHandler = Callable[[ObjectKey], None]

WATCH_SECONDS = (270.0, 330.0)
"""Range of the watch duration asked of the server. client-go uses 300 to 600; shorter finds dead connections sooner."""
WATCH_GRACE = 20.0
"""Seconds the client waits beyond that for the server to end the watch."""
LIST_TIMEOUT = 60.0
SHORT_WATCH = 1.0
"""A watch that ends sooner than this without having said anything is a failure, not a pause."""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Identified(msgspec.Struct):
    """What every object must have for its place in the copy; decoded apart from the caller's Struct."""

    metadata: _Metadata


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass(frozen=True, slots=True)
class InformerHealth:
    """How far the copy can be trusted. Times are monotonic seconds of the informer's clock."""

    synced: bool
    watching: bool
    last_contact: float | None
    """When the server last said anything: an answer, an event, a bookmark, the regular end of a watch."""
    failures: int
    """Failures in a row."""
    last_error: str


class Informer(Generic[T]):
    """Follows `resource`, decoding each object into `into`, a msgspec Struct of the fields that are read.

    `decode` makes the value of an object's JSON where fields alone are too much to keep (objects that come by the ten
    thousand); it may raise msgspec.MsgspecError and nothing else. Without it, `into` is decoded as it is.
    `namespace`, `label_selector` and `field_selector` narrow what is followed, on the server. Start it by awaiting
    `run()` in a task; it ends only by cancellation. `watch_seconds`, `watch_grace` and `page_size` are for tests.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: ResourceType,
        into: type[T],
        *,
        decode: Callable[[msgspec.Raw], T] | None = None,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        clock: Clock | None = None,
        rng: Random | None = None,
        backoff: Backoff | None = None,
        watch_seconds: tuple[float, float] = WATCH_SECONDS,
        watch_grace: float = WATCH_GRACE,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._clock = clock or LoopClock()
        self._rng = rng or Random()  # noqa: S311  # jitter, not cryptography
        self._backoff = backoff or Backoff(self._rng)
        self._watch_seconds = watch_seconds
        self._watch_grace = watch_grace
        self._page_size = page_size

        self._read_value = decode or msgspec.json.Decoder(into).decode
        self._identity_decoder = msgspec.json.Decoder(_Identified)
        self._event_decoder = msgspec.json.Decoder(_WatchEvent)
        self._cache: Cache[T] = Cache()
        self._change_handlers: list[ChangeHandler[T]] = []
        self._key_handlers: list[KeyHandler] = []

        self.synced = asyncio.Event()
        """Set when the first complete list is in the copy and the handlers have seen it. Never cleared."""
        self.settled = asyncio.Event()
        """Set with `synced`, or when the server has refused to list: there is nothing to wait for then. Never cleared."""
        self.reached = ""
        """resourceVersion of the state that the copy shows, empty before there is one. Never goes back."""
        self._resource_version = ""
        self._watching = False
        self._last_contact: float | None = None
        self._last_error = ""

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, key: ObjectKey) -> T | None:
        """The object as last seen, None if there is none. Cluster-scoped: `ObjectKey("", name)`."""
        return self._cache.get(key)

    def values(self) -> list[T]:
        """All objects as last seen. The list is the caller's, the objects are shared: read-only."""
        return self._cache.values()

    def keys(self) -> list[ObjectKey]:
        """Keys of all objects, the undecodable ones included."""
        return list(dict.fromkeys([*self._cache.keys(), *self._cache.invalid]))

    @property
    def invalid(self) -> Mapping[ObjectKey, Invalid]:
        """Objects that exist but do not fit the Struct, with the reason. `get` still gives their last good state."""
        return self._cache.invalid

    def index(self, name: str, values_of: Callable[[T], Iterable[str]]) -> None:
        """Declare a secondary index: `pods.index("node", lambda pod: [pod.spec.node_name])`. Must be a pure function."""
        self._cache.index(name, values_of)

    def lookup(self, name: str, value: str) -> list[T]:
        """Objects by a declared index: `pods.lookup("node", "worker-1")`. KeyError for an undeclared index."""
        return self._cache.lookup(name, value)

    async def wait_synced(self) -> None:
        """Return when the copy is complete for the first time. Only `run()` makes that happen."""
        await self.synced.wait()

    @property
    def health(self) -> InformerHealth:
        """Whether the server can be reached and when it last spoke."""
        return InformerHealth(
            synced=self.synced.is_set(),
            watching=self._watching,
            last_contact=self._last_contact,
            failures=self._backoff.failures if self._last_error else 0,
            last_error=self._last_error,
        )

    # -- handlers ------------------------------------------------------------------------------------------------

    def on_change(self, handler: ChangeHandler[T]) -> None:
        """Call `handler(old, new)` for each change of a decodable object: (None, new), (old, new), (old, None).

        Register before `run()`. What a handler raises is logged and goes no further.
        """
        self._change_handlers.append(handler)

    def on_key(self, handler: KeyHandler) -> None:
        """Call `handler(key)` for each change, also when an object becomes undecodable: made for `WorkQueue.add`."""
        self._key_handlers.append(handler)

    # -- following -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """List and watch until cancelled. Never raises for anything the server does."""
        previous: KubeError | None = None
        while True:
            try:
                if not self._resource_version:
                    await self._list()
                await self._watch()
                previous = None
            except Gone as error:
                self._resource_version = ""
                if isinstance(previous, Gone):
                    await self._pause(error)
                else:
                    # The server answers again, and what it says needs one list, not patience: after an outage the waits
                    # of the failures before would only keep everybody blind for longer.
                    _log.info("%s: list again: %s", self._subject, error)
                previous = error
            except KubeError as error:
                previous = error
                await self._pause(error)

    async def _pause(self, error: KubeError) -> None:
        self._last_error = str(error)
        if isinstance(error, Forbidden):
            self.settled.set()
        delay = self._backoff.fail(self._clock.now(), error.retry_after)
        then = "watch again" if self._resource_version else "list again"
        _log.warning("%s: %s in %.1f s: %s", self._subject, then, delay, error)
        await self._clock.sleep(delay)

    async def _list(self) -> None:
        try:
            version, everything = await self._list_in_pages(self._page_size)
        except Gone as error:
            # Compacted between two pages; with so much churn it may happen again. One single answer cannot expire.
            _log.info("%s: listing again, in one piece: %s", self._subject, error)
            version, everything = await self._list_in_pages(0)
        self._resource_version = version
        self._dispatch(self._cache.replace(everything))
        self.reached = version
        self.synced.set()
        self.settled.set()

    async def _list_in_pages(self, limit: int) -> tuple[str, list[Seen[T]]]:
        everything: list[Seen[T]] = []
        version = ""
        pages = self._client.list_pages(
            self._resource,
            self._namespace,
            into=msgspec.Raw,
            label_selector=self._selectors["labelSelector"],
            field_selector=self._selectors["fieldSelector"],
            limit=limit,
            timeout=LIST_TIMEOUT,
        )
        async for page in pages:
            self._contact()
            # The first page's version: should later pages be newer, their changes are watched once more, not missed.
            version = version or page.metadata.resource_version
            for raw in page.objects:
                identity = self._identify(raw)
                if identity is not None:
                    everything.append(self._decode(identity, raw))
        if not version:
            raise ServerError("the list has no resourceVersion", verb="list", subject=self._subject)
        return version, everything

    async def _watch(self) -> None:
        seconds = round(self._rng.uniform(*self._watch_seconds))
        query: Query = {
            **self._selectors,
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": self._resource_version,
            "timeoutSeconds": seconds,
        }
        started = self._clock.now()
        events = 0
        stream = self._client.stream_lines(
            self._resource.path("", self._namespace),
            query,
            timeout=seconds + self._watch_grace,
            subject=self._subject,
        )
        try:
            async with stream as lines:
                self._watching = True
                self._contact()
                async for line in lines:
                    self._contact()
                    events += self._take(line)
        finally:
            self._watching = False
        self._contact()
        if not events and self._clock.now() - started < SHORT_WATCH:
            raise Unreachable(
                "the watch ended at once", verb="watch", subject=self._subject, server=self._client.server
            )

    def _take(self, line: bytes) -> bool:
        """Digest one line of the watch; whether it was about an object."""
        try:
            event = self._event_decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ServerError(f"not a watch event: {error}", verb="watch", subject=self._subject) from error
        if event.type == "ERROR":
            raise error_from_body(
                bytes(event.object), status=0, verb="watch", subject=self._subject, server=self._client.server
            )
        identity = self._identify(event.object, bookmark=event.type == "BOOKMARK")
        if identity is None:
            return False
        if event.type in ("ADDED", "MODIFIED"):
            self._dispatch(self._cache.upsert(self._decode(identity, event.object)))
        elif event.type == "DELETED":
            self._dispatch(self._cache.remove(ObjectKey(identity.namespace, identity.name), identity.uid))
        elif event.type != "BOOKMARK":
            _log.warning("%s: unknown watch event type %s", self._subject, printable(event.type, 50))
            return False
        self.reached = self._resource_version = identity.resource_version or self._resource_version
        return event.type != "BOOKMARK"

    def _identify(self, raw: msgspec.Raw, *, bookmark: bool = False) -> _Metadata | None:
        try:
            metadata = self._identity_decoder.decode(raw).metadata
        except (msgspec.MsgspecError, RecursionError) as error:
            _log.warning("%s: ignoring an object without usable metadata: %s", self._subject, error)
            return None
        if metadata.name or bookmark:
            return metadata
        _log.warning("%s: ignoring an object without a name", self._subject)
        return None

    def _decode(self, identity: _Metadata, raw: msgspec.Raw) -> Seen[T]:
        key = ObjectKey(identity.namespace, identity.name)
        try:
            value = self._read_value(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            reason = printable(str(error), 500)
            known = self._cache.invalid.get(key)
            if known is None or known.resource_version != identity.resource_version:
                subject = self._resource.describe(key.name, key.namespace)
                _log.warning("%s cannot be read, version %s: %s", subject, identity.resource_version, reason)
            return Seen(key, identity.uid, identity.resource_version, None, reason)
        return Seen(key, identity.uid, identity.resource_version, value)

    def _dispatch(self, changes: Iterable[Change[T]]) -> None:
        for change in changes:
            calls: list[Callable[[], None]] = [partial(on_key, change.key) for on_key in self._key_handlers]
            if change.old is not change.new:
                calls = [partial(on_change, change.old, change.new) for on_change in self._change_handlers] + calls
            for call in calls:
                try:
                    call()
                except Exception:  # noqa: BLE001  # a mistake in one handler concerns neither the others nor the stream
                    _log.exception("%s: handler failed for %s", self._subject, change.key)

    def _contact(self) -> None:
        self._last_contact = self._clock.now()
        self._last_error = ""

    @property
    def _subject(self) -> str:
        return self._resource.describe("", self._namespace)
