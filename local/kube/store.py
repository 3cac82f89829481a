"""Objects, versions and history: the part that etcd and the watch cache play in a real cluster.

One counter numbers all writes of all resources; an object's `metadata.resourceVersion` is the number of its last write.
Every resource keeps its recent writes as a list of changes. That one list serves three needs:

- a watch resumes after version N by replaying the changes after N;
- a paged list stays on the snapshot of version N by undoing the changes after N;
- what is older than the list is `Expired`, and the client has to list again.

Stored objects are never modified in place: a write replaces the object, so readers need no copies and no locks. All
methods are synchronous and run on the event loop's thread, which makes every one of them atomic.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from local.kube.journal import Journal
from local.kube.resources import Resource

# Changes kept per resource. etcd is compacted every 5 minutes and the watch cache holds up to 102,400 events of one
# resource; this is enough for any client that is awake, and bounds the memory that old objects take.
HISTORY_LIMIT = 10_000
# The same as bytes of JSON: a few hundred versions of the largest possible object.
HISTORY_BYTES = 64 * 1024 * 1024

# etcd's --max-request-bytes default.
OBJECT_LIMIT = 1_572_864

Object = dict[str, Any]


class Expired(Exception):
    """History before `oldest` is gone."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")
        self.asked = asked
        self.oldest = oldest


class TooLarge(Exception):
    """The encoded object exceeds OBJECT_LIMIT."""


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """One version of one object in storage form. `views` and `encodings` memoise what clients of a version see."""

    namespace: str
    name: str
    version: int
    object: Object
    views: dict[Resource, Object] = field(default_factory=dict)
    encodings: dict[tuple[Resource, bool], bytes] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Change:
    """One write. `old` is None for a creation; `new.version` is the number of the write, also for a deletion."""

    storage: str
    old: Stored | None
    new: Stored
    deleted: bool
    # Length of the new object as JSON; 0 for a deletion.
    size: int = 0

    @property
    def version(self) -> int:
        """The number of the write."""
        return self.new.version


Listener = Callable[[Change], None]


def key_of(namespace: str, name: str) -> str:
    """The key below the resource: its byte order is the order of lists, as in etcd."""
    return f"{namespace}/{name}" if namespace else name


class _Table:
    """The objects and the recent changes of one resource."""

    def __init__(self, floor: int) -> None:
        self.objects: dict[str, Stored] = {}
        self.keys: list[str] = []
        self.changes: deque[Change] = deque()
        # All changes after this version are in `changes`.
        self.floor = floor
        self.bytes = 0
        self.listeners: list[Listener] = []

    def apply(self, key: str, change: Change) -> None:
        if change.deleted:
            del self.objects[key]
            del self.keys[bisect.bisect_left(self.keys, key)]
        else:
            if key not in self.objects:
                bisect.insort(self.keys, key)
            self.objects[key] = change.new
        self.changes.append(change)
        self.bytes += change.size
        while len(self.changes) > HISTORY_LIMIT or self.bytes > HISTORY_BYTES:
            oldest = self.changes.popleft()
            self.bytes -= oldest.size
            self.floor = oldest.version

    def after(self, version: int) -> list[Change]:
        if version < self.floor:
            raise Expired(version, self.floor)
        recent: list[Change] = []
        for change in reversed(self.changes):
            if change.version <= version:
                break
            recent.append(change)
        recent.reverse()
        return recent


