"""CEL values at run time, and how JSON becomes them.

Booleans, strings, bytes, doubles, null, lists and maps are plain Python values, times are aware datetimes and
timedeltas (to the microsecond; Go's are to the nanosecond). Integers are cel-python's types, which know their range; its
time types are not used, because they drop fractions of a second. Objects are `ObjectValue`, dicts keyed by escaped
property names, so that a rule sees exactly the fields that its type declares. Lists that the schema calls sets or maps
compare and add as such.
"""

import base64
import binascii
import re
from datetime import datetime, timedelta
from typing import Any

from celpy.celtypes import IntType, UintType

from local.kube.cel.functions import CelError
from local.kube.cel.types import Schema, escape, is_resource_root, schema_type, with_root_fields
from local.kube.formats import is_date_time

__all__ = ["IntType", "UintType"]


class ObjectValue(dict[str, Any]):
    """An object with declared fields."""


class ListValue(list[Any]):
    """A list whose schema gives its items an identity: `set`, or `map` by `keys`."""

    def __init__(self, items: list[Any], kind: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(items)
        self.kind = kind
        self.keys = keys

    def identity(self, item: Any) -> Any:
        """What tells items apart."""
        if self.kind == "map" and isinstance(item, dict):
            return [item.get(key) for key in self.keys]
        return item


class TypeValue:
    """The value of `type(x)`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypeValue) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Optional:
    """A value that may be missing."""

    def __init__(self, value: Any = None, *, present: bool = True) -> None:
        self.value = value
        self.present = present


NONE = Optional(present=False)


class Opaque:
    """Base of values that only their own functions understand. `type_name` is that of their type."""

    type_name = ""


def to_cel(schema: Schema, value: Any, *, root: bool = False) -> Any:
    """A JSON value of `schema` as a CEL value. Raises CelError if it is not of its format or out of range.

    What is of another type is an error as a value: it fails the expression that looks at it, and no other.
    """
    if value is None:
        return None
    if schema.get("x-kubernetes-int-or-string"):
        return plain(value)
    if root:
        schema = with_root_fields(schema)
    kind = schema.get("type")
    if kind == "object" and isinstance(value, dict):
        return _object(schema, value)
    if kind == "array" and isinstance(value, list):
        return _list(schema, value)
    if kind == "string" and isinstance(value, str):
        return _string(schema.get("format"), value)
    if kind == "integer" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _in_range(value, whole=True)
    if kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _in_range(value, whole=False)
    if kind in _EXPECTED and not (kind == "boolean" and isinstance(value, bool)):
        return CelError(f"invalid data, expected {_EXPECTED[kind].format(_GO_TYPES.get(type(value), 'int64'))}")
    return plain(value)


# k8s.io/apiserver, pkg/cel/common: UnstructuredToVal, and Go's names of what JSON decodes to.
_EXPECTED = {
    "object": "a map for the provided schema with type=object",
    "array": "an array for the provided schema with type=array",
    "string": "string, got {}",
    "integer": "int, got {}",
    "number": "float, got {}",
    "boolean": "bool, got {}",
}
_GO_TYPES = {str: "string", bool: "bool", float: "float64", list: "[]interface {}", dict: "map[string]interface {}"}


def _in_range(value: float, *, whole: bool) -> Any:
    try:
        return IntType(int(value)) if whole else float(value)
    except (OverflowError, ValueError):
        raise CelError(f"{'integer' if whole else 'double'} out of range") from None


def _object(schema: Schema, value: dict[str, Any]) -> Any:
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        root = is_resource_root(additional)
        return {key: to_cel(additional, item, root=root) for key, item in value.items()}
    result = ObjectValue()
    for key, child in schema.get("properties", {}).items():
        escaped = escape(key)
        if key in value and escaped is not None and schema_type(child) is not None:
            result[escaped] = to_cel(child, value[key], root=is_resource_root(child))
    return result


def _list(schema: Schema, value: list[Any]) -> Any:
    items = schema.get("items") or {}
    converted = [to_cel(items, item, root=is_resource_root(items)) for item in value]
    kind = schema.get("x-kubernetes-list-type")
    if kind in ("set", "map"):
        keys = tuple(escape(key) or key for key in schema.get("x-kubernetes-list-map-keys", ()))
        return ListValue(converted, kind, keys)
    return converted


def _string(kind: str | None, value: str) -> Any:
    try:
        match kind:
            case "byte":
                return base64.b64decode(value, validate=True)
            case "duration":
                return parse_duration(value)
            case "date":
                return parse_timestamp(f"{value}T00:00:00Z")
            case "date-time":
                return parse_timestamp(value)
    except (ValueError, binascii.Error):
        raise CelError(f"Invalid {kind} {value!r}") from None
    return value


def plain(value: Any) -> Any:
    """JSON without a schema as CEL."""
    if isinstance(value, bool) or value is None or isinstance(value, (str, float)):
        return value
    if isinstance(value, int):
        # JSON numbers beyond the range of integers are decoded as doubles.
        return _in_range(value, whole=-(2**63) <= value < 2**63)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()}


_MICROSECONDS = {"ns": 0.001, "us": 1, "µs": 1, "μs": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6}
_DURATION = re.compile(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0)")
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> timedelta:
    """A duration in Go's syntax (`1h30m`). Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid duration {text!r}")
    total = sum(float(number) * _MICROSECONDS[unit] for number, unit in _DURATION_PART.findall(match[2]))
    return timedelta(microseconds=-total if match[1] == "-" else total)


def parse_timestamp(text: str) -> datetime:
    """An RFC 3339 timestamp. Raises ValueError."""
    if not is_date_time(text):
        raise ValueError(f"invalid timestamp {text!r}")
    return datetime.fromisoformat(text.upper())


def kind_of(value: Any) -> str:
    """The kind of type that a value is of."""
    if value is None:
        return "null"
    for python_type, kind in _KINDS:
        if isinstance(value, python_type):
            return kind
    raise CelError(f"unsupported value {value!r}")


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (UintType, "uint"),
    (int, "int"),
    (float, "double"),
    (str, "string"),
    (bytes, "bytes"),
    (ObjectValue, "object"),
    (dict, "map"),
    (list, "list"),
    (datetime, "timestamp"),
    (timedelta, "duration"),
    (TypeValue, "type"),
    (Optional, "optional"),
    (Opaque, "opaque"),
)


