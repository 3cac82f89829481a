"""OpenAPI v3 schemas of the built-in kinds, derived from the models of the official Python client.

The models know every field, its JSON name and its type; what they have lost on their way from the API (merge keys,
defaults, enums) comes from `builtin_overlay`. Descriptions are short: our own for the kinds, the field's name in words
for the rest; they are there so that `kubectl explain` has something to show.

Nothing is imported or built before the first question (the client's import and all models take about half a second),
and everything is kept afterwards. Callers must treat the schemas as read-only: parts of them are shared.

Two forms exist. `component_schemas` is what `/openapi` publishes: one schema per model, joined by `$ref`.
`builtin_schema` is what objects are judged by: the same inlined, where `required` names only what the server insists on
and other fields without `omitempty` in Go get their zero value as a default.
"""

import re
from functools import cache
from typing import Any

from local.kube import builtin_overlay as overlay
from local.kube.json_schema_props import json_schema_props
from local.kube.object_meta import API_VERSION, KIND, OBJECT_META
from local.kube.structural import UNIQUE
from local.kube.value_validation import EMPTY_BYTES

Schema = dict[str, Any]

META_PREFIX = "io.k8s.apimachinery.pkg.apis.meta.v1"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"

# Component prefix per group, as the real server names them.
GROUP_PREFIX = {
    "": "io.k8s.api.core.v1",
    "admissionregistration.k8s.io": "io.k8s.api.admissionregistration.v1",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "apps": "io.k8s.api.apps.v1",
    "authentication.k8s.io": "io.k8s.api.authentication.v1",
    "authorization.k8s.io": "io.k8s.api.authorization.v1",
    "autoscaling": "io.k8s.api.autoscaling.v1",
    "coordination.k8s.io": "io.k8s.api.coordination.v1",
    "discovery.k8s.io": "io.k8s.api.discovery.v1",
    "events.k8s.io": "io.k8s.api.events.v1",
    "networking.k8s.io": "io.k8s.api.networking.v1",
    "policy": "io.k8s.api.policy.v1",
    "rbac.authorization.k8s.io": "io.k8s.api.rbac.v1",
}

# The served kinds in the order in which groups claim the models they share: core first.
_KINDS: dict[str, tuple[str, ...]] = {
    "": (
        "Pod",
        "Node",
        "Namespace",
        "Service",
        "Endpoints",
        "ConfigMap",
        "Secret",
        "ServiceAccount",
        "Event",
        "PersistentVolumeClaim",
        "PersistentVolume",
        "Binding",
    ),
    "apps": ("DaemonSet", "Deployment"),
    "autoscaling": ("Scale",),
    "authentication.k8s.io": ("SelfSubjectReview", "TokenReview", "TokenRequest"),
    "authorization.k8s.io": (
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview",
        "SelfSubjectRulesReview",
        "SubjectAccessReview",
    ),
    "coordination.k8s.io": ("Lease",),
    "discovery.k8s.io": ("EndpointSlice",),
    "events.k8s.io": ("Event",),
    "networking.k8s.io": ("NetworkPolicy",),
    "policy": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io": ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"),
    "admissionregistration.k8s.io": ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    "apiextensions.k8s.io": ("CustomResourceDefinition",),
}

# Models whose name in the client says the group because two groups have one of that name.
_MODEL_OF = {
    ("", "Event"): "CoreV1Event",
    ("events.k8s.io", "Event"): "EventsV1Event",
    ("authentication.k8s.io", "TokenRequest"): "AuthenticationV1TokenRequest",
}
_GROUP_MARK = re.compile(
    r"^(?:Core|Events|Discovery|Rbac|Apiextensions|Admissionregistration|Authentication|Storage)?V1(?=[A-Z])"
)
_MODEL_NAME = re.compile(r"[A-Za-z]*V\d\w*")
_ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}


def component_name(group: str, kind: str) -> str:
    """`io.k8s.api.core.v1.Pod` for ("", "Pod")."""
    return f"{GROUP_PREFIX[group]}.{kind}"


def builtin_schema(group: str, version: str, kind: str) -> Schema:
    """The schema of a built-in kind with everything inlined. Read-only.

    Raises KeyError for a kind that is not built in.
    """
    if version != "v1" or kind not in _KINDS.get(group, ()):
        raise KeyError(f"{group}/{version} {kind} is not a built-in kind")
    return _inlined(_model_name(group, kind))


