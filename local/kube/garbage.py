"""Garbage collection: what becomes of objects whose owners go (k8s.io/kubernetes/pkg/controller/garbagecollector).

An object with ownerReferences lives as long as one of its owners does. How the owner goes decides the order:

    Background   the owner first; its dependents when it is gone
    Foreground   the dependents first; the owner waits for those that block it (`blockOwnerDeletion`)
    Orphan       the references are removed, then the owner goes

The collector keeps two indexes, identities and dependents, up to date from the store's changes, and looks again at
exactly those objects that a change can concern. It never scans.
"""

from dataclasses import dataclass

from local.kube.conversion import view
from local.kube.deletes import BACKGROUND, FOREGROUND, ORPHAN, DeleteOptions, Deleter
from local.kube.metadata import FOREGROUND_FINALIZER, ORPHAN_FINALIZER
from local.kube.registry import Registry
from local.kube.store import Change, Object, Store, Stored
from local.kube.worker import Worker
from local.kube.writes import Target, Writer

_MANAGER = "kube-controller-manager"


@dataclass(frozen=True)
class Place:
    """Where an object is stored."""

    storage: str
    namespace: str
    name: str


class GarbageCollector:
    """Deletes, orphans and releases objects according to their ownerReferences."""

    def __init__(self, store: Store, registry: Registry, writer: Writer, deleter: Deleter) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = deleter
        self._places: dict[str, Place] = {}
        self._dependents: dict[str, set[Place]] = {}
        self._worker: Worker[Place] = Worker(self._look_at)

    def start(self) -> None:
        """Index what is stored, and follow the store from now on."""
        for storage in self._store.storages():
            for stored in self._store.items(storage):
                self._index(storage, stored)
                self._enqueue(storage, stored)
        self._store.subscribe(self._observe)

    def _index(self, storage: str, stored: Stored) -> None:
        place = Place(storage, stored.namespace, stored.name)
        self._places[stored.object["metadata"]["uid"]] = place
        for owner in _owners(stored.object):
            self._dependents.setdefault(owner["uid"], set()).add(place)

    def _observe(self, change: Change) -> None:
        place = Place(change.storage, change.new.namespace, change.new.name)
        before = _owners(change.old.object) if change.old else []
        if before and change.old is not None:
            kept = () if change.deleted else _owners(change.new.object)
            for uid in {owner["uid"] for owner in before} - {owner["uid"] for owner in kept}:
                self._release(uid, place)
        uid = change.new.object["metadata"]["uid"]
        if change.deleted:
            self._places.pop(uid, None)
            for dependent in self._dependents.get(uid, ()):
                self._worker.add(dependent)
            # An owner in foreground deletion may have waited for this one.
            for owner in before:
                self._add_waiting(owner["uid"])
            return
        self._index(change.storage, change.new)
        if change.old is None or change.old.object["metadata"] != change.new.object["metadata"]:
            self._enqueue(change.storage, change.new)
        if before:
            for owner in before:
                self._add_waiting(owner["uid"])

    def _release(self, owner: str, dependent: Place) -> None:
        dependents = self._dependents.get(owner)
        if dependents is not None:
            dependents.discard(dependent)
            if not dependents:
                del self._dependents[owner]

    def _add_waiting(self, uid: str) -> None:
        place = self._places.get(uid)
        stored = self._get(place) if place else None
        if place and stored and _is_waiting(stored.object):
            self._worker.add(place)

    def _enqueue(self, storage: str, stored: Stored) -> None:
        """Look at an object that is owned, or that is going in a way that concerns its dependents."""
        metadata = stored.object["metadata"]
        if metadata.get("ownerReferences") or ("deletionTimestamp" in metadata and "finalizers" in metadata):
            self._worker.add(Place(storage, stored.namespace, stored.name))

    def _get(self, place: Place) -> Stored | None:
        return self._store.get(place.storage, place.namespace, place.name)

    def _target(self, place: Place) -> Target | None:
        resource = self._registry.storage(place.storage)
        return Target(resource, place.namespace, place.name) if resource else None

    def _look_at(self, place: Place) -> None:
        stored, target = self._get(place), self._target(place)
        if stored is None or target is None:
            return
        metadata = stored.object["metadata"]
        if "deletionTimestamp" in metadata:
            finalizers = metadata.get("finalizers", ())
            if ORPHAN_FINALIZER in finalizers:
                self._orphan(stored, target)
            elif FOREGROUND_FINALIZER in finalizers:
                self._delete_dependents(stored, target)
        elif metadata.get("ownerReferences"):
            self._attempt(stored, target)

    def _orphan(self, stored: Stored, target: Target) -> None:
        uid = stored.object["metadata"]["uid"]
        for dependent in tuple(self._dependents.get(uid, ())):
            self._remove_references(dependent, {uid})
        self._remove_finalizer(target, ORPHAN_FINALIZER)

    def _delete_dependents(self, stored: Stored, target: Target) -> None:
        uid = stored.object["metadata"]["uid"]
        blocked = False
        for dependent in tuple(self._dependents.get(uid, ())):
            found = self._get(dependent)
            if found is None:
                continue
            self._worker.add(dependent)
            blocked = blocked or any(
                owner["uid"] == uid and owner.get("blockOwnerDeletion") is True for owner in _owners(found.object)
            )
        if not blocked:
            self._remove_finalizer(target, FOREGROUND_FINALIZER)

    def _attempt(self, stored: Stored, target: Target) -> None:
        """Delete an object that no owner keeps; drop references to owners that are gone."""
        solid, gone, waiting = False, set(), set()
        for owner in _owners(stored.object):
            state = self._owner_state(stored, owner)
            if state == "gone":
                gone.add(owner["uid"])
            elif state == "waiting":
                waiting.add(owner["uid"])
            else:
                solid = True
        if solid:
            if gone or waiting:
                self._remove_references(
                    Place(target.resource.storage_key, target.namespace, target.name), gone | waiting
                )
            return
        metadata = stored.object["metadata"]
        if waiting and self._dependents.get(metadata["uid"]):
            policy = FOREGROUND
        else:
            finalizers = metadata.get("finalizers", ())
            policy = ORPHAN if ORPHAN_FINALIZER in finalizers else BACKGROUND
            policy = FOREGROUND if FOREGROUND_FINALIZER in finalizers else policy
        self._deleter.delete(target, DeleteOptions(propagation=policy, uid=metadata["uid"]))

    def _owner_state(self, stored: Stored, owner: Object) -> str:
        resource = self._registry.by_kind(owner["apiVersion"], owner["kind"])
        if resource is None:
            return "unknown"  # a kind that is not served (yet): never a reason to delete
        if resource.namespaced and not stored.namespace:
            return "unknown"  # a cluster-scoped object cannot have a namespaced owner; it is left alone
        place = self._places.get(owner["uid"])
        expected = Place(resource.storage_key, stored.namespace if resource.namespaced else "", owner["name"])
        found = self._get(place) if place == expected else None
        if found is None:
            return "gone"
        return "waiting" if _is_waiting(found.object) else "solid"

    def _remove_references(self, place: Place, uids: set[str]) -> None:
        stored, target = self._get(place), self._target(place)
        if stored is None or target is None:
            return

        def change(obj: Object) -> None:
            metadata = obj["metadata"]
            kept = [owner for owner in metadata.get("ownerReferences", ()) if owner["uid"] not in uids]
            metadata.pop("ownerReferences", None)
            if kept:
                metadata["ownerReferences"] = kept

        if any(owner["uid"] in uids for owner in _owners(view(target.resource, stored))):
            self._writer.rewrite(target, change, _MANAGER)

    def _remove_finalizer(self, target: Target, finalizer: str) -> None:
        def change(obj: Object) -> None:
            metadata = obj["metadata"]
            metadata["finalizers"] = [kept for kept in metadata.get("finalizers", ()) if kept != finalizer]

        self._writer.rewrite(target, change, _MANAGER)


def _owners(obj: Object) -> list[Object]:
    owners: list[Object] = obj["metadata"].get("ownerReferences", [])
    return owners


def _is_waiting(obj: Object) -> bool:
    """Whether an owner is in foreground deletion."""
    metadata = obj["metadata"]
    return "deletionTimestamp" in metadata and FOREGROUND_FINALIZER in metadata.get("finalizers", ())
