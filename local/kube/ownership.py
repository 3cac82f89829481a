"""Field ownership: who manages which fields of an object, and what that means for server-side apply.

Every write is attributed to a manager. A plain write (create, update, patch) makes its manager the owner of what it
changed and takes those fields from all others. An apply states everything that its manager wants: fields that others own
and that would change are a conflict (or are taken by force), and fields that the manager applied last time, no longer
applies, and nobody else owns, are removed.

The rules follow sigs.k8s.io/structured-merge-diff/merge and k8s.io/apimachinery/pkg/util/managedfields.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from local.kube import errors
from local.kube.causes import Cause, go_quote
from local.kube.conversion import copy_of
from local.kube.documents import schema_of
from local.kube.errors import ApiError
from local.kube.fieldset import (
    EMPTY,
    FieldError,
    FieldSet,
    Schema,
    compare,
    fields_of,
    from_fields_v1,
    show_path,
    to_fields_v1,
    with_named_parents,
)
from local.kube.merging import merged, without
from local.kube.metadata import timestamp
from local.kube.object_meta import OBJECT_META
from local.kube.resources import Resource
from local.kube.store import Object

APPLY, UPDATE = "Apply", "Update"

# Fields that belong to the server and are never owned.
_UNOWNED: FieldSet = frozenset(
    {
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(
            ("f:metadata", f"f:{name}")
            for name in (
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "clusterName",
                "generation",
                "managedFields",
                "resourceVersion",
            )
        ),
    }
)
# k8s.io/apimachinery: DefaultMaxUpdateManagers, and the name that older ones are merged under.
_UPDATERS_LIMIT = 10
_OLD_UPDATERS = "ancient-changes"
# The owner of everything in an object that was never tracked, once somebody applies to it.
_BEFORE_FIRST_APPLY = "before-first-apply"

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class Manager:
    """Identity of a manager. `api_version` is empty for appliers: they are the same whatever version they use."""

    name: str
    operation: str
    api_version: str
    subresource: str

    def __str__(self) -> str:
        """The manager as conflict messages name it."""
        text = go_quote(self.name)
        if self.subresource:
            text += f" with subresource {go_quote(self.subresource)}"
        return f"{text} using {self.api_version}" if self.operation == UPDATE else text


@dataclass(frozen=True)
class Owned:
    """What a manager owns, in which version, and since when."""

    fields: FieldSet
    api_version: str
    time: str = ""


Managers = dict[Manager, Owned]


def _schema(resource: Resource) -> Schema:
    """What tells fields apart: a definition says nothing about metadata, but its lists are sets and maps all the same."""
    schema = schema_of(resource)
    if resource.custom:
        return schema | {"properties": {**schema.get("properties", {}), "metadata": OBJECT_META}}
    return schema


def decode(entries: list[Mapping[str, Any]]) -> Managers:
    """The managers of `metadata.managedFields`. Raises FieldError."""
    managers: Managers = {}
    for entry in entries:
        operation, version = entry.get("operation"), entry.get("apiVersion", "")
        if operation not in (APPLY, UPDATE):
            raise FieldError("operation must be `Apply` or `Update`")
        if not version:
            raise FieldError("apiVersion must not be empty")
        if entry.get("fieldsType") != "FieldsV1":
            raise FieldError(f"invalid fieldsType {entry.get('fieldsType')!r}")
        identity = Manager(
            entry.get("manager", ""), operation, "" if operation == APPLY else version, entry.get("subresource", "")
        )
        managers[identity] = Owned(from_fields_v1(entry.get("fieldsV1") or {}), version, entry.get("time", ""))
    return managers


def encode(managers: Managers) -> list[dict[str, Any]]:
    """`metadata.managedFields`, in the order of the real server: appliers, then by time and name."""
    entries = []
    for manager, owned in managers.items():
        entry: dict[str, Any] = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": owned.api_version,
        }
        if owned.time:
            entry["time"] = owned.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": to_fields_v1(owned.fields)}
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    return sorted(
        entries,
        key=lambda e: (e["operation"], e.get("time", ""), e["manager"], e["apiVersion"], e.get("subresource", "")),
    )


def track(resource: Resource, subresource: str, old: Object | None, new: Object, manager: str, now: datetime) -> None:
    """Attribute what changed from `old` to `new` to the manager, in `new`'s managedFields, in place.

    A client may send managedFields of its own (to migrate or to drop owners); ones that cannot be read are ignored.
    """
    managers = _present(subresource, old, new)
    new["metadata"].pop("managedFields", None)
    if not managers and old is not None:
        return  # an object that nobody tracks stays untracked until the first apply
    try:
        tracked = _updated(resource, subresource, old, new, managers, manager, now)
    except FieldError:
        # Lists that cannot be addressed by key: ownership stays as it was, as in the real server.
        tracked = managers
    if tracked:
        new["metadata"]["managedFields"] = encode(tracked)


def _present(subresource: str, old: Object | None, new: Object) -> Managers:
    sent = new["metadata"].get("managedFields")
    kept = (old or {}).get("metadata", {}).get("managedFields", [])
    try:
        if not subresource and sent is not None:
            if sent in ([], [{}]):
                return {}
            return decode(sent) or decode(kept)
    except FieldError:
        pass
    try:
        return decode(kept)
    except FieldError:
        return {}


def _updated(
    resource: Resource,
    subresource: str,
    old: Object | None,
    new: Object,
    managers: Managers,
    name: str,
    now: datetime,
) -> Managers:
    schema = _schema(resource)
    before = _untracked(old) if old is not None else {"apiVersion": new.get("apiVersion"), "kind": new.get("kind")}
    difference = compare(schema, before, _untracked(new))
    gained = difference.added | difference.modified
    tracked = _without_fields(managers, gained | difference.removed)
    owned = gained - _UNOWNED
    if owned:
        manager = Manager(name, UPDATE, resource.api_version, subresource)
        present = tracked.get(manager)
        fields = owned | (present.fields if present else EMPTY)
        tracked[manager] = Owned(fields, resource.api_version, timestamp(now))
    return _capped(tracked)


def _without_fields(managers: Managers, fields: FieldSet, exempt: Manager | None = None) -> Managers:
    left = {m: o if m == exempt else replace(o, fields=o.fields - fields) for m, o in managers.items()}
    return {manager: owned for manager, owned in left.items() if owned.fields}


def _capped(managers: Managers) -> Managers:
    """Merge the oldest updaters of each version into one, until there are few enough."""
    updaters = sorted(
        (m for m in managers if m.operation == UPDATE), key=lambda m: (managers[m].time, m.name, m.subresource)
    )
    excess = len(updaters) - _UPDATERS_LIMIT
    first: dict[str, Manager] = {}
    for manager in updaters:
        if excess <= 0:
            break
        bucket = Manager(_OLD_UPDATERS, UPDATE, manager.api_version, "")
        seen = first.setdefault(manager.api_version, manager)
        if seen == manager:
            continue
        if bucket not in managers:
            managers[bucket] = managers.pop(seen)
        owned = managers.pop(manager)
        managers[bucket] = replace(owned, fields=owned.fields | managers[bucket].fields)
        excess -= 1
    return managers


def _untracked(obj: Object) -> Object:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return obj | {"metadata": metadata}


def applied(
    resource: Resource,
    live: Object | None,
    config: Object,
    subresource: str,
    manager: str,
    *,
    force: bool,
    now: datetime,
) -> Object:
    """The object after the apply, with its managedFields; the configuration itself when there is no live object.

    Raises ApiError 409 naming every conflicting field and its manager, and 500 (as the real server does) for a
    configuration whose lists cannot be merged.
    """
    schema = _schema(resource)
    identity = Manager(manager, APPLY, "", subresource)
    config = _allowed(resource, subresource, config)
    present = live if live is not None else {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}}
    managers = _decoded(resource, live, schema, now)
    try:
        claimed = fields_of(schema, config)
        result = _merge(schema, _untracked(present), config, managers, identity, claimed, resource.api_version)
        difference = compare(schema, _untracked(present), result)
    except FieldError as error:
        meta = config["metadata"]
        where = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {resource.api_version}, Kind={resource.kind}"
        raise ApiError(500, "", f"failed to create typed patch object ({where}): {error}") from None
    changed = difference.added | difference.modified
    conflicts = {m: o.fields & changed for m, o in managers.items() if m != identity and o.fields & changed}
    if conflicts and not force:
        conflicts = _not_from_client_side_apply(resource, present, manager, conflicts, schema)
        if conflicts:
            raise _conflict(conflicts)
    tracked = _without_fields(managers, changed | difference.removed, exempt=identity)
    owned = claimed - _UNOWNED
    if owned:
        last = managers.get(identity)
        unchanged = last is not None and last.fields == owned and last.api_version == resource.api_version
        time = last.time if last and unchanged and not (changed | difference.removed) else timestamp(now)
        tracked[identity] = Owned(owned, resource.api_version, time)
    else:
        tracked.pop(identity, None)
    if manager == "kubectl" and _LAST_APPLIED in present["metadata"].get("annotations", {}):
        annotations = result["metadata"].get("annotations") or {}
        text = json.dumps(config, separators=(",", ":"), sort_keys=True) + "\n"
        result["metadata"]["annotations"] = annotations | {_LAST_APPLIED: text}
    if tracked:
        result["metadata"]["managedFields"] = encode(tracked)
    return result


def _allowed(resource: Resource, subresource: str, config: Object) -> Object:
    """The part of a configuration that may take effect through this path."""
    if subresource == "status":
        kept = ("apiVersion", "kind", "status")
        meta = {key: value for key, value in config["metadata"].items() if key in ("name", "namespace")}
        return {key: value for key, value in config.items() if key in kept} | {"metadata": meta}
    if "status" in resource.subresources:
        return {key: value for key, value in config.items() if key != "status"}
    return config


def _decoded(resource: Resource, live: Object | None, schema: Schema, now: datetime) -> Managers:
    if live is None:
        return {}
    entries = live["metadata"].get("managedFields", [])
    if entries:
        try:
            return decode(entries)
        except FieldError as error:
            raise ApiError(500, "", f"failed to decode managed fields: {error}") from None
    try:
        nothing = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": {}}
        fields = compare(schema, nothing, _untracked(live)).added - _UNOWNED
    except FieldError:
        return {}
    first = Manager(_BEFORE_FIRST_APPLY, UPDATE, resource.api_version, "")
    return {first: Owned(fields, resource.api_version, timestamp(now))} if fields else {}


def _merge(
    schema: Schema,
    live: Object,
    config: Object,
    managers: Managers,
    identity: Manager,
    claimed: FieldSet,
    api_version: str,
) -> Object:
    result: Object = copy_of(merged(schema, live, config))
    last = managers.get(identity)
    if last is not None and last.fields:
        owners = managers | {identity: Owned(claimed, api_version)}
        result = _pruned(schema, result, last.fields, frozenset().union(*(o.fields for o in owners.values())))
    # What has become empty by pruning is null; metadata knows no nulls.
    result["metadata"] = {k: v for k, v in (result.get("metadata") or {}).items() if v is not None}
    for name in ("apiVersion", "kind"):
        result[name] = config[name]
    for name in ("name", "namespace"):
        if name in live["metadata"]:
            result["metadata"][name] = live["metadata"][name]
    return result


def _pruned(schema: Schema, value: Object, last: FieldSet, owned: FieldSet) -> Object:
    """Take out what the manager applied last time and nobody, including itself, owns now."""
    named = with_named_parents(schema, last)
    everything = with_named_parents(schema, fields_of(schema, value))
    left = with_named_parents(schema, fields_of(schema, without(schema, value, named) or {}))
    kept = left | with_named_parents(schema, owned)
    candidate = without(schema, value, everything - kept) or {}
    remaining = with_named_parents(schema, fields_of(schema, candidate))
    pruned = without(schema, value, (everything - remaining) & named)
    return pruned or {}


def _conflict(conflicts: Mapping[Manager, FieldSet]) -> ApiError:
    found = [
        (manager, show_path(path)) for manager in sorted(conflicts, key=str) for path in sorted(conflicts[manager])
    ]
    causes = [Cause(path, "FieldManagerConflict", f"conflict with {manager}") for manager, path in found]
    if len(found) == 1:
        manager, path = found[0]
        return errors.apply_conflict(causes, f"Apply failed with 1 conflict: conflict with {manager}: {path}")
    lines = []
    for manager in sorted(conflicts, key=str):
        lines.append(f"conflicts with {manager}:")
        lines += [f"- {path}" for owner, path in found if owner == manager]
    return errors.apply_conflict(causes, f"Apply failed with {len(found)} conflicts: " + "\n".join(lines))


def _not_from_client_side_apply(
    resource: Resource, live: Object, manager: str, conflicts: Mapping[Manager, FieldSet], schema: Schema
) -> dict[Manager, FieldSet]:
    """The conflicts that remain when `kubectl` takes over what it wrote by client-side apply before."""
    text = live["metadata"].get("annotations", {}).get(_LAST_APPLIED, "")
    if manager != "kubectl" or not text:
        return dict(conflicts)
    try:
        last = json.loads(text)
        if not isinstance(last, dict) or last.get("apiVersion") != resource.api_version:
            return dict(conflicts)
        last.setdefault("metadata", {})
        difference = compare(schema, last, _untracked(live))
        own = fields_of(schema, last) - difference.modified - difference.added - difference.removed
    except (ValueError, TypeError, RecursionError):
        return dict(conflicts)
    left = {m: fields - own for m, fields in conflicts.items()}
    return {m: fields for m, fields in left.items() if fields}


def same_but_times(left: Object, right: Object) -> bool:
    """Whether two objects are equal when nobody looks at the times in managedFields."""
    if left.keys() != right.keys() or any(left[key] != right[key] for key in left if key != "metadata"):
        return False
    first, second = left["metadata"], right["metadata"]
    if first.keys() != second.keys() or any(first[key] != second[key] for key in first if key != "managedFields"):
        return False
    return _timeless(first) == _timeless(second)


def _timeless(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "time"} for entry in metadata.get("managedFields", ())]
