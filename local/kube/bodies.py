"""Request bodies: bytes to plain data, without trusting a single byte.

JSON and YAML are accepted. Duplicate keys are legal (the last one wins) but are reported, because `kubectl` asks for
strict decoding and people want to know. Depth and the expansion of YAML aliases are bounded, so that no body can exhaust
the stack or the memory.
"""

import json
import math
from typing import Any

import msgspec
import yaml

# Far deeper than any manifest; keeps recursive walks below the interpreter's limit.
MAX_DEPTH = 400
# A body of 3 MiB has fewer values than this unless YAML aliases multiply them.
MAX_VALUES = 2_000_000


class BodyError(ValueError):
    """The bytes are not a document of the expected form; the message says where."""


def decode(body: bytes, *, is_yaml: bool) -> Any:
    """The document as dicts, lists, strings, numbers, booleans and None. Raises BodyError."""
    if is_yaml and not _is_json(body):
        return _decode_yaml(body)
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise BodyError(_as_go_says(body, error)) from None
    except (RecursionError, UnicodeDecodeError) as error:
        raise BodyError("exceeded max depth" if isinstance(error, RecursionError) else str(error)) from None
    _check_depth(value)
    return value


def _is_json(body: bytes) -> bool:
    """Whether a YAML body is JSON, which most clients send as YAML: it is faster to read, and its escapes differ."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _as_go_says(body: bytes, error: msgspec.DecodeError) -> str:
    if not body.strip() or "truncated" in str(error):
        return "unexpected end of JSON input"
    try:
        json.loads(body)
    except json.JSONDecodeError as position:
        character = position.doc[position.pos : position.pos + 1]
        if not character:
            return "unexpected end of JSON input"
        return f"invalid character '{character}' looking for beginning of value"
    except (UnicodeDecodeError, RecursionError, ValueError):
        return str(error)
    return str(error)


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
    raise BodyError("exceeded max depth")


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: JSON types only, dates stay strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _decode_yaml(body: bytes) -> Any:
    try:
        value = yaml.load(body, Loader=_Loader)  # noqa: S506  (derived from CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BodyError(f"error converting YAML to JSON: yaml: {_one_line(error)}") from None
    return _Plain().copy(value, 0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Plain:
    """Copies YAML's result into JSON's types, with every alias expanded and counted."""

    def __init__(self) -> None:
        self.values = 0

    def copy(self, value: Any, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            raise BodyError("error converting YAML to JSON: yaml: document contains excessive aliasing or depth")
        if isinstance(value, dict):
            return {_key(key): self.copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.copy(item, depth + 1) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise BodyError(f"error converting YAML to JSON: json: unsupported value: {value}")
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise BodyError(f"error converting YAML to JSON: yaml: unsupported type {type(value).__name__}")


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, (str, int, float)):
        return str(key)
    raise BodyError(f"error converting YAML to JSON: yaml: unsupported key of type {type(key).__name__}")


def duplicate_fields(body: bytes, *, is_yaml: bool) -> list[str]:
    """Paths of keys that occur twice in one object, e.g. `spec.color`. The body must have decoded before."""
    return _yaml_duplicates(body) if is_yaml and not _is_json(body) else _json_duplicates(body)


class _Pairs(list[tuple[str, Any]]):
    pass


def _json_duplicates(body: bytes) -> list[str]:
    found: list[str] = []

    def visit(value: Any, path: str) -> None:
        if isinstance(value, _Pairs):
            seen: set[str] = set()
            for key, item in value:
                place = f"{path}.{key}" if path else key
                if key in seen and place not in found:
                    found.append(place)
                seen.add(key)
                visit(item, place)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                visit(item, f"{path}[{index}]")

    visit(json.loads(body, object_pairs_hook=_Pairs), "")
    return found


def _yaml_duplicates(body: bytes) -> list[str]:
    found: list[str] = []

    def visit(node: yaml.Node | None, path: str) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, item in node.value:
                place = f"{path}.{key.value}" if path else str(key.value)
                if key.value in seen and place not in found:
                    found.append(place)
                seen.add(str(key.value))
                visit(item, place)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                visit(item, f"{path}[{index}]")

    visit(yaml.compose(body, Loader=_Loader), "")
    return found