@cache
def component_schemas() -> dict[str, Schema]:
    """All published components by name, joined by `$ref: #/components/schemas/...`. Read-only."""
    components = {_owners()[model]: _published(model) for model in _owners() if model not in _SPECIAL}
    components[f"{META_PREFIX}.ObjectMeta"] = OBJECT_META
    components[f"{META_PREFIX}.ListMeta"] = {
        "type": "object",
        "description": "Metadata of a list.",
        "properties": {
            "continue": {"type": "string", "description": "Token for the next page; empty on the last."},
            "remainingItemCount": {
                "type": "integer",
                "format": "int64",
                "description": "How many items follow after this page.",
            },
            "resourceVersion": {"type": "string", "description": "Version of the collection, to watch from."},
            "selfLink": {"type": "string", "description": "No longer filled in."},
        },
    }
    schemas = _owners()["V1JSONSchemaProps"]
    components[schemas] = json_schema_props(_reference(schemas))
    components[f"{META_PREFIX}.Patch"] = {
        "type": "object",
        "description": "A patch, in the format of its content type.",
    }
    components[INT_OR_STRING] = {
        "description": "A number or a string, mostly a percentage or the name of a port.",
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    }
    components[QUANTITY] = {
        "description": "A fixed-point number with a unit, such as 100m, 1.5Gi or 2e3.",
        "oneOf": [{"type": "string"}, {"type": "number"}],
    }
    return components


# Models with a schema of our own.
_SPECIAL: dict[str, Schema] = {"V1ObjectMeta": OBJECT_META, "V1JSONSchemaProps": json_schema_props()}


def _model_name(group: str, kind: str) -> str:
    return _MODEL_OF.get((group, kind), f"V1{kind}")


def _model(name: str) -> Any:
    from kubernetes.client import models

    return getattr(models, name)


def _short(model: str) -> str:
    """The key of the overlay tables: the model's name without a leading V1."""
    return model.removeprefix("V1")


@cache
def _owners() -> dict[str, str]:
    """Component name of every model in use. A model belongs to the first group that reaches it, as in k8s.io/api."""
    owners: dict[str, str] = {}
    for group, kinds in _KINDS.items():
        pending = [_model_name(group, kind) for kind in kinds]
        if not group:
            pending += ["V1DeleteOptions", "V1Status"]
        while pending:
            model = pending.pop()
            if model in owners:
                continue
            bare = _GROUP_MARK.sub("", model)
            prefix = META_PREFIX if bare in overlay.META_MODELS else GROUP_PREFIX[group]
            owners[model] = f"{prefix}.{bare}"
            if model not in _SPECIAL:
                pending += [name for kind in _model(model).openapi_types.values() for name in _MODEL_NAME.findall(kind)]
    return owners


@cache
def _inlined(model: str) -> Schema:
    if model in _SPECIAL:
        return _SPECIAL[model]
    schema = _object_schema(model, inline=True)
    required = [field for field in schema.pop("required", ()) if f"{_short(model)}.{field}" in overlay.REQUIRED]
    if required:
        schema["required"] = required
    return schema


@cache
def _published(model: str) -> Schema:
    return _object_schema(model, inline=False)


def _object_schema(model: str, *, inline: bool) -> Schema:
    cls, short = _model(model), _short(model)
    fields = {field.serialization_alias or name: field for name, field in cls.model_fields.items()}
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for attribute, type_name in sorted(cls.openapi_types.items(), key=lambda item: cls.attribute_map[item[0]]):
        name = cls.attribute_map[attribute]
        if name in ("apiVersion", "kind") and "metadata" in cls.attribute_map:
            properties[name] = API_VERSION if name == "apiVersion" else KIND
            continue
        properties[name] = _field_schema(f"{short}.{name}", name, type_name, fields[name], inline=inline)
        if fields[name].is_required():
            required.append(name)
            if inline and f"{short}.{name}" not in overlay.REQUIRED:
                _default_to_zero(properties[name])
    schema: Schema = {
        "type": "object",
        "description": overlay.DESCRIPTIONS.get(short, f"{_words(_GROUP_MARK.sub('', model))}."),
        "properties": properties,
    }
    if required:
        schema["required"] = required
    if short in overlay.ATOMIC_MODELS:
        schema["x-kubernetes-map-type"] = "atomic"
    return schema


