"""Objects in Kubernetes' protobuf encoding, read into the same plain data as JSON.

kubectl sends protobuf, without asking first, from the commands that use typed clients: `create secret`, `create
configmap`, `create namespace`, `create serviceaccount`. Only these kinds are read; answers are always JSON, which the
same clients accept. The encoding: four magic bytes, then a `runtime.Unknown` that names the kind and holds the object's
own message. Field numbers are those of `generated.proto` in k8s.io/api/core/v1 and k8s.io/apimachinery; they cannot change.

The messages are built from the table below at import, so that nothing has to be generated or kept in step.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from local.kube.bodies import BodyError

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

# k8s.io/apimachinery/pkg/runtime/serializer/protobuf: protoEncodingPrefix.
_MAGIC = b"k8s\x00"

# message -> field number -> (name, type). A type is a scalar or a message; `[]` marks a list, `{}` a map from strings,
# `?` a Go pointer: only there does a zero say something, because Go's encoder writes every other field, empty or not.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "TypeMeta": {1: ("apiVersion", "string"), 2: ("kind", "string")},
    "Unknown": {1: ("typeMeta", "TypeMeta"), 2: ("raw", "bytes")},
    "Time": {1: ("seconds", "int64"), 2: ("nanos", "int32")},
    "OwnerReference": {
        1: ("kind", "string"),
        3: ("name", "string"),
        4: ("uid", "string"),
        5: ("apiVersion", "string"),
        6: ("controller", "bool?"),
        7: ("blockOwnerDeletion", "bool?"),
    },
    "ObjectMeta": {
        1: ("name", "string"),
        2: ("generateName", "string"),
        3: ("namespace", "string"),
        5: ("uid", "string"),
        6: ("resourceVersion", "string"),
        7: ("generation", "int64"),
        8: ("creationTimestamp", "Time"),
        9: ("deletionTimestamp", "Time"),
        10: ("deletionGracePeriodSeconds", "int64?"),
        11: ("labels", "{}string"),
        12: ("annotations", "{}string"),
        13: ("ownerReferences", "[]OwnerReference"),
        14: ("finalizers", "[]string"),
    },
    "ConfigMap": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "{}string"),
        3: ("binaryData", "{}bytes"),
        4: ("immutable", "bool?"),
    },
    "Secret": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "{}bytes"),
        3: ("type", "string"),
        4: ("stringData", "{}string"),
        5: ("immutable", "bool?"),
    },
    "NamespaceSpec": {1: ("finalizers", "[]string")},
    "NamespaceStatus": {1: ("phase", "string")},
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "NamespaceStatus")},
    "LocalObjectReference": {1: ("name", "string")},
    "ObjectReference": {
        1: ("kind", "string"),
        2: ("namespace", "string"),
        3: ("name", "string"),
        4: ("uid", "string"),
        5: ("apiVersion", "string"),
        6: ("resourceVersion", "string"),
        7: ("fieldPath", "string"),
    },
    "ServiceAccount": {
        1: ("metadata", "ObjectMeta"),
        2: ("secrets", "[]ObjectReference"),
        3: ("imagePullSecrets", "[]LocalObjectReference"),
        4: ("automountServiceAccountToken", "bool?"),
    },
}
_KINDS = frozenset({("v1", "ConfigMap"), ("v1", "Secret"), ("v1", "Namespace"), ("v1", "ServiceAccount")})


class UnknownKindError(ValueError):
    """The object is of a kind that is read as JSON or YAML only."""


def to_json(body: bytes) -> bytes:
    """The object as a JSON document. Raises BodyError for malformed bytes, UnknownKindError for other kinds."""
    if not body.startswith(_MAGIC):
        raise BodyError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        envelope = _Plain.read("Unknown", body.removeprefix(_MAGIC))
        kind = envelope.get("typeMeta", {})
        api_version, name = kind.get("apiVersion", ""), kind.get("kind", "")
        if (api_version, name) not in _KINDS:
            raise UnknownKindError(f"{name or 'an object without kind'} in version {api_version!r}")
        return msgspec.json.encode({**kind, **_Plain.read(name, envelope.get("raw", b""))})
    except (DecodeError, UnicodeDecodeError, OverflowError, OSError) as error:
        raise BodyError(f"malformed protobuf: {error}") from None


_SCALARS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}
_PACKAGE = "local.kube"


def _bare(kind: str) -> str:
    return kind.removeprefix("[]").removeprefix("{}").removesuffix("?")


def _file() -> descriptor_pb2.FileDescriptorProto:
    """The table as a proto2 file; maps are what they are on the wire, lists of entries with a key and a value."""
    file = descriptor_pb2.FileDescriptorProto(name="local/kube/objects.proto", package=_PACKAGE, syntax="proto2")
    for entry, value in (("StringEntry", "string"), ("BytesEntry", "bytes")):
        _add_message(file, entry, {1: ("key", "string"), 2: ("value", value)})
    for name, fields in _MESSAGES.items():
        _add_message(file, name, fields)
    return file


def _add_message(file: descriptor_pb2.FileDescriptorProto, name: str, fields: dict[int, tuple[str, str]]) -> None:
    message = file.message_type.add(name=name)
    for number, (field_name, kind) in fields.items():
        field = message.field.add(name=field_name, number=number)
        repeated = kind.startswith(("[]", "{}"))
        field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        bare = f"{_bare(kind).title()}Entry" if kind.startswith("{}") else _bare(kind)
        if bare in _SCALARS:
            field.type = _SCALARS[bare]
        else:
            field.type = field.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{bare}"


class _Plain:
    """Reads one message of the table into dicts and lists."""

    _pool = descriptor_pool.DescriptorPool()
    _pool.Add(_file())

    @classmethod
    def read(cls, name: str, content: bytes) -> dict[str, Any]:
        """Raises DecodeError."""
        message = message_factory.GetMessageClass(cls._pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))()
        message.ParseFromString(content)
        return dict(_fields(name, message))


def _fields(name: str, message: Message) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        kind = _MESSAGES[name][field.number][1]
        if kind.startswith("{}"):
            plain: Any = {entry.key: entry.value for entry in value}
        elif kind.startswith("[]"):
            plain = [_value(_bare(kind), item) for item in value]
        else:
            plain = _value(_bare(kind), value)
        if plain or kind.endswith("?"):
            yield field.name, plain


def _value(kind: str, value: Any) -> Any:
    if kind == "Time":
        # The zero time of Go is written without its seconds.
        return datetime.fromtimestamp(value.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if value.seconds else None
    return dict(_fields(kind, value)) if kind in _MESSAGES else value