class Store:
    """All objects of the server."""

    def __init__(self, journal: Journal) -> None:
        """Read what the journal kept. Histories start empty: versions from before the start are `Expired`."""
        self._journal = journal
        self._version, kept = journal.load()
        self._tables: dict[str, _Table] = {}
        self._listeners: list[Listener] = []
        for storage, key, obj in kept:
            metadata = obj["metadata"]
            stored = Stored(metadata.get("namespace", ""), metadata["name"], int(metadata["resourceVersion"]), obj)
            self._table(storage).objects[key] = stored
        for table in self._tables.values():
            table.keys = sorted(table.objects)

    @property
    def version(self) -> int:
        """The number of the last write."""
        return self._version

    def _table(self, storage: str) -> _Table:
        table = self._tables.get(storage)
        if table is None:
            table = self._tables[storage] = _Table(self._version)
        return table

    def begin_history(self) -> None:
        """Forget the histories so far: what was written while starting up cannot be watched."""
        for table in self._tables.values():
            table.changes.clear()
            table.bytes = 0
            table.floor = self._version

    def get(self, storage: str, namespace: str, name: str) -> Stored | None:
        """The object as it is now."""
        table = self._tables.get(storage)
        return table.objects.get(key_of(namespace, name)) if table else None

    def items(self, storage: str, namespace: str = "", after: str = "") -> Iterator[Stored]:
        """Objects as they are now, in key order, behind the key `after`; all namespaces when `namespace` is empty.

        The caller must not write to the same resource while it iterates.
        """
        table = self._table(storage)
        return _scan(table.keys, table.objects, namespace, after)

    def items_at(self, storage: str, version: int, namespace: str = "", after: str = "") -> Iterator[Stored]:
        """Objects as they were when `version` was the last write. Raises Expired."""
        table = self._table(storage)
        changes = table.after(version)
        if not changes:
            return self.items(storage, namespace, after)
        objects = dict(table.objects)
        for change in reversed(changes):
            key = key_of(change.new.namespace, change.new.name)
            if change.old is None:
                objects.pop(key, None)
            else:
                objects[key] = change.old
        return _scan(sorted(objects), objects, namespace, after)

    def changes_after(self, storage: str, version: int) -> list[Change]:
        """Every write to the resource after `version`, oldest first. Raises Expired."""
        return self._table(storage).after(version)

    def count(self, storage: str) -> int:
        """Number of objects of the resource."""
        table = self._tables.get(storage)
        return len(table.objects) if table else 0

    def storages(self) -> Iterable[str]:
        """Names of all resources that have ever held an object."""
        return tuple(self._tables)

    def put(self, storage: str, obj: Object) -> Stored:
        """Write the object and number it; returns what is stored.

        Takes ownership of `obj` and sets its `metadata.resourceVersion`. Raises TooLarge, and OSError when the journal
        fails; in both cases nothing has changed.
        """
        metadata = obj["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        version = self._version + 1
        obj["metadata"] = metadata | {"resourceVersion": str(version)}
        encoded = msgspec.json.encode(obj)
        if len(encoded) > OBJECT_LIMIT:
            raise TooLarge(f"{storage}/{key_of(namespace, name)}: {len(encoded)} bytes")
        table = self._table(storage)
        old = table.objects.get(key_of(namespace, name))
        new = Stored(namespace, name, version, obj)
        self._commit(table, Change(storage, old, new, deleted=False, size=len(encoded)), encoded)
        return new

    def remove(self, storage: str, stored: Stored) -> Stored:
        """Delete the object; returns its last state, numbered with the deletion. Raises OSError when the journal fails."""
        obj = dict(stored.object)
        version = self._version + 1
        obj["metadata"] = obj["metadata"] | {"resourceVersion": str(version)}
        new = Stored(stored.namespace, stored.name, version, obj)
        self._commit(self._table(storage), Change(storage, stored, new, deleted=True), None)
        return new

    def _commit(self, table: _Table, change: Change, encoded: bytes | None) -> None:
        key = key_of(change.new.namespace, change.new.name)
        # The journal first: what a client is told, or can read, must survive a crash right after.
        self._journal.write(change.storage, key, change.version, encoded)
        self._version = change.version
        table.apply(key, change)
        for listener in (*table.listeners, *self._listeners):
            listener(change)

    def subscribe(self, listener: Listener, storage: str | None = None) -> Callable[[], None]:
        """Call `listener` with every change (of one resource, or of all) right after it is made.

        Returns the function that ends the subscription. Listeners must not raise, and must not write to the store.
        """
        listeners = self._listeners if storage is None else self._table(storage).listeners
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    def forget(self, storage: str) -> None:
        """Drop the empty table of a resource that is no longer served, with its history."""
        table = self._tables.get(storage)
        if table is not None and not table.objects:
            del self._tables[storage]

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def _scan(keys: list[str], objects: dict[str, Stored], namespace: str, after: str) -> Iterator[Stored]:
    prefix = f"{namespace}/" if namespace else ""
    start = bisect.bisect_right(keys, after) if after else bisect.bisect_left(keys, prefix)
    for position in range(start, len(keys)):
        key = keys[position]
        if prefix and not key.startswith(prefix):
            return
        yield objects[key]
