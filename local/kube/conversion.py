"""The forms an object has: as it is stored, and as each served version shows it.

Custom resources are kept in the storage version of their definition; other versions differ in `apiVersion` (the `None`
conversion strategy) and in what their schema prunes and defaults. Events exist once and are served in two groups with
different field names. Everything else is stored as it is served.
"""

from typing import Any

import msgspec

from local.kube.registry import Registry
from local.kube.resources import Resource
from local.kube.store import Object, Stored
from local.kube.structural import apply_defaults, prune

# core/v1 Event field -> events.k8s.io/v1 Event field (k8s.io/kubernetes/pkg/apis/events/v1/conversion.go).
_EVENT_FIELDS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_EVENT_FIELDS_BACK = {new: old for old, new in _EVENT_FIELDS.items()}


def _renamed(obj: Object, names: dict[str, str], api_version: str) -> Object:
    return {names.get(key, key): value for key, value in obj.items()} | {"apiVersion": api_version}


def to_storage(resource: Resource, obj: Object, registry: Registry) -> Object:
    """The storage form of an object that a client of this version wrote. The argument is not changed."""
    kept_as = registry.storage(resource.storage_key) or resource
    if kept_as is resource:
        return obj
    if resource.storage_key == "events":
        return _renamed(obj, _EVENT_FIELDS_BACK, kept_as.api_version)
    return obj | {"apiVersion": kept_as.api_version}


def view(resource: Resource, stored: Stored) -> Object:
    """The stored object as this version shows it; computed once. Callers must not change it."""
    known = stored.views.get(resource)
    if known is None:
        known = stored.views[resource] = _view(resource, stored.object)
    return known


def _view(resource: Resource, obj: Object) -> Object:
    if resource.custom:
        shown: Object = copy_of(obj)
        shown["apiVersion"] = resource.api_version
        if resource.schema is not None:
            prune(resource.schema, shown)
            apply_defaults(resource.schema, shown)
        return obj if shown == obj else shown
    if obj["apiVersion"] != resource.api_version:
        return _renamed(obj, _EVENT_FIELDS, resource.api_version)
    return obj


def encoded(resource: Resource, stored: Stored, *, in_list: bool = False) -> bytes:
    """The view as JSON; encoded once for all readers and watchers.

    Items of typed lists do not repeat `kind` and `apiVersion`; those of custom resources do.
    """
    bare = in_list and not resource.custom
    known = stored.encodings.get((resource, bare))
    if known is None:
        shown = view(resource, stored)
        if bare:
            shown = {key: value for key, value in shown.items() if key not in ("kind", "apiVersion")}
        known = stored.encodings[resource, bare] = msgspec.json.encode(shown)
    return known


def copy_of(value: Any) -> Any:
    """A deep copy of plain data."""
    if isinstance(value, dict):
        return {key: copy_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_of(item) for item in value]
    return value
