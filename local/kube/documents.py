"""From a request body to an object of the expected kind: decode, check the kind, prune, default, report unknown fields.

What a client sends and what a patch produces go through the same steps, so no path into the store skips one.
"""

from dataclasses import dataclass
from typing import Any

from local.kube import bodies, metadata, protobuf
from local.kube.builtin_schemas import builtin_schema
from local.kube.causes import TYPE_INVALID, go_quote, invalid
from local.kube.errors import ApiError, bad_request
from local.kube.resources import Resource
from local.kube.store import Object
from local.kube.structural import apply_defaults, prune, validate

STRICT, WARN, IGNORE = "Strict", "Warn", "Ignore"


@dataclass(frozen=True)
class Body:
    """A request body as it arrived."""

    content: bytes
    is_yaml: bool = False
    is_protobuf: bool = False

    def decode(self) -> Any:
        """Plain data. Raises bodies.BodyError."""
        if self.is_protobuf:
            try:
                return protobuf.decode(self.content)
            except protobuf.ProtobufError as error:
                raise bodies.BodyError(str(error)) from None
        return bodies.decode(self.content, is_yaml=self.is_yaml)

    def duplicates(self) -> list[str]:
        """Paths of keys that occur twice. The body must have decoded before."""
        return [] if self.is_protobuf else bodies.duplicate_fields(self.content, is_yaml=self.is_yaml)


@dataclass(frozen=True)
class Kind:
    """What a document has to say about itself."""

    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        """`v1`, or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version


def kind_of(resource: Resource, subresource: str = "") -> Kind:
    """The kind that a path expects."""
    below = resource.subresources.get(subresource)
    if below is not None and below.kind:
        return Kind(below.group, below.version, below.kind)
    return Kind(resource.group, resource.version, resource.kind)


def schema_of(resource: Resource) -> dict[str, Any]:
    """The schema of a resource, whoever defines it; empty when a custom resource has none."""
    if resource.custom:
        return resource.schema or {}
    return builtin_schema(resource.group, resource.version, resource.kind)


def unhandled(expected: Kind, why: str, found: Object | None = None) -> ApiError:
    """The 400 for a document that is not an object of the expected kind."""
    kind = found.get("kind", expected.kind) if found else expected.kind
    return bad_request(f'{kind} in version "{expected.version}" cannot be handled as a {expected.kind}: {why}')


def _other_kind(expected: Kind, found: Object) -> ApiError:
    """The 422 for a custom resource that says that it is something else: the server reads it and then judges it."""
    kind, meta = found["kind"], found.get("metadata")
    name = str(meta.get("name", "")) if isinstance(meta, dict) else ""
    cause = invalid("kind", kind, f"must be {expected.kind}")
    listed = {"field": cause.field, "reason": cause.reason, "message": cause.message}
    return ApiError(
        422,
        "Invalid",
        f"{kind}.{expected.group} {go_quote(name)} is invalid: {cause}",
        details={**({"name": name} if name else {}), "group": expected.group, "kind": kind, "causes": [listed]},
    )


def read_object(body: Body, expected: Kind) -> Object:
    """The document as an object that says it is of the expected kind. Raises ApiError 400."""
    try:
        raw = body.decode()
    except bodies.BodyError as error:
        if body.is_protobuf:
            raise bad_request(str(error)) from None
        raise _unrecognized(body, expected, f"couldn't get version/kind; json parse error: {error}") from None
    if not isinstance(raw, dict):
        kind = {list: "array", str: "string", bool: "bool", type(None): "null"}.get(type(raw), "number")
        raise _unrecognized(
            body,
            expected,
            f"couldn't get version/kind; json parse error: json: cannot unmarshal {kind} into Go value of type "
            'struct { APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }',
        )
    return raw


def _unrecognized(body: Body, expected: Kind, why: str) -> ApiError:
    content = body.content
    if not content:
        summary = "<empty>"
    elif content[:1] == b"{":
        summary = content[:30].decode(errors="replace") + (" ..." if len(content) > 30 else "")
    else:
        summary = content[:30].hex() + (" ..." if len(content) > 30 else "")
    return bad_request(f"the object provided is unrecognized (must be of type {expected.kind}): {why} ({summary})")


def check_kind(obj: Object, expected: Kind, *, custom: bool) -> None:
    """Fill in or verify `apiVersion` and `kind`, in place. Raises ApiError 400, or 422 for another custom kind."""
    for key in ("apiVersion", "kind"):
        if not isinstance(obj.get(key, ""), str):
            raise unhandled(
                expected, f"json: cannot unmarshal {key} into Go struct field TypeMeta.{key} of type string"
            )
    if custom and not obj.get("kind"):
        raise bad_request("Object 'Kind' is missing in the body of the request: set it to " + go_quote(expected.kind))
    obj["apiVersion"] = obj.get("apiVersion") or ("" if custom else expected.api_version)
    obj["kind"] = obj.get("kind") or expected.kind
    if obj["apiVersion"] != expected.api_version:
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({expected.api_version})"
        )
    if obj["kind"] != expected.kind:
        raise (
            _other_kind(expected, obj) if custom else unhandled(expected, f"unknown conversion from {obj['kind']}", obj)
        )


def canonical(resource: Resource, obj: Object, expected: Kind, *, partial: bool = False) -> list[str]:
    """Give the object the types and the shape of its schema, in place; returns the paths of fields it had to drop.

    A `partial` object (an applied configuration) gets no defaults: it claims only what it says. Raises ApiError 400 when a
    field has the wrong type.
    """
    try:
        obj["metadata"], unknown = metadata.decode(obj.get("metadata"))
    except metadata.DecodeError as error:
        raise unhandled(expected, str(error)) from None
    schema = schema_of(resource)
    if not resource.custom:
        _drop_nulls(obj)
    unknown += prune(schema, obj)
    if not resource.custom:
        _check_types(resource, obj, expected)
    if not partial:
        apply_defaults(schema, obj)
    return unknown


def _check_types(resource: Resource, obj: Object, expected: Kind) -> None:
    for cause in validate(schema_of(resource), obj, None):
        if cause.reason == TYPE_INVALID and "must be of type byte" in cause.message:
            raise unhandled(expected, f"illegal base64 data: {cause.field}")
        if cause.reason == TYPE_INVALID:
            raise unhandled(expected, f"json: cannot unmarshal {cause.field}: {cause.message}")


def _drop_nulls(value: Any) -> None:
    if isinstance(value, dict):
        for key in [key for key, item in value.items() if item is None]:
            del value[key]
        for item in value.values():
            _drop_nulls(item)
    elif isinstance(value, list):
        for item in value:
            _drop_nulls(item)


def report_unknown(expected: Kind, unknown: list[str], duplicates: list[str], validation: str) -> list[str]:
    """The warnings for dropped fields. Raises ApiError 400 when the client asked for strict decoding."""
    problems = [f'duplicate field "{path}"' for path in duplicates] + [f'unknown field "{path}"' for path in unknown]
    if validation == STRICT and problems:
        raise unhandled(expected, f"strict decoding error: {', '.join(problems)}")
    return problems if validation == WARN else []
