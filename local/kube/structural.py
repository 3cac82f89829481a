"""What a schema does to an object: fill in defaults, drop unknown fields, and say what is wrong.

The three steps run in this order on every write (on reads only the defaults), as in the real server
(k8s.io/apiextensions-apiserver, pkg/apiserver/schema):

    prune -> apply_defaults -> validate

All of them take the version's `openAPIV3Schema` (or `builtin_schema(...)`) and a whole decoded object. `prune` and
`apply_defaults` change it in place; neither ever touches `apiVersion` and `kind`, and `metadata` is always judged by
the schema of ObjectMeta, whatever the CRD says about it.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from local.kube.causes import (
    NO_FIELD,
    NOT_SUPPORTED,
    REQUIRED,
    TOO_LONG,
    TOO_MANY,
    TYPE_INVALID,
    Cause,
    duplicate,
    invalid,
    join_path,
)
from local.kube.object_meta import OBJECT_META, ROOT_FIELDS
from local.kube.value_validation import ABSENT, Schema, same_json, validate_value

__all__ = ["Cause", "apply_defaults", "prune", "validate"]

# With one of these the server does not evaluate CEL: the rules could meet values that their types exclude.
_BLOCKS_CEL = frozenset({NOT_SUPPORTED, REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID})
_CEL_SKIPPED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


# Our own mark in the schemas of built-in kinds, whose list types do not forbid duplicates by themselves: False allows
# them, a text forbids them and names the field of the item to blame ("" for the item itself).
UNIQUE = "x-local-unique"


def apply_defaults(schema: Schema, obj: dict[str, Any]) -> None:
    """Drop nulls where the schema does not allow them, then fill in `default` values, in place.

    A null in place of a non-nullable field counts as absent: it is replaced by the default, or goes.
    """
    if isinstance(obj.get("metadata"), dict):
        _drop_nulls(OBJECT_META, obj["metadata"])
    _drop_nulls(schema, obj)
    _fill(schema, obj)


def _child_schema(schema: Schema, key: str) -> Schema | None:
    found: Schema | None = schema.get("properties", {}).get(key)
    if found is None and isinstance(schema.get("additionalProperties"), dict):
        found = schema["additionalProperties"]
    return found


def _drop_nulls(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for key in list(value):
            child = _child_schema(schema, key)
            if child is None:
                continue
            if value[key] is None and not child.get("nullable") and "default" not in child:
                del value[key]
            else:
                _drop_nulls(child, value[key])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            _drop_nulls(schema["items"], item)


def _fill(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for key, child in schema.get("properties", {}).items():
            missing = key not in value or (value[key] is None and not child.get("nullable"))
            if missing and child.get("default") is not None:
                value[key] = copy.deepcopy(child["default"])
        for key in value:
            child = _child_schema(schema, key)
            if child is not None:
                if value[key] is None and not child.get("nullable"):
                    value[key] = copy.deepcopy(child.get("default"))
                _fill(child, value[key])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        items = schema["items"]
        for index, item in enumerate(value):
            if item is None and not items.get("nullable"):
                value[index] = copy.deepcopy(items.get("default"))
            _fill(items, value[index])


def prune(schema: Schema, obj: dict[str, Any]) -> list[str]:
    """Remove the fields that the schema does not know, in place; returns their paths (`spec.foo[0].bar`), sorted."""
    unknown: list[str] = []
    _prune_metadata(obj, "", unknown)
    _prune({**schema, "x-kubernetes-embedded-resource": True}, obj, "", unknown, root=True)
    return sorted(unknown)


def _prune_metadata(obj: dict[str, Any], path: str, unknown: list[str]) -> None:
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        _prune(OBJECT_META, metadata, join_path(path, "metadata"), unknown)


def _prune(schema: Schema | None, value: Any, path: str, unknown: list[str], *, root: bool = False) -> None:
    """Remove what `schema` does not know; None knows nothing (as below `additionalProperties: true`)."""
    schema = schema or {}
    preserve = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if isinstance(value, dict):
        embedded = bool(schema.get("x-kubernetes-embedded-resource"))
        if embedded and not root:
            _prune_metadata(value, path, unknown)
        properties, additional = schema.get("properties", {}), schema.get("additionalProperties")
        for key in list(value):
            below = join_path(path, key)
            if embedded and key in ROOT_FIELDS:
                continue
            if key in properties:
                _prune(properties[key], value[key], below, unknown)
            elif additional:
                _prune(additional if isinstance(additional, dict) else None, value[key], below, unknown)
            elif not preserve:
                unknown.append(below)
                del value[key]
    elif isinstance(value, list):
        items = schema.get("items")
        if preserve and not items:
            return
        for index, item in enumerate(value):
            _prune(items, item, f"{path}[{index}]", unknown)


def validate(
    schema: Schema, obj: dict[str, Any], old: dict[str, Any] | None, *, status_only: bool = False
) -> list[Cause]:
    """Everything that is wrong with `obj` under `schema`; empty when it may be stored.

    `old` is the object before an update, None on create. Rules about changes (CEL's `oldSelf`) run only with it, and
    faults in parts that did not change are forgiven. CEL rules are not evaluated on objects whose shape is wrong; the
    answer then says so, as the server does. `status_only`: the update of a custom resource's status, where the shape of
    nothing else is looked at.
    """
    if status_only:
        causes = _status_causes(schema, obj, old or {})
    else:
        causes = validate_value(schema, obj, ABSENT if old is None else old)
        causes += validate_value(OBJECT_META, obj.get("metadata", {}), ABSENT, "metadata")
        causes += _embedded_causes(schema, obj, "")
    list_causes = list(_list_causes(schema, obj, ""))
    if list_causes and not (old is not None and any(_list_causes(schema, old, ""))):
        causes += list_causes
    if _has_rules(_Same(schema)):
        if any(cause.reason in _BLOCKS_CEL for cause in causes):
            causes.append(invalid("", None, _CEL_SKIPPED))
        else:
            # The expression library takes longer to import than a server without CEL rules takes to start.
            from local.kube.cel.rules import validate_rules

            causes += validate_rules(schema, obj, old)
    return list(dict.fromkeys(causes))


def _status_causes(schema: Schema, obj: dict[str, Any], old: dict[str, Any]) -> list[Cause]:
    """Faults in the shape of the status. The server validates it as a value of its own and puts `status` before the
    paths afterwards: so the sentences name the fields as seen from the status."""
    if "status" not in obj:
        return []
    found = validate_value(schema.get("properties", {}).get("status", {}), obj["status"], old.get("status", ABSENT))
    return [
        replace(cause, field="status" if cause.field in ("", NO_FIELD) else join_path("status", cause.field))
        for cause in found
    ]


class _Same:
    """A schema as a key: hashed and compared by identity, and kept alive so that the identity stays its own."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.schema is other.schema


@lru_cache(maxsize=256)
def _has_rules(key: _Same) -> bool:
    """Whether the schema has CEL rules anywhere. Walking a pod's schema takes longer than validating a pod."""
    return _contains_rules(key.schema)


def _contains_rules(schema: Schema) -> bool:
    pending: list[Any] = [schema]
    seen: set[int] = set()  # the schema of schemas contains itself
    while pending:
        node = pending.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        if node.get("x-kubernetes-validations"):
            return True
        seen.add(id(node))
        pending += [*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")]
        pending += node.get("allOf", ())
    return False


def _embedded_causes(schema: Schema, value: Any, path: str) -> list[Cause]:
    """Faults in the root fields of objects inside the object (`x-kubernetes-embedded-resource`)."""
    causes = []
    if isinstance(value, dict):
        if schema.get("x-kubernetes-embedded-resource"):
            for key in ("apiVersion", "kind"):
                if not isinstance(value.get(key), str) or not value[key]:
                    causes.append(Cause(join_path(path, key), REQUIRED, "Required value: must not be empty"))
            causes += validate_value(OBJECT_META, value.get("metadata", {}), ABSENT, join_path(path, "metadata"))
        for key, item in value.items():
            child = _child_schema(schema, key)
            if child is not None:
                causes += _embedded_causes(child, item, join_path(path, key))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            causes += _embedded_causes(schema["items"], item, f"{path}[{index}]")
    return causes


def _list_causes(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    """Duplicates in lists of type set, and duplicate keys in lists of type map."""
    if isinstance(value, dict):
        properties, additional = schema.get("properties", {}), schema.get("additionalProperties")
        for key, item in value.items():
            if key in properties:
                yield from _list_causes(properties[key], item, join_path(path, key))
            elif isinstance(additional, dict):
                yield from _list_causes(additional, item, f"{path}[{key}]")
    elif isinstance(value, list):
        kind, unique = schema.get("x-kubernetes-list-type"), schema.get(UNIQUE, "")
        if kind == "set" and unique is not False:
            yield from _duplicates(value, path)
        elif kind == "map" and unique is not False:
            yield from _map_list_causes(value, schema.get("x-kubernetes-list-map-keys", []), path, unique)
        if isinstance(schema.get("items"), dict):
            for index, item in enumerate(value):
                yield from _list_causes(schema["items"], item, f"{path}[{index}]")


def _map_list_causes(value: list[Any], keys: list[str], path: str, blamed: str) -> Iterator[Cause]:
    for index, item in enumerate(value):
        if item is not None and not isinstance(item, dict):
            yield invalid(f"{path}[{index}]", item, "must be an object for an array of list-type map")
            return
    items = [item or {} for item in value]
    if blamed:
        yield from _duplicates([item.get(blamed) for item in items], path, f".{blamed}")
    else:
        yield from _duplicates([{key: item[key] for key in keys if key in item} for item in items], path)


def _duplicates(values: list[Any], path: str, below: str = "") -> Iterator[Cause]:
    """One cause per value that occurs again, at its second place."""
    for index, item in enumerate(values):
        if sum(same_json(item, earlier) for earlier in values[:index]) == 1:
            yield duplicate(f"{path}[{index}]{below}", item)
