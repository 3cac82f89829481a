"""CEL types, and how an OpenAPI schema becomes one.

A type made from a schema also carries bounds: the most elements (items, entries, characters) that a value can have, and
the fewest bytes of JSON that it takes. Where the schema gives no bound, the size of a request does: a list in a request
of 3 MiB cannot have more items than fit. These bounds decide what a rule may cost at most, so they follow
k8s.io/apiserver, pkg/cel/common/schemas.go and limits.go to the letter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]

# k8s.io/apiserver, pkg/cel/limits.go
MAX_REQUEST_BYTES = 3 * 1024 * 1024
_MAX_TIME_TEXT = 32
_DATE_TEXT = 12
_MIN_DATE_TIME_TEXT = 21
_MIN_DURATION_TEXT = 3
_MIN_STRING, _MIN_BOOL, _MIN_NUMBER = 2, 4, 1


@dataclass(frozen=True, eq=False)
class Type:
    """A CEL type. Compare with `same`; two types made from schemas are the same only if they are identical objects.

    `params` are the element type of a list or optional, key and value of a map. `fields` belong to `object` types.
    `name` tells objects, opaque types and type variables apart. The bounds are described in the module.
    """

    kind: str
    params: tuple["Type", ...] = ()
    name: str = ""
    fields: Mapping[str, "Type"] = field(default_factory=dict)
    max_elements: int = 0
    min_size: int = 0

    def __str__(self) -> str:
        if self.kind in ("object", "opaque", "var"):
            return self.name
        if self.kind == "type" and self.params:
            return f"type({self.params[0]})"
        inner = ", ".join(map(str, self.params))
        name = _SHOWN_NAMES.get(self.kind, self.kind)
        return f"{name}({inner})" if inner else name


_SHOWN_NAMES = {
    "null": "null",
    "timestamp": "google.protobuf.Timestamp",
    "duration": "google.protobuf.Duration",
    "optional": "optional_type",
}

# Types without a schema have no bound: in the real server that is 0, not infinity, and so are keys of maps.
DYN = Type("dyn")
# The element type of `[]` and `{}`: fits everything, and yields to any other type.
UNBOUND = Type("unbound")
ERROR = Type("error")
BOOL = Type("bool", min_size=_MIN_BOOL)
INT = Type("int", min_size=_MIN_NUMBER)
UINT = Type("uint", min_size=_MIN_NUMBER)
DOUBLE = Type("double", min_size=_MIN_NUMBER)
STRING = Type("string", min_size=_MIN_STRING)
BYTES = Type("bytes", min_size=_MIN_STRING)
NULL = Type("null")
TIMESTAMP = Type("timestamp", max_elements=_MAX_TIME_TEXT, min_size=_MIN_DATE_TIME_TEXT)
DURATION = Type("duration", max_elements=_MAX_TIME_TEXT, min_size=_MIN_DURATION_TEXT)
TYPE = Type("type")


def list_of(element: Type) -> Type:
    """The type of lists of `element`."""
    return Type("list", (element,))


def map_of(key: Type, value: Type) -> Type:
    """The type of maps."""
    return Type("map", (key, value))


def optional_of(value: Type) -> Type:
    """The type of a value that may be missing."""
    return Type("optional", (value,))


def opaque(name: str) -> Type:
    """A type whose values only its own functions understand (URL, Quantity)."""
    return Type("opaque", name=name)


def same(left: Type, right: Type) -> bool:
    """Whether two types are equal."""
    if left is right:
        return True
    if left.kind != right.kind or left.kind == "object" or left.name != right.name:
        return False
    return len(left.params) == len(right.params) and all(map(same, left.params, right.params))


# Identifiers that cannot follow a dot in CEL, or would be ambiguous.
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
    ]
)
_IDENTIFIER = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))


def escape(name: str) -> str | None:
    """How a property is written in an expression (`x-prop` -> `x__dash__prop`), or None if it cannot be."""
    if name in _RESERVED:
        return f"__{name}__"
    for plain, escaped in _ESCAPES:
        name = name.replace(plain, escaped)
    return name if _IDENTIFIER.match(name) else None


_ROOT_STRING: Schema = {"type": "string"}
_ROOT_METADATA: Schema = {"type": "object", "properties": {"name": _ROOT_STRING, "generateName": _ROOT_STRING}}


def with_root_fields(schema: Schema) -> Schema:
    """The schema of a resource's root: apiVersion, kind, metadata.name and generateName can always be read."""
    fields = {"apiVersion": _ROOT_STRING, "kind": _ROOT_STRING, "metadata": _ROOT_METADATA}
    return {**schema, "properties": {**schema.get("properties", {}), **fields}}


