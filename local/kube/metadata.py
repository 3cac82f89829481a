"""`metadata`: the same for every kind, so it is decoded, checked and compared in one place.

`decode` gives ObjectMeta its types (a label that is a number is a 400, not a stored object) and its canonical form
(no nulls, no empty maps); `validate` and `validate_update` hold the rules of
k8s.io/apimachinery/pkg/api/validation/objectmeta.go.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from local.kube import causes, names
from local.kube.causes import Cause

ORPHAN_FINALIZER = "orphan"
FOREGROUND_FINALIZER = "foregroundDeletion"

# k8s.io/apimachinery/pkg/api/validation: 256 KiB over all keys and values.
ANNOTATIONS_LIMIT = 256 * 1024

# What a client cannot set, at creation or ever.
_SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")


class DecodeError(ValueError):
    """A field of the metadata has the wrong type; the message is Go's."""


def timestamp(moment: datetime) -> str:
    """`metav1.Time`: RFC 3339 in UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_GO_TYPES: Mapping[type, str] = {
    str: "string",
    bool: "bool",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
}


def _mismatch(value: Any, field: str, wanted: str) -> DecodeError:
    return DecodeError(
        f"json: cannot unmarshal {_GO_TYPES.get(type(value), 'value')} into Go struct field "
        f"ObjectMeta.{field} of type {wanted}"
    )


def _string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _mismatch(value, field, "string")
    return value


def _integer(value: Any, field: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise _mismatch(value, field, "int64")
    return value


def _boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(value, field, "bool")
    return value


def _time(value: Any, field: str) -> str:
    text = _string(value, field)
    # The pattern first: fromisoformat() reads more forms than RFC 3339.
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text):
        try:
            parsed = datetime.fromisoformat(re.sub(r"\.\d+", "", text))
        except ValueError:
            pass
        else:
            return timestamp(parsed.astimezone(UTC))
    raise DecodeError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}" as "2006"')


def _string_map(value: Any, field: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _mismatch(value, field, "map[string]string")
    # A null value decodes to the zero value of its type.
    return {key: "" if item is None else _string(item, field) for key, item in value.items()}


def _string_list(value: Any, field: str) -> list[str]:
    if not isinstance(value, list):
        raise _mismatch(value, field, "[]string")
    return [_string(item, field) for item in value]


def _any_object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(value, field, "map[string]interface {}")
    return value


_Decoder = Callable[[Any, str], Any]
_OWNER_FIELDS: dict[str, _Decoder] = {
    "apiVersion": _string,
    "kind": _string,
    "name": _string,
    "uid": _string,
    "controller": _boolean,
    "blockOwnerDeletion": _boolean,
}
_MANAGED_FIELDS: dict[str, _Decoder] = {
    "manager": _string,
    "operation": _string,
    "apiVersion": _string,
    "time": _time,
    "fieldsType": _string,
    "fieldsV1": _any_object,
    "subresource": _string,
}


def _structs(fields: dict[str, _Decoder], type_name: str) -> _Decoder:
    def decode_list(value: Any, field: str) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise _mismatch(value, field, f"[]v1.{type_name}")
        return [_struct(item, field, fields, type_name) for item in value]

    return decode_list


def _struct(value: Any, field: str, fields: dict[str, _Decoder], type_name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(value, field, f"v1.{type_name}")
    return {key: decoder(value[key], f"{field}.{key}") for key, decoder in fields.items() if value.get(key) is not None}


_FIELDS: dict[str, _Decoder] = {
    "name": _string,
    "generateName": _string,
    "namespace": _string,
    "selfLink": _string,
    "uid": _string,
    "resourceVersion": _string,
    "generation": _integer,
    "creationTimestamp": _time,
    "deletionTimestamp": _time,
    "deletionGracePeriodSeconds": _integer,
    "labels": _string_map,
    "annotations": _string_map,
    "ownerReferences": _structs(_OWNER_FIELDS, "OwnerReference"),
    "finalizers": _string_list,
    "managedFields": _structs(_MANAGED_FIELDS, "ManagedFieldsEntry"),
}


def decode(raw: Any) -> tuple[dict[str, Any], list[str]]:
    """Canonical metadata, and the paths of unknown fields. Raises DecodeError."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise DecodeError(
            f"json: cannot unmarshal {_GO_TYPES.get(type(raw), 'value')} into Go struct field .metadata of type v1.ObjectMeta"
        )
    unknown = [f"metadata.{key}" for key in raw if key not in _FIELDS]
    metadata = {}
    for key, decoder in _FIELDS.items():
        value = raw.get(key)
        if value is None:
            continue
        value = decoder(value, f"metadata.{key}")
        # Go's omitempty; a grace period is a pointer, whose zero is a value, and an empty managedFields means "reset".
        if value or key in ("deletionGracePeriodSeconds", "managedFields"):
            metadata[key] = value
    for index, owner in enumerate(raw.get("ownerReferences") or ()):
        unknown += [f"metadata.ownerReferences[{index}].{key}" for key in owner if key not in _OWNER_FIELDS]
    return metadata, unknown