def _default_to_zero(schema: Schema) -> None:
    """Give a field without `omitempty` the zero value that Go writes. Lists and maps stay absent (Go writes null)."""
    zero = {"string": "", "integer": 0, "boolean": False}.get(schema.get("type", ""))
    if schema.get("properties"):
        zero = {}
    if zero is not None and schema.get("format") != "date-time":
        schema.setdefault("default", zero)


def _field_schema(key: str, name: str, type_name: str, field: Any, *, inline: bool) -> Schema:
    schema = _type_schema(key, name, type_name, field, inline=inline)
    schema.setdefault("description", f"{_words(name)}.")
    if key in overlay.DEFAULTS:
        schema["default"] = overlay.DEFAULTS[key]
    if key in overlay.ENUMS:
        schema["enum"] = overlay.ENUMS[key]
    if type_name.startswith("List["):
        _mark_list(schema, key)
        if inline and schema["x-kubernetes-list-type"] != "atomic":
            schema[UNIQUE] = overlay.UNIQUE.get(key, False)
        if inline and key in overlay.NULL_AT_FIRST:
            schema["nullable"] = True
    if key in overlay.ATOMIC_MAPS:
        schema["x-kubernetes-map-type"] = "atomic"
    if key in overlay.RETAIN_KEYS and not type_name.startswith("List["):
        schema["x-kubernetes-patch-strategy"] = "retainKeys"
    return schema


def _mark_list(schema: Schema, key: str) -> None:
    """The `x-kubernetes-*` marks of a list: how apply and strategic merge patch tell its items apart."""
    if key in overlay.MAP_LISTS:
        keys, merge_key = overlay.MAP_LISTS[key]
        schema["x-kubernetes-list-type"] = "map"
        schema["x-kubernetes-list-map-keys"] = list(keys)
        if merge_key:
            schema["x-kubernetes-patch-merge-key"] = merge_key
            schema["x-kubernetes-patch-strategy"] = "merge,retainKeys" if key in overlay.RETAIN_KEYS else "merge"
    elif key in overlay.SET_LISTS:
        schema["x-kubernetes-list-type"] = "set"
        if key in overlay.MERGED_SETS:
            schema["x-kubernetes-patch-strategy"] = "merge"
    else:
        schema["x-kubernetes-list-type"] = "atomic"


def _type_schema(key: str, name: str, type_name: str, field: Any, *, inline: bool) -> Schema:
    outer, _, inner = type_name.removesuffix("]").partition("[")
    if outer == "List":
        return {"type": "array", "items": _type_schema(key, name, inner, field, inline=inline)}
    if outer == "Dict":
        values = inner.partition(",")[2].strip()
        if values == "object":
            return dict(_ANYTHING, type="object")
        return {"type": "object", "additionalProperties": _type_schema(key, name, values, field, inline=inline)}
    if key in overlay.QUANTITIES:
        return {"x-kubernetes-int-or-string": True} if inline else _reference(QUANTITY)
    if type_name == "object":
        if "int" in str(field.annotation) and "str" in str(field.annotation):
            return {"x-kubernetes-int-or-string": True} if inline else _reference(INT_OR_STRING)
        return dict(_ANYTHING, type="object") if name == "status" else dict(_ANYTHING)
    if type_name in _SCALARS:
        schema = dict(_SCALARS[type_name])
        if type_name == "int":
            schema["format"] = "int64" if name in overlay.INT64_FIELDS else "int32"
        if inline and schema.get("format") == "byte":
            schema[EMPTY_BYTES] = True
        return schema
    if inline:
        # Shallow: the caller adds its own default or description next to the shared properties.
        return dict(_inlined(type_name))
    return _reference(_owners()[type_name])


_SCALARS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
    "datetime": {"type": "string", "format": "date-time"},
}


def _reference(component: str) -> Schema:
    # A sibling of $ref is ignored in OpenAPI v3.0, hence the allOf, as in the real server's documents.
    return {"allOf": [{"$ref": f"#/components/schemas/{component}"}]}


def _words(name: str) -> str:
    """`terminationGracePeriodSeconds` -> `Termination grace period seconds`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", name)).split()
    text = " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in words)
    return text[:1].upper() + text[1:]
