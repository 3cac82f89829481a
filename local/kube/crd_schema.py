"""Whether an `openAPIV3Schema` may be served: it must be structural, its defaults valid, its rules affordable.

"Structural" means that the shape of an object (types, properties, items) stands outside of allOf, anyOf, oneOf and not,
which may only add restrictions: only then can unknown fields be pruned and defaults be filled in. Rules in CEL must
compile, and their estimated cost, times the number of values they can run for, must stay within budget.

After k8s.io/apiextensions-apiserver: pkg/apiserver/schema/{validation,complete}.go, schema/defaulting/validation.go
and pkg/apis/apiextensions/validation/{validation,cel_validation}.go, with their sentences.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from local.kube.causes import Cause, forbidden, invalid, not_supported, required
from local.kube.structural import prune
from local.kube.value_validation import compile_pattern, validate_value

Schema = dict[str, Any]

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_ROOT_FIELDS = ("apiVersion", "kind", "metadata")
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
# What may stand at the root next to a status subresource: the server validates the status on its own by taking
# `properties.status` out of the schema, which must not lose anything.
_NOT_AT_ROOT = ("additionalProperties", "allOf", "anyOf", "default", "enum", "not", "oneOf")
_ALLOWED_AT_ROOT = (
    "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern "
    "MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields "
    "XValidations]"
)
_REFUSED_KEYWORDS = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")


def validate_schema(schema: Schema, path: str, *, status_subresource: bool) -> list[Cause]:
    """Faults of a version's schema; `path` is where it stands in the definition."""
    causes = []
    if status_subresource and any(key in schema for key in _NOT_AT_ROOT):
        detail = (
            f"only {_ALLOWED_AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled"
        )
        causes.append(invalid(path, schema, detail))
    if schema.get("nullable"):
        causes.append(forbidden(f"{path}.nullable", "nullable cannot be true at the root"))
    structural = sorted({*_invariants(schema, path, "root"), *_complete(schema, schema, path, path)}, key=str)
    causes += structural
    if not structural:
        defaults = list(_check_defaults(schema, path, embedded=True))
        causes += defaults
        structural = defaults
    keywords = list(_check_keywords(schema, path, _Place(root=True)))
    causes += keywords
    if not structural and not keywords and _has_rules(schema):
        # The expression library takes longer to import than a server without CEL rules takes to start.
        from local.kube.cel.admission import validate_cel

        causes += validate_cel(schema, path)
    return causes


def _has_rules(schema: Schema) -> bool:
    return bool(schema.get("x-kubernetes-validations")) or any(_has_rules(child) for _, child in _children(schema))


