"""Deletion of namespaces: everything in one goes before it does (k8s.io/kubernetes/pkg/controller/namespace).

A namespace that is being deleted keeps `kubernetes` in `spec.finalizers` until it is empty. Objects with finalizers of
their own may take their time; meanwhile the namespace's conditions say what is left.
"""

from collections.abc import Callable
from datetime import datetime

from local.kube.deletes import DeleteOptions, Deleter
from local.kube.metadata import timestamp
from local.kube.registry import Registry
from local.kube.store import Change, Object, Store, Stored
from local.kube.worker import Worker
from local.kube.writes import Target, Writer

_MANAGER = "kube-controller-manager"
_FINALIZER = "kubernetes"


class NamespaceCleaner:
    """Empties namespaces that are being deleted, and lets them go."""

    def __init__(
        self, store: Store, registry: Registry, writer: Writer, deleter: Deleter, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = deleter
        self._clock = clock
        self._going: set[str] = set()
        self._worker: Worker[str] = Worker(self._clean)

    def start(self) -> None:
        """Go on with what was under way, and follow the store from now on."""
        for stored in tuple(self._store.items("namespaces")):
            self._note(stored)
        self._store.subscribe(self._observe)

    def _note(self, stored: Stored) -> None:
        if "deletionTimestamp" in stored.object["metadata"]:
            self._going.add(stored.name)
            self._worker.add(stored.name)

    def _observe(self, change: Change) -> None:
        if change.storage == "namespaces":
            if change.deleted:
                self._going.discard(change.new.name)
            elif change.new.name not in self._going:
                self._note(change.new)
        elif change.new.namespace in self._going:
            self._worker.add(change.new.namespace)

    def _clean(self, name: str) -> None:
        stored = self._store.get("namespaces", "", name)
        if stored is None or _FINALIZER not in stored.object.get("spec", {}).get("finalizers", ()):
            return
        left: list[tuple[str, Stored]] = []
        for resource in self._registry.storages():
            if not resource.namespaced:
                continue
            for content in tuple(self._store.items(resource.storage_key, name)):
                if "deletionTimestamp" not in content.object["metadata"]:
                    self._deleter.delete(Target(resource, name, content.name), DeleteOptions())
            left += [(resource.group_resource, content) for content in self._store.items(resource.storage_key, name)]
        namespaces = self._registry.storage("namespaces")
        assert namespaces is not None
        if left:
            conditions = _conditions(stored.object, left, timestamp(self._clock()))
            change = _set_conditions(conditions)
            self._writer.rewrite(Target(namespaces, "", name, "status"), change, _MANAGER)
        else:
            self._writer.rewrite(Target(namespaces, "", name, "finalize"), _release, _MANAGER)


def _release(namespace: Object) -> None:
    kept = [finalizer for finalizer in namespace["spec"].get("finalizers", ()) if finalizer != _FINALIZER]
    namespace["spec"] = {"finalizers": kept} if kept else {}


def _set_conditions(conditions: list[Object]) -> Callable[[Object], None]:
    def change(namespace: Object) -> None:
        namespace["status"] = namespace.get("status", {}) | {"conditions": conditions}

    return change


def _conditions(namespace: Object, left: list[tuple[str, Stored]], now: str) -> list[Object]:
    kinds: dict[str, int] = {}
    finalizers: dict[str, int] = {}
    for resource, stored in left:
        kinds[resource] = kinds.get(resource, 0) + 1
        for finalizer in stored.object["metadata"].get("finalizers", ()):
            finalizers[finalizer] = finalizers.get(finalizer, 0) + 1
    remaining = ", ".join(f"{resource} has {count} resource instances" for resource, count in sorted(kinds.items()))
    holding = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    wanted = [
        ("NamespaceContentRemaining", "SomeResourcesRemain", f"Some resources are remaining: {remaining}", True),
        (
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            f"Some content in the namespace has finalizers remaining: {holding}",
            bool(finalizers),
        ),
    ]
    present = {c.get("type"): c for c in namespace.get("status", {}).get("conditions", ())}
    conditions = []
    for kind, reason, message, holds in wanted:
        condition: Object = {"type": kind, "status": "True", "reason": reason, "message": message}
        if not holds:
            condition |= {
                "status": "False",
                "reason": "ContentHasNoFinalizers",
                "message": "All content-preserving finalizers finished",
            }
        before = present.get(kind, {})
        same = before.get("status") == condition["status"]
        condition["lastTransitionTime"] = before.get("lastTransitionTime", now) if same else now
        conditions.append(condition)
    return conditions
