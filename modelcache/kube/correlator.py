"""Which Events are worth a request: the rules of client-go's EventCorrelator, as a decision without I/O.

Three rules, applied in this order, keep a controller that says the same thing every five seconds for a week from filling
etcd, while `kubectl describe` still shows what happens:

1. *Aggregation.* More than `max_similar` messages that differ only in their text (a progress in per cent) within
   `similar_window` seconds become one event, "(combined from similar events): " and the newest text.
2. *Counting.* The same event once more becomes a higher `count` and a later `lastTimestamp` of the existing object.
3. *Rate.* Each reason of each object has a token bucket: `burst` events at once, then one every `refill_seconds`. What is over
   is dropped. (By default client-go has one bucket for all reasons of an object; it calls this choice SpamKeyFunc. Then a
   lively model, whose nodes and pods come and go, could not say any more what became of it at its end.)

Numbers and order: https://github.com/kubernetes/client-go/blob/master/tools/record/events_cache.go. As there, memory is bounded
by remembering only the most recently used keys.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from modelcache.kube.errors import printable
from modelcache.kube.objects import ObjectReference

V = TypeVar("V")

MAX_MESSAGE_BYTES = 1024
"""The API server refuses longer messages in events.k8s.io; `kubectl describe` is unreadable long before."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened to an object. `type` is Normal or Warning, `reason` a word in UpperCamelCase."""

    regarding: ObjectReference
    type: str
    reason: str
    message: str
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)
    """For the Event's metadata; those of the first of similar occurrences stay."""


@dataclass(frozen=True, slots=True)
class Record:
    """The Event object that stands for one or more occurrences. Times are wall seconds since the epoch.

    A `count` of 1 means an Event that does not exist yet, more means an existing one that changes. `key` tells which
    further occurrences belong to it.
    """

    name: str
    key: Hashable
    occurrence: Occurrence
    count: int
    first: float
    last: float


@dataclass(slots=True)
class _Similar:
    messages: set[str] = field(default_factory=set)
    last: float = 0.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class _Recent(Generic[V]):
    """A map that forgets what was not asked for the longest."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        if key not in self._entries:
            self._entries[key] = make()
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Hashable, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def find(self, key: Hashable) -> V | None:
        return self._entries.get(key)


class Correlator:
    """Remembers what was recorded. Not for several threads."""

    def __init__(
        self,
        *,
        max_similar: int = 10,
        similar_window: float = 600.0,
        burst: int = 25,
        refill_seconds: float = 300.0,
        memory: int = 4096,
    ) -> None:
        self._max_similar = max_similar
        self._similar_window = similar_window
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._similar: _Recent[_Similar] = _Recent(memory)
        self._records: _Recent[Record] = _Recent(memory)
        self._buckets: _Recent[_Bucket] = _Recent(memory)
        self._stamp = 0

    def observe(self, occurrence: Occurrence, now: float) -> Record | None:
        """The Event that should exist after `occurrence` at wall time `now`; None if it is one too many."""
        occurrence = _trimmed(occurrence)
        combined = self._aggregate(occurrence, now)
        # All messages of a combined event share one record, or there would be nothing combined about it.
        key = (_source(occurrence), "" if combined else occurrence.message)
        if combined:
            message = truncated(f"(combined from similar events): {occurrence.message}")
            occurrence = replace(occurrence, message=message)
        before = self._records.find(key)
        if before is None:
            record = Record(self._name(occurrence.regarding.name, now), key, occurrence, 1, now, now)
        else:
            record = Record(before.name, key, occurrence, before.count + 1, before.first, now)
        # The count is kept also for what is dropped: when a token is there again, it tells the truth.
        self._records.put(key, record)
        return record if self._take_token(_source(occurrence), now) else None

    def renamed(self, record: Record, now: float) -> Record:
        """A new Event for `record`, whose object the server has forgotten (Events live an hour by default)."""
        fresh = Record(self._name(record.occurrence.regarding.name, now), record.key, record.occurrence, 1, now, now)
        self._records.put(record.key, fresh)
        return fresh

    def _name(self, regarding: str, now: float) -> str:
        """As client-go makes it, the object's name and the time in hexadecimal nanoseconds; never twice the same."""
        self._stamp = max(int(now * 1e9), self._stamp + 1)
        stamp = f"{self._stamp:x}"
        return f"{regarding[: 253 - len(stamp) - 1].rstrip('-.')}.{stamp}"

    def _aggregate(self, occurrence: Occurrence, now: float) -> bool:
        similar = self._similar.get(_source(occurrence), _Similar)
        if now - similar.last > self._similar_window:
            similar.messages.clear()
        similar.last = now
        if len(similar.messages) <= self._max_similar:
            similar.messages.add(occurrence.message)
        return len(similar.messages) > self._max_similar

    def _take_token(self, source: Hashable, now: float) -> bool:
        bucket = self._buckets.get(source, lambda: _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) / self._refill_seconds)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def _identity(regarding: ObjectReference) -> Hashable:
    return (regarding.api_version, regarding.kind, regarding.namespace, regarding.name, regarding.uid)


def _source(occurrence: Occurrence) -> Hashable:
    return (_identity(occurrence.regarding), occurrence.type, occurrence.reason)


def _trimmed(occurrence: Occurrence) -> Occurrence:
    return replace(
        occurrence,
        type="Warning" if occurrence.type == "Warning" else "Normal",
        reason=printable(occurrence.reason, 128),
        message=truncated(occurrence.message),
    )


def truncated(message: str) -> str:
    """`message` in at most 1024 bytes of UTF-8, marked with an ellipsis when cut. Control characters become spaces.

    What is cut off are whole characters, so the rest stays valid.
    """
    clean = printable(message, 4 * MAX_MESSAGE_BYTES).encode("utf-8", "replace")
    if len(clean) <= MAX_MESSAGE_BYTES:
        return clean.decode()
    return clean[: MAX_MESSAGE_BYTES - len("…".encode())].decode("utf-8", "ignore") + "…"