def without_system_fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a new object, without what only the server sets."""
    return {key: value for key, value in metadata.items() if key not in _SYSTEM_FIELDS}


def validate(metadata: Mapping[str, Any], *, namespaced: bool, name_check: names.NameCheck) -> list[Cause]:
    """What is wrong with the metadata of a new object whose name is final."""
    problems: list[Cause] = []
    prefix = metadata.get("generateName", "")
    # A prefix may end in "-": the suffix that follows makes it a name.
    if prefix:
        masked = prefix[:-1] + "a" if prefix.endswith("-") else prefix
        problems += [causes.invalid("metadata.generateName", prefix, problem) for problem in name_check(masked)]
    name = metadata.get("name", "")
    if not name:
        problems.append(causes.required("metadata.name", "name or generateName is required"))
    else:
        problems += [causes.invalid("metadata.name", name, problem) for problem in name_check(name)]
    namespace = metadata.get("namespace", "")
    if namespaced and namespace:
        problems += [causes.invalid("metadata.namespace", namespace, problem) for problem in names.dns_label(namespace)]
    elif namespaced:
        problems.append(causes.required("metadata.namespace"))
    elif namespace:
        problems.append(causes.forbidden("metadata.namespace", "not allowed on this type"))
    return problems + _validate_content(metadata)


def _validate_content(metadata: Mapping[str, Any]) -> list[Cause]:
    problems: list[Cause] = []
    if metadata.get("generation", 0) < 0:
        problems.append(
            causes.invalid("metadata.generation", metadata["generation"], "must be greater than or equal to 0")
        )
    for key, value in metadata.get("labels", {}).items():
        problems += [causes.invalid("metadata.labels", key, problem) for problem in names.qualified_name(key)]
        problems += [causes.invalid("metadata.labels", value, problem) for problem in names.label_value(value)]
    annotations = metadata.get("annotations", {})
    for key in annotations:
        problems += [
            causes.invalid("metadata.annotations", key, problem) for problem in names.qualified_name(key.lower())
        ]
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_LIMIT:
        problems.append(causes.too_long("metadata.annotations", ANNOTATIONS_LIMIT))
    return problems + _validate_owners(metadata.get("ownerReferences", [])) + _validate_finalizers(metadata)


def _validate_owners(owners: list[dict[str, Any]]) -> list[Cause]:
    path = "metadata.ownerReferences"
    problems: list[Cause] = []
    controller = ""
    for owner in owners:
        if not owner.get("apiVersion"):
            problems.append(causes.invalid(f"{path}.apiVersion", "", "version must not be empty"))
        for key in ("kind", "name", "uid"):
            if not owner.get(key):
                problems.append(causes.invalid(f"{path}.{key}", "", "must not be empty"))
        if (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Event"):
            problems.append(causes.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner"))
        if owner.get("controller"):
            current = f"{owner.get('kind')}/{owner.get('name')}"
            if controller:
                problems.append(
                    causes.invalid(
                        path,
                        owners,
                        'Only one reference can have Controller set to true. Found "true" in references for '
                        f"{controller} and {current}",
                    )
                )
            controller = controller or current
    return problems


def _validate_finalizers(metadata: Mapping[str, Any]) -> list[Cause]:
    finalizers = metadata.get("finalizers", [])
    problems = [
        causes.invalid("metadata.finalizers", finalizer, problem)
        for finalizer in finalizers
        for problem in names.qualified_name(finalizer)
    ]
    if ORPHAN_FINALIZER in finalizers and FOREGROUND_FINALIZER in finalizers:
        problems.append(
            causes.invalid(
                "metadata.finalizers",
                finalizers,
                f"finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set",
            )
        )
    return problems


def validate_update(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Cause]:
    """What is wrong with the metadata of an object that replaces one with metadata `old`."""
    problems: list[Cause] = []
    if "deletionTimestamp" in old:
        added = sorted(set(new.get("finalizers", [])) - set(old.get("finalizers", [])))
        if added:
            listed = ", ".join(causes.go_quote(finalizer) for finalizer in added)
            problems.append(
                causes.forbidden(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new finalizers "
                    f"[]string{{{listed}}}",
                )
            )
    for key in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if new.get(key) != old.get(key):
            problems.append(causes.invalid(f"metadata.{key}", new.get(key), "field is immutable"))
    return problems + _validate_content(new)
