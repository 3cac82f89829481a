"""Generates the CustomResourceDefinition of DynamoModel from the types of `modelcache.api`.

`python -m modelcache.api.crd` prints it; `manifests/crd/` holds the result and a test compares the two, so that the types
and the CRD cannot drift. msgspec's own JSON schema is not used because the API server wants a structural schema: no
references, no `anyOf` with null.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec.inspect as inspection
import yaml

from modelcache.api.base import GROUP, KIND, PLURAL, VERSION
from modelcache.api.spec import SPEC_RULES, Spec
from modelcache.api.status import Status

PRINTER_COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "Total", "type": "integer", "jsonPath": ".status.totalEndpoints"},
    {"name": "Ready", "type": "integer", "jsonPath": ".status.readyEndpoints"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase", "priority": 1},
    {"name": "Nodes", "type": "string", "jsonPath": ".status.nodes.summary", "priority": 1},
    {"name": "Progress", "type": "string", "jsonPath": ".status.progress.summary", "priority": 1},
    {"name": "BaseModel", "type": "string", "jsonPath": ".spec.baseModelName", "priority": 1},
    {"name": "Type", "type": "string", "jsonPath": ".spec.modelType", "priority": 1},
    {"name": "Source", "type": "string", "jsonPath": ".spec.source.uri", "priority": 1},
    {"name": "Revision", "type": "string", "jsonPath": ".status.resolvedVersion", "priority": 1},
    {"name": "Size", "type": "string", "jsonPath": ".status.modelSize", "priority": 1},
    {"name": "Where", "type": "string", "jsonPath": ".status.nodes.where", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].message', "priority": 1},
)
"""What `kubectl get` prints is what the user guide of the Dynamo operator shows; all about the cache comes with `-o wide`."""


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as an object ready for `kubectl apply`."""
    spec = schema_of(Spec)
    spec["x-kubernetes-validations"] = list(SPEC_RULES)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "dynamo-model-cache"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["dm"],
                "categories": ["dynamo"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(PRINTER_COLUMNS),
                    "schema": {
                        "openAPIV3Schema": {
                            "description": "A model, cached on GPU nodes and tracked on the workers that serve it.",
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string", "description": "Version of this representation."},
                                "kind": {"type": "string", "description": f"Always {KIND}."},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": schema_of(Status),
                            },
                        }
                    },
                }
            ],
        },
    }


def schema_of(struct: type) -> dict[str, Any]:
    """Structural OpenAPI v3 schema of a msgspec Struct. Raises TypeError for a type that has no such form."""
    return _schema(inspection.type_info(struct))


def _schema(info: inspection.Type) -> dict[str, Any]:
    match info:
        case inspection.Metadata(type=inner, extra_json_schema=extra):
            schema = _schema(inner)
            schema.update(extra or {})
            if schema.get("x-kubernetes-preserve-unknown-fields"):
                schema.pop("additionalProperties", None)
            if schema.get("x-kubernetes-int-or-string"):
                schema.pop("type", None)
            return schema
        case inspection.UnionType(types=members):
            return _union([member for member in members if not isinstance(member, inspection.NoneType)])
        case inspection.StructType(cls=cls, fields=fields):
            return _struct(cls, fields)
        case inspection.StrType(min_length=low, max_length=high, pattern=pattern):
            return _present(type="string", minLength=low, maxLength=high, pattern=pattern)
        case inspection.BoolType():
            return {"type": "boolean"}
        case inspection.IntType(ge=low, le=high):
            return _present(type="integer", minimum=low, maximum=high)
        case inspection.LiteralType(values=values):
            return {"type": "string", "enum": list(values)}
        case inspection.VarTupleType(item_type=item, max_length=high):
            return _present(type="array", items=_schema(item), maxItems=high)
        case inspection.DictType(value_type=value, max_length=high):
            return _present(type="object", additionalProperties=_value_schema(value), maxProperties=high)
    raise TypeError(f"{info} has no structural schema")


def _union(members: list[inspection.Type]) -> dict[str, Any]:
    if len(members) == 1:
        return _schema(members[0])
    if {type(member) for member in members} == {inspection.StrType, inspection.IntType}:
        return {"x-kubernetes-int-or-string": True}
    raise TypeError(f"a union of {members} has no structural schema")


def _value_schema(info: inspection.Type) -> dict[str, Any] | bool:
    return True if isinstance(info, inspection.AnyType) else _schema(info)


def _struct(cls: type, fields: tuple[inspection.Field, ...]) -> dict[str, Any]:
    properties = {}
    for field in fields:
        schema = _schema(field.type)
        # A default of the types becomes a default of the API only where it says something to a reader of the object.
        if isinstance(field.default, str | bool) and field.default != "":
            schema["default"] = field.default
        properties[field.encode_name] = schema
    required = [field.encode_name for field in fields if field.required]
    description = (cls.__doc__ or "").strip().partition("\n")[0]
    return _present(type="object", description=description, required=required or None, properties=properties)


def _present(**items: Any) -> dict[str, Any]:
    return {key: value for key, value in items.items() if value is not None}


def render() -> str:
    """The CRD as YAML, with a note on where it comes from."""
    note = "# Generated from modelcache/api by `make crd`. Do not edit.\n"
    return note + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.stdout.write(render())