def equal(left: Any, right: Any) -> bool:
    """CEL equality: numbers by value whatever their type, other types only with their own, lists and maps deeply."""
    left_kind, right_kind = kind_of(left), kind_of(right)
    numbers = ("int", "uint", "double")
    if left_kind in numbers and right_kind in numbers:
        return bool(_number(left) == _number(right))
    if left_kind != right_kind and {left_kind, right_kind} != {"object", "map"}:
        return False
    if left_kind == "list":
        return _equal_lists(left, right)
    if left_kind in ("map", "object"):
        return len(left) == len(right) and all(key in right and equal(item, right[key]) for key, item in left.items())
    if left_kind == "optional":
        return bool(left.present == right.present and (not left.present or equal(left.value, right.value)))
    return bool(left == right)


def _number(value: Any) -> int | float:
    return int(value) if isinstance(value, int) else float(value)


def _equal_lists(left: list[Any], right: list[Any]) -> bool:
    if len(left) != len(right):
        return False
    if isinstance(left, ListValue) or isinstance(right, ListValue):
        return all(any(equal(item, other) for other in right) for item in left)
    return all(equal(a, b) for a, b in zip(left, right, strict=True))


def add_lists(left: list[Any], right: list[Any]) -> list[Any]:
    """Concatenation; for sets the union, for map lists a merge in which the right side wins."""
    if not isinstance(left, ListValue):
        return [*left, *right]
    result = list(left)
    for item in right:
        identity = left.identity(item)
        places = [index for index, other in enumerate(result) if equal(left.identity(other), identity)]
        if not places:
            result.append(item)
        elif left.kind == "map":
            result[places[0]] = item
    return ListValue(result, left.kind, left.keys)