def _children(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas that give the object its shape, with their path below this one."""
    for key, child in schema.get("properties", {}).items():
        yield f".properties[{key}]", child
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield f".{key}", schema[key]


def _junctors(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for key in ("allOf", "anyOf", "oneOf"):
        for index, child in enumerate(schema.get(key) or ()):
            yield f".{key}[{index}]", child
    if isinstance(schema.get("not"), dict):
        yield ".not", schema["not"]


# --- structure ----------------------------------------------------------------------------------------------------

_EMPTY_TYPE = {
    "root": "must not be empty at the root",
    "item": "must not be empty for specified array items",
    "field": "must not be empty for specified object fields",
}


def _invariants(schema: Schema, path: str, level: str) -> Iterator[Cause]:
    kind = schema.get("type", "")
    embedded = bool(schema.get("x-kubernetes-embedded-resource"))
    preserve = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    int_or_string = bool(schema.get("x-kubernetes-int-or-string"))
    if kind == "array" and "items" not in schema:
        yield required(f"{path}.items", "must be specified")
    for below, child in _children(schema):
        yield from _invariants(child, path + below, "item" if below == ".items" else "field")
    if "additionalProperties" in schema and level == "root":
        yield forbidden(f"{path}.additionalProperties", "must not be used at the root")
    if int_or_string and preserve:
        detail = "must be false if x-kubernetes-int-or-string is true"
        yield invalid(f"{path}.x-kubernetes-preserve-unknown-fields", True, detail)
    if int_or_string and embedded:
        detail = "must be false if x-kubernetes-int-or-string is true"
        yield invalid(f"{path}.x-kubernetes-embedded-resource", True, detail)
    yield from _restrictions(schema, path, top=True)
    if embedded and kind != "object":
        detail = "must be object if x-kubernetes-embedded-resource is true"
        yield invalid(f"{path}.type", kind, detail) if kind else required(f"{path}.type", detail)
    elif not kind and not int_or_string and not preserve:
        yield required(f"{path}.type", _EMPTY_TYPE[level])
    if embedded and "additionalProperties" in schema:
        detail = "must not be used if x-kubernetes-embedded-resource is set"
        yield forbidden(f"{path}.additionalProperties", detail)
    if embedded and not preserve and not schema.get("properties"):
        detail = (
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
        )
        yield required(f"{path}.properties", detail)
    if level == "root" and kind and kind != "object":
        yield invalid(f"{path}.type", kind, "must be object at the root")
    if level == "root" or embedded:
        yield from _root_properties(schema.get("properties", {}), path, level)


def _root_properties(properties: dict[str, Schema], path: str, level: str) -> Iterator[Cause]:
    for key in ("kind", "apiVersion"):
        if key in properties and properties[key].get("type") != "string":
            yield invalid(f"{path}.properties[{key}].type", properties[key].get("type", ""), "must be string")
    metadata = properties.get("metadata")
    if metadata is None:
        return
    if metadata.get("type") != "object":
        yield invalid(f"{path}.properties[metadata].type", metadata.get("type", ""), "must be object")
    only_names = set(metadata.get("properties", {})) <= {"name", "generateName"}
    if level == "root" and (set(metadata) - {"type", "properties", "default"} or not only_names):
        detail = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        yield forbidden(f"{path}.properties[metadata]", detail)


_FORBIDDEN_IN_JUNCTORS = {
    "type": "must be empty to be structural",
    "title": "must be empty to be structural",
    "description": "must be empty to be structural",
    "additionalProperties": "must be undefined to be structural",
    "default": "must be undefined to be structural",
    "externalDocs": "must be undefined to be structural",
    "nullable": "must be false to be structural",
    "x-kubernetes-preserve-unknown-fields": "must be false to be structural",
    "x-kubernetes-embedded-resource": "must be false to be structural",
    "x-kubernetes-int-or-string": "must be false to be structural",
    "x-kubernetes-list-map-keys": "must be empty to be structural",
    "x-kubernetes-list-type": "must be undefined to be structural",
    "x-kubernetes-map-type": "must be undefined to be structural",
    "x-kubernetes-validations": "must be empty to be structural",
}


def _restrictions(schema: Schema, path: str, *, top: bool = False, skip_any_of: bool = False) -> Iterator[Cause]:
    """What allOf, anyOf, oneOf and not may not contain. int-or-string may spell out its two types in anyOf."""
    all_of = schema.get("allOf") or []
    spelled_out = top and schema.get("anyOf") == _INT_OR_STRING
    for below, child in _junctors(schema):
        if below.startswith(".anyOf") and (spelled_out or skip_any_of):
            continue
        first = top and below == ".allOf[0]" and all_of[0].get("anyOf") == _INT_OR_STRING
        yield from _nested(child, path + below, skip_any_of=first)
    pattern = schema.get("pattern")
    if pattern:
        try:
            compile_pattern(pattern)
        except Exception as error:  # noqa: BLE001 - the RE2 binding raises several unrelated types
            detail = f"must be a valid regular expression, but isn't: error parsing regexp: {error}"
            yield invalid(f"{path}.pattern", pattern, detail)


def _nested(schema: Schema, path: str, *, skip_any_of: bool = False) -> Iterator[Cause]:
    yield from _restrictions(schema, path, skip_any_of=skip_any_of)
    if isinstance(schema.get("items"), dict):
        yield from _nested(schema["items"], f"{path}.items")
    for key, child in schema.get("properties", {}).items():
        yield from _nested(child, f"{path}.properties[{key}]")
    for key, detail in _FORBIDDEN_IN_JUNCTORS.items():
        if schema.get(key) or (key in ("default", "additionalProperties") and key in schema):
            yield forbidden(f"{path}.{key}", detail)
    if "metadata" in schema.get("properties", {}):
        yield forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _complete(value: Schema, shape: Schema, value_path: str, path: str) -> Iterator[Cause]:
    """Fields that only a junctor mentions: without a shape of their own they would be pruned."""
    for below, child in _junctors(value):
        yield from _complete_nested(child, shape, value_path + below, path)


def _complete_nested(value: Schema, shape: Schema, value_path: str, path: str) -> Iterator[Cause]:
    yield from _complete(value, shape, value_path, path)
    if isinstance(value.get("items"), dict):
        if isinstance(shape.get("items"), dict):
            yield from _complete_nested(value["items"], shape["items"], f"{value_path}.items", f"{path}.items")
        else:
            yield required(f"{path}.items", f"because it is defined in {value_path}.items")
    for key, child in value.get("properties", {}).items():
        below = f".properties[{key}]"
        if key in shape.get("properties", {}):
            yield from _complete_nested(child, shape["properties"][key], value_path + below, path + below)
        else:
            yield required(path + below, f"because it is defined in {value_path}{below}")


# --- defaults -----------------------------------------------------------------------------------------------------


def _check_defaults(schema: Schema, path: str, *, embedded: bool = False) -> Iterator[Cause]:
    """Defaults must be valid under their own schema and contain no unknown fields."""
    default = schema.get("default")
    if default is not None:
        wrapped = {"x": copy.deepcopy(default)}
        if prune({"properties": {"x": schema}}, wrapped):
            yield invalid(f"{path}.default", default, "must not have unknown fields")
        yield from validate_value(schema, default, path=f"{path}.default")
    for below, child in _children(schema):
        if below != ".additionalProperties" and not (embedded and below[12:-1] in _ROOT_FIELDS):
            yield from _check_defaults(child, path + below)


# --- keywords -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where in the schema a node stands, as far as rules depend on it."""

    root: bool = False
    in_metadata: bool = False
    no_default: str = ""  # why a default is not allowed here


def _check_keywords(schema: Schema, path: str, place: _Place) -> Iterator[Cause]:
    yield from _own_keywords(schema, path, place)
    for below, child in _children(schema):
        name = below[12:-1] if below.startswith(".properties[") else ""
        inner = _Place(in_metadata=place.in_metadata, no_default=place.no_default)
        if name in _ROOT_FIELDS and (place.root or schema.get("x-kubernetes-embedded-resource")):
            reason = f"in top-level {name}" if place.root else place.no_default
            inner = _Place(in_metadata=True, no_default=reason)
        elif below == ".additionalProperties" and place.in_metadata:
            inner = _Place(in_metadata=True, no_default="inside additionalProperties applying to object metadata")
        yield from _check_keywords(child, path + below, inner)
    for below, child in _junctors(schema):
        yield from _check_keywords(child, path + below, _Place(in_metadata=place.in_metadata))
    yield from _lists_and_maps(schema, path)


def _own_keywords(schema: Schema, path: str, place: _Place) -> Iterator[Cause]:
    kind = schema.get("type", "")
    if kind and kind not in _TYPES:
        yield not_supported(f"{path}.type", kind, _TYPES)
    if kind == "null":
        yield forbidden(f"{path}.type", "type cannot be set to null, use nullable as an alternative")
    if schema.get("default") is not None and place.no_default:
        yield forbidden(f"{path}.default", f"must not be set {place.no_default}")
    for key in _REFUSED_KEYWORDS:
        if schema.get(key):
            yield forbidden(f"{path}.{key}", f"{key} is not supported")
    if isinstance(schema.get("items"), list):
        yield forbidden(f"{path}.items", "items must be a schema object and not an array")
    if place.in_metadata and schema.get("x-kubernetes-embedded-resource"):
        yield forbidden(f"{path}.x-kubernetes-embedded-resource", "must not be used inside of resource meta")
    if schema.get("uniqueItems"):
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield forbidden(f"{path}.uniqueItems", detail)
    additional = schema.get("additionalProperties")
    if additional is not None and additional is not True and schema.get("properties"):
        detail = "additionalProperties and properties are mutual exclusive"
        yield forbidden(f"{path}.additionalProperties", detail)
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        yield invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")


def _must_be(kind: str, schema: Schema, path: str, mark: str) -> Iterator[Cause]:
    found = schema.get("type", "")
    if found != kind:
        detail = f"must be {kind} if {mark} is specified"
        yield invalid(f"{path}.type", found, detail) if found else required(f"{path}.type", detail)


def _lists_and_maps(schema: Schema, path: str) -> Iterator[Cause]:
    """`x-kubernetes-map-type`, `x-kubernetes-list-type` and the keys of map lists."""
    map_type, list_type = schema.get("x-kubernetes-map-type"), schema.get("x-kubernetes-list-type")
    keys, items = schema.get("x-kubernetes-list-map-keys") or [], schema.get("items")
    if map_type is not None:
        yield from _must_be("object", schema, path, "x-kubernetes-map-type")
        if map_type not in ("atomic", "granular"):
            yield not_supported(f"{path}.x-kubernetes-map-type", map_type, ["atomic", "granular"])
    if list_type is not None:
        yield from _must_be("array", schema, path, "x-kubernetes-list-type")
        if list_type not in ("atomic", "map", "set"):
            yield not_supported(f"{path}.x-kubernetes-list-type", list_type, ["atomic", "map", "set"])
    if keys and list_type != "map":
        detail = "must be map if x-kubernetes-list-map-keys is non-empty"
        where = f"{path}.x-kubernetes-list-type"
        yield invalid(where, list_type, detail) if list_type else required(where, detail)
    if not isinstance(items, dict) or list_type not in ("map", "set"):
        if list_type == "map" and not keys:
            detail = "must not be empty if x-kubernetes-list-type is map"
            yield required(f"{path}.x-kubernetes-list-map-keys", detail)
        return
    if items.get("nullable"):
        yield forbidden(f"{path}.items.nullable", f"cannot be nullable when x-kubernetes-list-type is {list_type}")
    if list_type == "set":
        yield from _set_items(items, path)
    else:
        yield from _map_items(items, keys, path)


def _set_items(items: Schema, path: str) -> Iterator[Cause]:
    detail = "must be atomic as item of a list with x-kubernetes-list-type=set"
    if items.get("type") == "array" and items.get("x-kubernetes-list-type", "atomic") != "atomic":
        yield invalid(f"{path}.items.x-kubernetes-list-type", items["x-kubernetes-list-type"], detail)
    if items.get("type") == "object" and items.get("x-kubernetes-map-type") != "atomic":
        yield invalid(f"{path}.items.x-kubernetes-map-type", items.get("x-kubernetes-map-type"), detail)


def _map_items(items: Schema, keys: list[str], path: str) -> Iterator[Cause]:
    where = f"{path}.x-kubernetes-list-map-keys"
    if not keys:
        yield required(where, "must not be empty if x-kubernetes-list-type is map")
    if items.get("type") != "object":
        detail = "must be object if parent array's x-kubernetes-list-type is map"
        yield invalid(f"{path}.items.type", items.get("type", ""), detail)
        return
    properties = items.get("properties", {})
    for index, key in enumerate(keys):
        if key in keys[:index]:
            yield invalid(where, keys, "must not contain duplicate entries")
        if key not in properties:
            yield invalid(where, keys, "entries must all be names of item properties")
            continue
        below = f"{path}.items.properties[{key}]"
        if properties[key].get("type") in ("array", "object"):
            detail = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            yield invalid(f"{below}.type", items["type"], detail)
        mark = "this property is in x-kubernetes-list-map-keys, so it"
        if key not in items.get("required", ()) and properties[key].get("default") is None:
            yield required(f"{below}.default", f"{mark} must have a default or be a required property")
        if properties[key].get("nullable"):
            yield forbidden(f"{below}.nullable", f"{mark} cannot be nullable")
