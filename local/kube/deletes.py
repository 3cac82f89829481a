"""Delete: mark or remove, depending on who still has a say.

An object goes at once when nothing holds it. Finalizers, a propagation policy that has to be carried out first, a pod's
grace period and the content of a namespace each turn the delete into a mark (`deletionTimestamp`), and the object goes
with the write that removes the last hold (k8s.io/apiserver/pkg/registry/rest/delete.go, generic/registry/store.go).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from local.kube import errors
from local.kube.admission import Admission, Write
from local.kube.conversion import to_storage, view
from local.kube.metadata import FOREGROUND_FINALIZER, ORPHAN_FINALIZER, timestamp
from local.kube.reads import Selection
from local.kube.registry import Registry
from local.kube.resources import Resource
from local.kube.rules import rules_for
from local.kube.store import Object, Store, Stored
from local.kube.writes import Target

# Holds a CustomResourceDefinition until the objects that it defines are gone.
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"

BACKGROUND, FOREGROUND, ORPHAN = "Background", "Foreground", "Orphan"

# k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle, and kube-node-lease of kube-apiserver's system namespaces.
_IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")


@dataclass(frozen=True)
class DeleteOptions:
    """How to delete. `propagation` is empty when the client left it to the server."""

    dry_run: bool = False
    propagation: str = ""
    grace_seconds: int | None = None
    uid: str = ""
    version: str = ""
    user: Mapping[str, Any] | None = None
    """Who asks; None for the server's own controllers."""


class Deleter:
    """Deletes objects for clients and for the server's own controllers."""

    def __init__(self, store: Store, registry: Registry, admission: Admission, clock: Callable[[], datetime]) -> None:
        self._admission = admission
        self._store = store
        self._registry = registry
        self._clock = clock

    def delete(self, target: Target, options: DeleteOptions) -> Object:
        """The deleted or marked object, or a `Status` for kinds that answer so. Raises ApiError."""
        resource = target.resource
        stored = self._store.get(resource.storage_key, target.namespace, target.name)
        if stored is None:
            raise errors.not_found(resource, target.name)
        if resource.storage_key == "namespaces" and target.name in _IMMORTAL_NAMESPACES:
            raise errors.forbidden(resource, target.name, "this namespace may not be deleted")
        obj = view(resource, stored)
        _check_preconditions(resource, obj, options)
        if options.user is not None:
            write = Write("DELETE", resource, target.namespace, target.name, "", None, obj, options.user)
            self._admission.check(write)
        marked = self._marked(resource, obj, options)
        if marked is not None:
            if marked == obj or options.dry_run:
                return marked
            return view(resource, self._store.put(resource.storage_key, to_storage(resource, marked, self._registry)))
        if not options.dry_run:
            self._store.remove(resource.storage_key, stored)
        return obj if rules_for(resource).returns_deleted else _success(resource, obj)

    def delete_collection(self, resource: Resource, selection: Selection, options: DeleteOptions) -> list[Stored]:
        """Delete every selected object; returns them as they were. Raises ApiError."""
        chosen = [
            stored
            for stored in self._store.items(resource.storage_key, selection.namespace)
            if selection.matches(resource, stored)
        ]
        for stored in chosen:
            self.delete(Target(resource, stored.namespace, stored.name), options)
        return chosen

    def _marked(self, resource: Resource, obj: Object, options: DeleteOptions) -> Object | None:
        """The object with its deletion noted; None when nothing holds it and it can go at once."""
        meta = dict(obj["metadata"])
        finalizers = _finalizers(meta.get("finalizers", []), options.propagation)
        if resource.storage_key == "customresourcedefinitions.apiextensions.k8s.io" and (
            CLEANUP_FINALIZER not in finalizers and "deletionTimestamp" not in meta
        ):
            finalizers = [*finalizers, CLEANUP_FINALIZER]
        grace = _grace_seconds(resource, obj, options)
        content = resource.storage_key == "namespaces" and bool(obj.get("spec", {}).get("finalizers"))
        if not finalizers and not content and grace == 0:
            return None
        now = self._clock()
        if "deletionTimestamp" not in meta:
            if meta.get("generation", 0) > 0:
                meta["generation"] += 1
            meta["deletionTimestamp"] = timestamp(now + timedelta(seconds=grace))
            meta["deletionGracePeriodSeconds"] = grace
        elif grace < meta.get("deletionGracePeriodSeconds", 0):
            meta["deletionTimestamp"] = timestamp(now + timedelta(seconds=grace))
            meta["deletionGracePeriodSeconds"] = grace
        meta.pop("finalizers", None)
        if finalizers:
            meta["finalizers"] = finalizers
        marked = obj | {"metadata": meta}
        if content:
            # A Namespace has no grace period; its phase says that it is going.
            del meta["deletionGracePeriodSeconds"]
            marked["status"] = obj.get("status", {}) | {"phase": "Terminating"}
        return marked


def _check_preconditions(resource: Resource, obj: Object, options: DeleteOptions) -> None:
    meta = obj["metadata"]
    name = meta["name"]
    if options.uid and options.uid != meta["uid"]:
        why = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta['uid']}). The object might "
            "have been deleted and then recreated"
        )
        raise errors.conflict(resource, name, why)
    if options.version and options.version != meta["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({options.version}) does not match the ResourceVersion in record "
            f"({meta['resourceVersion']}). The object might have been modified"
        )
        raise errors.conflict(resource, name, why)


def _finalizers(present: list[str], propagation: str) -> list[str]:
    """The finalizers after the policy has been noted among them."""
    if not propagation:
        return present
    kept = [finalizer for finalizer in present if finalizer not in (ORPHAN_FINALIZER, FOREGROUND_FINALIZER)]
    added = {ORPHAN: [ORPHAN_FINALIZER], FOREGROUND: [FOREGROUND_FINALIZER]}.get(propagation, [])
    return kept + added


def _grace_seconds(resource: Resource, obj: Object, options: DeleteOptions) -> int:
    """Seconds that a kubelet has to stop the pod; 0 for everything that no kubelet runs."""
    spec: dict[str, Any] = obj.get("spec", {})
    if not rules_for(resource).graceful or not spec.get("nodeName"):
        return 0
    if obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = options.grace_seconds
    grace = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
    present = obj["metadata"].get("deletionGracePeriodSeconds")
    # A second delete can shorten the time, never extend it.
    return grace if present is None or (asked is not None and grace < present) else int(present)


def _success(resource: Resource, obj: Object) -> Object:
    details = {"name": obj["metadata"]["name"], "kind": resource.plural, "uid": obj["metadata"]["uid"]}
    if resource.group:
        details["group"] = resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