def is_resource_root(schema: Schema) -> bool:
    """Whether this schema is the root of an object within the object."""
    return bool(schema.get("x-kubernetes-embedded-resource"))


def schema_type(schema: Schema, *, root: bool = False, name: str = "selfType") -> Type | None:
    """The CEL type of values of `schema`, or None when rules cannot see them (no type, or unknown fields only)."""
    if schema.get("x-kubernetes-int-or-string"):
        return Type("dyn", max_elements=_string_bound(schema), min_size=1)
    if root:
        schema = with_root_fields(schema)
    match schema.get("type"):
        case "array":
            return _array_type(schema, name)
        case "object":
            return _map_type(schema, name) if schema.get("additionalProperties") else _object_type(schema, name)
        case "string":
            return _string_type(schema)
        case "boolean":
            return BOOL
        case "number":
            return DOUBLE
        case "integer":
            return INT
    return None


def _array_type(schema: Schema, name: str) -> Type | None:
    items = schema.get("items")
    element = schema_type(items, root=is_resource_root(items), name=f"{name}.@idx") if items else None
    if element is None:
        return None
    # Without a bound: as many of the smallest possible items as fit into a request, with [, ] and commas.
    fitting = (MAX_REQUEST_BYTES - 2) // (element.min_size + 1)
    return Type("list", (element,), max_elements=max(0, schema.get("maxItems", fitting)), min_size=2)


def _map_type(schema: Schema, name: str) -> Type | None:
    values = schema["additionalProperties"]
    if not isinstance(values, dict):
        return None
    value = schema_type(values, root=is_resource_root(values), name=f"{name}.@elem")
    if value is None:
        return None
    # An entry has at least a quoted key, a colon and a comma next to its value.
    fitting = (MAX_REQUEST_BYTES - 2) // (value.min_size + 6)
    return Type("map", (STRING, value), max_elements=max(0, schema.get("maxProperties", fitting)), min_size=2)


def _object_type(schema: Schema, name: str) -> Type:
    fields: dict[str, Type] = {}
    required = schema.get("required", ())
    min_size = 2
    for key, child in schema.get("properties", {}).items():
        child_type = schema_type(child, root=is_resource_root(child), name=f"{name}.{key}")
        if child_type is None:
            continue
        escaped = escape(key)
        if escaped is not None:
            fields[escaped] = child_type
        if key in required and child.get("default") is None:
            min_size += len(key) + child_type.min_size + 4
    return Type("object", name=name, fields=fields, min_size=min_size)


def _string_type(schema: Schema) -> Type:
    match schema.get("format"):
        case "byte":
            bound = schema.get("maxLength", MAX_REQUEST_BYTES - 2)
            return Type("bytes", max_elements=max(0, bound), min_size=_MIN_STRING)
        case "duration":
            return DURATION
        case "date":
            return Type("timestamp", max_elements=_DATE_TEXT, min_size=_DATE_TEXT)
        case "date-time":
            return TIMESTAMP
    return Type("string", max_elements=_string_bound(schema), min_size=_MIN_STRING)


def _string_bound(schema: Schema) -> int:
    if "maxLength" in schema:
        return 4 * max(0, int(schema["maxLength"]))  # maxLength counts characters, a character has up to 4 bytes
    if schema.get("enum") and not schema.get("x-kubernetes-int-or-string"):
        return max((len(item.encode()) for item in schema["enum"] if isinstance(item, str)), default=0)
    return MAX_REQUEST_BYTES - 2
