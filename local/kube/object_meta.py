"""The schema of ObjectMeta and of the fields that every object has, which no CRD may redefine.

It is written out instead of being derived from the Python client, because it is needed for every request and the
client's import alone takes longer than the server's whole start.
"""

from typing import Any

Schema = dict[str, Any]


def _string(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


_STRING_MAP: Schema = {"type": "object", "additionalProperties": {"type": "string"}}

OWNER_REFERENCE: Schema = {
    "type": "object",
    "description": "An object that owns this one, in the same namespace or cluster-scoped.",
    "required": ["apiVersion", "kind", "name", "uid"],
    "properties": {
        "apiVersion": _string("API version of the owner."),
        "blockOwnerDeletion": {
            "type": "boolean",
            "description": "Keeps the owner in foreground deletion until this reference is gone.",
        },
        "controller": {"type": "boolean", "description": "True for the one owner that manages this object."},
        "kind": _string("Kind of the owner."),
        "name": _string("Name of the owner."),
        "uid": _string("UID of the owner."),
    },
    "x-kubernetes-map-type": "atomic",
}

MANAGED_FIELDS_ENTRY: Schema = {
    "type": "object",
    "description": "The fields that one manager set with one operation.",
    "properties": {
        "apiVersion": _string("Version of the resource that the field set is written in."),
        "fieldsType": _string('Format of the field set; always "FieldsV1".'),
        "fieldsV1": {
            "type": "object",
            "description": "The field set as a trie.",
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "manager": _string("Name of the workflow that manages the fields."),
        "operation": _string("Apply or Update."),
        "subresource": _string("Subresource through which the fields were set; empty for the main one."),
        "time": _string("When the entry was added or last changed.", format="date-time"),
    },
}

OBJECT_META: Schema = {
    "type": "object",
    "description": "Metadata that every persisted object has.",
    "properties": {
        "annotations": {
            **_STRING_MAP,
            "description": "Free key-value data for tools; cannot be selected by.",
        },
        "creationTimestamp": _string("When the server created the object.", format="date-time"),
        "deletionGracePeriodSeconds": {
            "type": "integer",
            "format": "int64",
            "description": "Seconds the object may take to terminate; set together with deletionTimestamp.",
        },
        "deletionTimestamp": _string("When the object was asked to go; set by the server.", format="date-time"),
        "finalizers": {
            "type": "array",
            "description": "Names that must be removed, each by its owner, before the object disappears.",
            "items": {"type": "string"},
            "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge",
        },
        "generateName": _string("Prefix from which the server makes a unique name when `name` is empty."),
        "generation": {
            "type": "integer",
            "format": "int64",
            "description": "Number of the desired state; grows with every change of it.",
        },
        "labels": {**_STRING_MAP, "description": "Key-value pairs to select objects by."},
        "managedFields": {
            "type": "array",
            "description": "Who manages which fields; kept by the server.",
            "items": MANAGED_FIELDS_ENTRY,
            "x-kubernetes-list-type": "atomic",
        },
        "name": _string("Unique name within the namespace; cannot change."),
        "namespace": _string("Namespace of the object; empty for cluster-scoped kinds."),
        "ownerReferences": {
            "type": "array",
            "description": "Objects this one depends on; it is deleted when all of them are gone.",
            "items": OWNER_REFERENCE,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "x-kubernetes-patch-merge-key": "uid",
            "x-kubernetes-patch-strategy": "merge",
        },
        "resourceVersion": _string("Opaque version of the stored object, for optimistic locking and watches."),
        "selfLink": _string("No longer filled in."),
        "uid": _string("Identity of this one object over time, set by the server."),
    },
}

API_VERSION: Schema = _string("Version of the schema of this object, as group/version.")
KIND: Schema = _string("Kind of the object, in CamelCase.")

# What stays at the root of every object and of every embedded resource, whatever its schema says.
ROOT_FIELDS = ("apiVersion", "kind", "metadata")
