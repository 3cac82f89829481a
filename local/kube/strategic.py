"""Strategic merge patch: a merge patch that knows which lists are maps and which are sets.

The schema says so with `x-kubernetes-patch-strategy` (`merge`, `retainKeys`, or both) and `x-kubernetes-patch-merge-key`.
Directives inside the patch change what a part of it does:

    $patch: delete | replace | merge       on an object, or as an item of a list
    $deleteFromPrimitiveList/<field>       values to take out of a set
    $setElementOrder/<field>               the order of a merged list
    $retainKeys                            the only keys that may remain

Follows k8s.io/apimachinery/pkg/util/strategicpatch/patch.go. Built-in kinds only: custom resources have no merge keys.
"""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


class StrategicError(ValueError):
    """The patch contradicts itself or the schema; the message names the field."""


def strategic_merge(schema: Schema, original: Any, patch: Any) -> Any:
    """The object with the patch applied. Raises StrategicError."""
    return _merge_map(schema, original if isinstance(original, dict) else {}, patch)


def _merge_map(schema: Schema, original: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get(_DIRECTIVE)
    if directive is not None:
        if directive == "replace":
            return {key: _without_directives(value) for key, value in patch.items() if not key.startswith("$")}
        if directive == "delete":
            return {}
        if directive != "merge":
            raise StrategicError(
                f"Unexpected value for patch directive: {directive!r} is none of delete, merge, replace"
            )
    result = dict(original)
    if _RETAIN in patch:
        result = _retained(result, patch)
    for key in patch:
        if key.startswith((_DELETE_FROM, _ORDER)):
            field = key.partition("/")[2]
            if not isinstance(patch[key], list):
                raise StrategicError(f"{key}: expected a list")
            if field not in patch:
                result[field] = _merge_list(_child(schema, field), result.get(field) or [], [], patch, field)
                if not result[field] and field not in original:
                    del result[field]
    for key, change in patch.items():
        if key in (_DIRECTIVE, _RETAIN) or key.startswith((_DELETE_FROM, _ORDER)):
            continue
        below = _child(schema, key)
        if change is None:
            result.pop(key, None)
        elif isinstance(change, dict):
            present = result.get(key)
            result[key] = _merge_map(below, present if isinstance(present, dict) else {}, change)
            if change.get(_DIRECTIVE) == "delete":
                del result[key]
        elif isinstance(change, list) and "merge" in _strategies(below):
            present = result.get(key)
            result[key] = _merge_list(below, present if isinstance(present, list) else [], change, patch, key)
        else:
            result[key] = _without_directives(change)
    return result


def _retained(result: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    keys = patch[_RETAIN]
    if not isinstance(keys, list):
        raise StrategicError(f"{_RETAIN}: expected a list of keys")
    missing = [key for key in patch if not key.startswith("$") and patch[key] is not None and key not in keys]
    if missing:
        raise StrategicError(f"{_RETAIN}: must contain every key that the patch sets, {missing[0]!r} is missing")
    return {key: value for key, value in result.items() if key in keys}


def _child(schema: Schema, name: str) -> Schema:
    found = (schema.get("properties") or {}).get(name)
    if found is None and isinstance(schema.get("additionalProperties"), Mapping):
        found = schema["additionalProperties"]
    return found or {}


def _strategies(schema: Schema) -> list[str]:
    return str(schema.get("x-kubernetes-patch-strategy", "")).split(",")


def _merge_list(schema: Schema, original: list[Any], patch: list[Any], parent: dict[str, Any], field: str) -> list[Any]:
    key = schema.get("x-kubernetes-patch-merge-key")
    order = parent.get(_ORDER + field)
    if key:
        return _merge_keyed(schema, original, patch, str(key), order)
    removed = parent.get(_DELETE_FROM + field, [])
    values = [value for value in original if value not in removed]
    for value in patch:
        if isinstance(value, dict):
            if value.get(_DIRECTIVE) == "replace":
                return [item for item in patch if not (isinstance(item, dict) and _DIRECTIVE in item)]
            raise StrategicError(f"{field}: items of this list have no merge key, an object cannot be merged into it")
        if value not in values:
            values.append(value)
    return _ordered(values, [*patch], order, lambda value: value)


def _merge_keyed(schema: Schema, original: list[Any], patch: list[Any], key: str, order: list[Any] | None) -> list[Any]:
    items = schema.get("items") or {}
    for item in patch:
        if not isinstance(item, dict):
            raise StrategicError(f"map: {item!r} does not contain declared merge key: {key}")
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [_without_directives(item) for item in patch if item.get(_DIRECTIVE) != "replace" or len(item) > 1]
    result = [item for item in original if isinstance(item, dict)]
    for item in patch:
        if key not in item:
            raise StrategicError(f"map: {item!r} does not contain declared merge key: {key}")
        name = item[key]
        if item.get(_DIRECTIVE) == "delete":
            result = [present for present in result if present.get(key) != name]
            continue
        position = next((index for index, present in enumerate(result) if present.get(key) == name), None)
        if position is None:
            result.append(_merge_map(items, {}, item))
        else:
            result[position] = _merge_map(items, result[position], item)
    listed = None
    if order is not None:
        listed = [entry.get(key) if isinstance(entry, dict) else None for entry in order]
    return _ordered(result, [item[key] for item in patch], listed, lambda item: item.get(key))


def _ordered(values: list[Any], patched: list[Any], order: list[Any] | None, identity: Any) -> list[Any]:
    """Values named by the order come in it; the others stay before the one that they preceded."""
    if order is None:
        return values
    named = sorted(
        (value for value in values if identity(value) in order), key=lambda value: order.index(identity(value))
    )
    rest = [value for value in values if identity(value) not in order]
    positions = {id(value): index for index, value in enumerate(values)}
    result: list[Any] = []
    for value in named:
        while rest and positions[id(rest[0])] < positions[id(value)]:
            result.append(rest.pop(0))
        result.append(value)
    return result + rest


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_directives(item) for key, item in value.items() if not key.startswith("$")}
    if isinstance(value, list):
        return [_without_directives(item) for item in value]
    return value
