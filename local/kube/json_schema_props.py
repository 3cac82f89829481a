"""The schema of schemas: what `openAPIV3Schema` of a CustomResourceDefinition may contain.

It contains itself (a property has a schema again), so the inlined form is a cyclic structure. Whoever walks it must
follow an object, or remember where it was. A field that is a schema or something else (`items`, `additionalProperties`)
is described as a schema without a type and an `anyOf` that names the alternatives.
"""

from typing import Any

from local.kube.structural import UNIQUE

Schema = dict[str, Any]

_DESCRIPTION = "A JSON schema, in the structural subset of OpenAPI v3."
_ANY_JSON: Schema = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}

# k8s.io/apiextensions-apiserver: pkg/apis/apiextensions/v1, JSONSchemaProps
_SCALARS: dict[str, tuple[str, ...]] = {
    "boolean": (
        "exclusiveMaximum",
        "exclusiveMinimum",
        "nullable",
        "uniqueItems",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
    ),
    "integer": ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"),
    "number": ("maximum", "minimum", "multipleOf"),
    "string": (
        "$ref",
        "$schema",
        "description",
        "format",
        "id",
        "pattern",
        "title",
        "type",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
    ),
}
_FORMATS = {"integer": "int64", "number": "double"}
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf")
_MAPS_OF_SCHEMAS = ("definitions", "patternProperties", "properties")
_RULE = {
    "boolean": ("optionalOldSelf",),
    "string": ("fieldPath", "message", "messageExpression", "reason", "rule"),
}


def json_schema_props(reference: Schema | None = None) -> Schema:
    """The schema of JSONSchemaProps. With a `reference` to itself it is flat, as published; without, it is cyclic."""
    properties: dict[str, Schema] = {}
    whole: Schema = {"type": "object", "description": _DESCRIPTION, "properties": properties}
    nested = reference or whole

    def alternative(other: Schema) -> Schema:
        kind = other["type"]
        if reference:
            return {"description": f"A schema, or a value of type {kind}."}
        either: Schema = {**other, "properties": properties, "anyOf": [{"type": "object"}, {"type": kind}]}
        del either["type"]
        return either

    for kind, names in _SCALARS.items():
        properties |= {name: _scalar(kind) for name in names}
    properties |= {name: _list_of(nested) for name in _LISTS_OF_SCHEMAS}
    properties |= {name: {"type": "object", "additionalProperties": nested} for name in _MAPS_OF_SCHEMAS}
    properties |= dict.fromkeys(("default", "example"), _ANY_JSON)
    properties |= {
        "additionalItems": alternative(_scalar("boolean")),
        "additionalProperties": alternative(_scalar("boolean")),
        "dependencies": {"type": "object", "additionalProperties": alternative(_list_of(_scalar("string")))},
        "enum": _list_of(_ANY_JSON),
        "externalDocs": _object_of(_scalar("string"), ("description", "url")),
        "items": alternative(_list_of(nested)),
        "not": nested,
        "required": _list_of(_scalar("string")),
        "x-kubernetes-list-map-keys": _list_of(_scalar("string")),
        "x-kubernetes-validations": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["rule"],
            "items": {
                "type": "object",
                "description": "A rule in CEL.",
                "properties": {name: _scalar(kind) for kind, names in _RULE.items() for name in names},
            },
        },
    }
    if not reference:
        properties["x-kubernetes-validations"][UNIQUE] = False
    return whole


def _scalar(kind: str) -> Schema:
    return {"type": kind, "format": _FORMATS[kind]} if kind in _FORMATS else {"type": kind}


def _list_of(item: Schema) -> Schema:
    return {"type": "array", "x-kubernetes-list-type": "atomic", "items": item}


def _object_of(value: Schema, names: tuple[str, ...]) -> Schema:
    return {"type": "object", "properties": dict.fromkeys(names, value)}
