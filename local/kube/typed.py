"""What server-side apply refuses before it merges anything: fields that a schema does not declare, values of other types.

A configuration is read as a typed value first (sigs.k8s.io/structured-merge-diff, typed/validate.go). Unlike a create, which
prunes what it does not know and reports types together with all other faults, that is strict, and its errors are plain ones:
a 500 with Go's own print of the value. Null is of every type. Custom resources only; built-in kinds are decoded first.
"""

import json
from typing import Any

from local.kube.causes import go_number
from local.kube.object_meta import ROOT_FIELDS
from local.kube.value_validation import Schema


def faults(schema: Schema, config: dict[str, Any]) -> list[str]:
    """What is wrong with the types of a configuration, as `.path: sentence`, in the order of the paths.

    `schema` is the `openAPIV3Schema` of the version. `apiVersion`, `kind` and `metadata` are not looked at.
    """
    return _faults(schema, {key: value for key, value in config.items() if key not in ROOT_FIELDS}, "")


def _faults(schema: Schema, value: Any, path: str) -> list[str]:
    if value is None or schema.get("x-kubernetes-int-or-string"):
        return []
    match schema.get("type"):
        case "object" if not isinstance(value, dict):
            return [f"{path}: expected map, got &{{{_plain(value)}}}"]
        case "object":
            return _map_faults(schema, value, path)
        case "array" if not isinstance(value, list):
            return [f"{path}: expected list, got &{{{_plain(value)}}}"]
        case "array":
            items = schema.get("items") or {}
            keys = schema.get("x-kubernetes-list-map-keys", ())
            below = [f"{path}[{_element(index, item, keys)}]" for index, item in enumerate(value)]
            return [fault for item, place in zip(value, below, strict=True) for fault in _faults(items, item, place)]
        case "string" if not isinstance(value, str):
            return [f"{path}: expected string, got &value.valueUnstructured{{Value:{_literal(value)}}}"]
        case "boolean" if not isinstance(value, bool):
            return [f"{path}: expected boolean, got &{{{_plain(value)}}}"]
        case "integer" | "number" if isinstance(value, bool) or not isinstance(value, (int, float)):
            return [f"{path}: expected numeric (int or float), got {_type(value)}"]
    return []


def _map_faults(schema: Schema, value: dict[str, Any], path: str) -> list[str]:
    properties, additional = schema.get("properties", {}), schema.get("additionalProperties")
    free = bool(schema.get("x-kubernetes-preserve-unknown-fields") or additional is True)
    embedded = ROOT_FIELDS if schema.get("x-kubernetes-embedded-resource") else ()
    found = []
    for key, item in sorted(value.items()):
        below = properties.get(key, additional if isinstance(additional, dict) else None)
        if below is not None:
            found += _faults(below, item, f"{path}.{key}")
        elif not free and key not in embedded:
            found.append(f"{path}.{key}: field not declared in schema")
    return found


def _element(index: int, item: Any, keys: tuple[str, ...]) -> str:
    """How an item is named in a path: by its keys where the list has some."""
    if not keys or not isinstance(item, dict) or any(key not in item for key in keys):
        return str(index)
    return ",".join(f"{key}={json.dumps(item[key])}" for key in sorted(keys))


def _plain(value: Any) -> str:
    """Go's `%v`."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_plain(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list):
        return f"[{' '.join(_plain(item) for item in value)}]"
    if value is None:
        return "<nil>"
    return value if isinstance(value, str) else _literal(value)


def _literal(value: Any) -> str:
    """Go's `%#v`."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}:{_literal(item)}" for key, item in sorted(value.items()))
        return f"{_type(value)}{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"{_type(value)}{{{', '.join(_literal(item) for item in value)}}}"
    if value is None:
        return "interface {}(nil)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else go_number(value)


def _type(value: Any) -> str:
    """Go's `%T` of a decoded JSON value."""
    names = {str: "string", bool: "bool", list: "[]interface {}", int: "int64", float: "float64"}
    return names.get(type(value), "map[string]interface {}")
