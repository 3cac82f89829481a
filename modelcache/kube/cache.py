"""What an informer knows: one value per object, secondary indexes, and what changed.

Pure bookkeeping: no network, no clock. Each change comes back as the keys and the (old, new) pairs for the handlers, so
that the diff of a relist can be checked without a server.

**Objects that cannot be decoded** (a field of a type that the caller's Struct does not allow; users can write such
things where a schema has holes) are kept apart in `invalid`, with the reason. The last good value of such an object, if
there was one, stays: to call it deleted would make a controller clean up after an object that exists.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from modelcache.kube.resources import ObjectKey

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """One object as a list or a watch event showed it: a value, or the reason why there is none."""

    key: ObjectKey
    uid: str
    resource_version: str
    value: T | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that exists but cannot be decoded, and why."""

    key: ObjectKey
    uid: str
    resource_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One thing that happened to an object.

    (None, new): it is new. (old, new): it changed. (old, None): it is gone. (old, old), also (None, None): its value is
    the same, but it became undecodable, or an undecodable object went away.
    """

    key: ObjectKey
    old: T | None
    new: T | None


@dataclass(slots=True)
class _Entry(Generic[T]):
    value: T
    uid: str
    resource_version: str


class _Index(Generic[T]):
    """Value -> keys of the objects that have it. Derived from the cache by a pure function of the object."""

    def __init__(self, name: str, values_of: Callable[[T], Iterable[str]]) -> None:
        self._name = name
        self._values_of = values_of
        self._keys: dict[str, dict[ObjectKey, None]] = {}  # a dict as an ordered set

    def move(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        before = self._values(key, old)
        after = self._values(key, new)
        for value in before - after:
            keys = self._keys[value]
            del keys[key]
            if not keys:
                del self._keys[value]
        for value in after - before:
            self._keys.setdefault(value, {})[key] = None

    def keys(self, value: str) -> Iterable[ObjectKey]:
        return self._keys.get(value, ())

    def _values(self, key: ObjectKey, obj: T | None) -> set[str]:
        if obj is None:
            return set()
        try:
            return set(self._values_of(obj))
        except Exception:  # noqa: BLE001  # one unforeseen object must not stop the stream; it is then in no index
            _log.exception("index %s: cannot tell the values of %s", self._name, key)
            return set()


class Cache(Generic[T]):
    """Objects of one kind by key, with secondary indexes. Values are shared: treat them as read-only."""

    def __init__(self) -> None:
        self._entries: dict[ObjectKey, _Entry[T]] = {}
        self._invalid: dict[ObjectKey, Invalid] = {}
        self._indexes: dict[str, _Index[T]] = {}

    @property
    def invalid(self) -> Mapping[ObjectKey, Invalid]:
        """Objects that exist but cannot be decoded at present."""
        return MappingProxyType(self._invalid)

    def get(self, key: ObjectKey) -> T | None:
        """The last decodable state of the object, None if there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def values(self) -> list[T]:
        """All objects, in the order of their first appearance."""
        return [entry.value for entry in self._entries.values()]

    def keys(self) -> Iterator[ObjectKey]:
        """Keys of all decodable objects."""
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def index(self, name: str, values_of: Callable[[T], Iterable[str]]) -> None:
        """Keep an index of this name; `values_of` is a pure function of the object. May be called at any time."""
        index = _Index(name, values_of)
        for key, entry in self._entries.items():
            index.move(key, None, entry.value)
        self._indexes[name] = index

    def lookup(self, name: str, value: str) -> list[T]:
        """Objects whose `values_of` contains `value`. KeyError for an index that was never declared."""
        return [self._entries[key].value for key in self._indexes[name].keys(value)]

    def upsert(self, seen: Seen[T]) -> list[Change[T]]:
        """Take an object as added or modified."""
        changes: list[Change[T]] = []
        entry = self._entries.get(seen.key)
        known = entry or self._invalid.get(seen.key)
        if known is not None and known.uid != seen.uid:
            # Deleted and created again under the same name: two different things to everybody who holds the uid.
            changes += self.remove(seen.key)
            entry = None
        old = None if entry is None else entry.value
        if seen.value is None:
            self._invalid[seen.key] = Invalid(seen.key, seen.uid, seen.resource_version, seen.reason)
            return [*changes, Change(seen.key, old, old)]
        self._invalid.pop(seen.key, None)
        self._entries[seen.key] = _Entry(seen.value, seen.uid, seen.resource_version)
        self._reindex(seen.key, old, seen.value)
        return [*changes, Change(seen.key, old, seen.value)]

    def remove(self, key: ObjectKey, uid: str = "") -> list[Change[T]]:
        """Take an object as deleted; with `uid`, only if it is that one and not a later one of the same name."""
        known = self._entries.get(key) or self._invalid.get(key)
        if uid and known is not None and known.uid != uid:
            return []
        entry = self._entries.pop(key, None)
        invalid = self._invalid.pop(key, None)
        if entry is None:
            return [] if invalid is None else [Change(key, None, None)]
        self._reindex(key, entry.value, None)
        return [Change(key, entry.value, None)]

    def replace(self, everything: Iterable[Seen[T]]) -> list[Change[T]]:
        """Take a complete list: what is missing in it has been deleted while nobody watched.

        Objects whose resourceVersion is the known one give no change.
        """
        listed = {seen.key: seen for seen in everything}
        changes: list[Change[T]] = []
        for key in [*self._entries, *self._invalid]:
            if key not in listed:
                changes += self.remove(key)
        for seen in listed.values():
            known = self._invalid.get(seen.key) or self._entries.get(seen.key)
            if known is None or (known.uid, known.resource_version) != (seen.uid, seen.resource_version):
                changes += self.upsert(seen)
        return changes

    def _reindex(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        for index in self._indexes.values():
            index.move(key, old, new)
