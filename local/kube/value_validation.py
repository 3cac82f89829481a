"""Checks a JSON value against an OpenAPI v3 schema, with the sentences and the order of the real server.

This is the part of CRD validation that needs no CEL: types, required, enum, bounds, patterns, formats, and the junctors
(allOf, anyOf, oneOf, not). A general JSON-schema library would find the same faults, but tell them in other words, and
it knows neither `nullable` nor `x-kubernetes-int-or-string` nor ratcheting: on an update the server forgives a fault in
a part of the object that did not change (CRDValidationRatcheting, on for good since 1.33), so that a tightened schema
does not lock out existing objects.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import re2

from local.kube.causes import (
    NO_FIELD,
    Cause,
    go_number,
    go_quote,
    invalid,
    join_path,
    not_supported,
    required,
    too_long,
    too_many,
    type_invalid,
)
from local.kube.formats import format_check

Schema = dict[str, Any]

# Our own mark in the schemas of built-in kinds: Go decodes an empty text to no bytes, the format `byte` of a definition's
# schema refuses it.
EMPTY_BYTES = "x-local-empty-bytes"


class _Absent:
    """The type of `ABSENT`."""

    def __repr__(self) -> str:
        return "ABSENT"


# "No old value to compare with", as opposed to an old value of null.
ABSENT = _Absent()


@dataclass
class _Result:
    """Causes found so far, and how many checks ran: anyOf and oneOf report the alternative that got furthest."""

    causes: list[Cause] = field(default_factory=list)
    checks: int = 1

    def merge(self, other: "_Result") -> None:
        self.causes += other.causes
        self.checks += other.checks


def validate_value(schema: Schema, value: Any, old: Any = ABSENT, path: str = "") -> list[Cause]:
    """Faults of `value`, whose place in the object is `path`; `old` is the value before the update, if any.

    Faults of parts that equal their old value are left out (ratcheting).
    """
    return _check(schema, value, old, path).causes


def same_json(left: Any, right: Any) -> bool:
    """Deep equality of JSON values; unlike Python's `==` it tells `true` from 1, and like it 1 equals 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same_json(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def json_type(value: Any) -> str:
    """The JSON schema type of a decoded value; whole and fractional numbers are `integer` and `number`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _check(schema: Schema, value: Any, old: Any, path: str) -> _Result:
    result = _Result(_check_type(schema, value, path))
    if value is not None:
        result.merge(_check_junctors(schema, value, path))
        if isinstance(value, str):
            result.causes += _check_string(schema, value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            result.causes += _check_number(schema, value, path)
        elif isinstance(value, list):
            result.merge(_check_array(schema, value, old, path))
    result.causes += _check_enum(schema, value, path)
    if isinstance(value, dict):
        result.merge(_check_object(schema, value, old, path))
    if result.causes and old is not ABSENT and same_json(value, old):
        result.causes.clear()
    return result


def _types(schema: Schema) -> tuple[str, ...]:
    if schema.get("x-kubernetes-int-or-string"):
        return ("integer", "string")
    return (schema["type"],) if schema.get("type") else ()


def _check_type(schema: Schema, value: Any, path: str) -> list[Cause]:
    allowed = _types(schema)
    if not allowed:
        return []
    found = json_type(value)
    if found == "null" and schema.get("nullable"):
        return []
    fits = (
        found in allowed
        or (found == "integer" and "number" in allowed)
        or (found == "number" and "integer" in allowed and float(value).is_integer())
    )
    if fits:
        return []
    return [type_invalid(path, found, f"{path} in body must be of type {','.join(allowed)}: {go_quote(found)}")]


def _check_enum(schema: Schema, value: Any, path: str) -> list[Cause]:
    allowed = schema.get("enum")
    if not allowed or (value is not None and any(same_json(value, item) for item in allowed)):
        return []
    return [not_supported(path, value, allowed)]


def _check_string(schema: Schema, value: str, path: str) -> list[Cause]:
    maximum, minimum, pattern = schema.get("maxLength"), schema.get("minLength"), schema.get("pattern")
    causes = []
    # Only the first of these three is reported.
    if maximum is not None and len(value) > maximum:
        causes.append(too_long(path, maximum))
    elif minimum is not None and len(value) < minimum:
        causes.append(invalid(path, value, f"{path} in body should be at least {minimum} chars long"))
    elif pattern and not _matches(pattern, value):
        causes.append(invalid(path, value, f"{path} in body should match '{pattern}'"))
    check = format_check(schema.get("format", ""))
    if check is not None and not check(value) and (value or not schema.get(EMPTY_BYTES)):
        causes.append(
            type_invalid(path, value, f"{path} in body must be of type {schema['format']}: {go_quote(value)}")
        )
    return causes


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """`pattern` compiled by RE2, the syntax that Go's regexp shares. Raises `re2.error` for an invalid one."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def _matches(pattern: str, value: str) -> bool:
    try:
        return compile_pattern(pattern).search(value) is not None
    except (re2.error, re.error):
        return False  # an unusable pattern matches nothing, as in the server


def _check_number(schema: Schema, value: int | float, path: str) -> list[Cause]:
    causes = []
    factor = schema.get("multipleOf")
    if factor and not float(value / factor).is_integer():
        causes.append(invalid(path, value, f"{path} in body should be a multiple of {go_number(factor)}"))
    maximum, minimum = schema.get("maximum"), schema.get("minimum")
    if maximum is not None:
        strict = bool(schema.get("exclusiveMaximum"))
        if value > maximum or (strict and value == maximum):
            words = "less than" if strict else "less than or equal to"
            causes.append(invalid(path, value, f"{path} in body should be {words} {go_number(maximum)}"))
    if minimum is not None:
        strict = bool(schema.get("exclusiveMinimum"))
        if value < minimum or (strict and value == minimum):
            words = "greater than" if strict else "greater than or equal to"
            causes.append(invalid(path, value, f"{path} in body should be {words} {go_number(minimum)}"))
    return causes


def _check_array(schema: Schema, value: list[Any], old: Any, path: str) -> _Result:
    result = _Result()
    items = schema.get("items")
    if isinstance(items, dict):
        previous = correlated_items(schema, value, old)
        for index, (item, before) in enumerate(zip(value, previous, strict=True)):
            result.merge(_check(items, item, before, f"{path}[{index}]"))
    minimum, maximum = schema.get("minItems"), schema.get("maxItems")
    if minimum is not None and len(value) < minimum:
        result.causes.append(invalid(path, len(value), f"{path} in body should have at least {minimum} items"))
    if maximum is not None and len(value) > maximum:
        result.causes.append(too_many(path, len(value), maximum))
    if schema.get("uniqueItems") and any(
        same_json(item, other) for index, item in enumerate(value) for other in value[:index]
    ):
        result.causes.append(invalid(path, "", f"{path} in body shouldn't contain duplicates"))
    return result


def correlated_items(schema: Schema, value: list[Any], old: Any) -> Iterator[Any]:
    """For every item of `value` its counterpart in the list `old`, or ABSENT.

    Only items of lists of type map have an identity (their keys); items of other lists are new after every change.
    """
    keys: list[str] = schema.get("x-kubernetes-list-map-keys", [])
    by_key = {}
    if schema.get("x-kubernetes-list-type") == "map" and keys and isinstance(old, list):
        by_key = {_map_key(item, keys): item for item in reversed(old) if isinstance(item, dict)}
    for item in value:
        yield by_key.get(_map_key(item, keys), ABSENT) if by_key and isinstance(item, dict) else ABSENT


def _map_key(item: dict[str, Any], keys: list[str]) -> tuple[str, ...]:
    return tuple(f"{json_type(item.get(key))}:{item.get(key)}" for key in keys)


def _check_object(schema: Schema, value: dict[str, Any], old: Any, path: str) -> _Result:
    minimum, maximum = schema.get("minProperties"), schema.get("maxProperties")
    if minimum is not None and len(value) < minimum:
        cause = invalid(path, len(value), f"{path} in body should have at least {minimum} properties")
        return _Result([cause])
    if maximum is not None and len(value) > maximum:
        return _Result([too_many(path, len(value), maximum)])
    result = _Result()
    before = old if isinstance(old, dict) else {}
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties")
    for key, item in value.items():
        if key in properties:
            continue
        if additional is False:
            result.causes.append(invalid(path, key, f"{join_path(path, key)} in body is a forbidden property"))
        elif isinstance(additional, dict):
            result.merge(_check(additional, item, before.get(key, ABSENT), join_path(path, key)))
    for key, child in properties.items():
        if key in value:
            result.merge(_check(child, value[key], before.get(key, ABSENT), join_path(path, key)))
    result.causes += [required(join_path(path, key)) for key in schema.get("required", ()) if key not in value]
    return result


def _check_junctors(schema: Schema, value: Any, path: str) -> _Result:
    """anyOf, oneOf, allOf and not. Their verdicts name no field: the server gives them the path `<nil>`."""
    result = _Result()
    name = go_quote(path)
    if alternatives := schema.get("anyOf"):
        results = [_check(item, value, ABSENT, path) for item in alternatives]
        if all(item.causes for item in results):
            result.causes.append(invalid(NO_FIELD, "", f"{name} must validate at least one schema (anyOf)"))
            result.merge(_furthest(results))
    if alternatives := schema.get("oneOf"):
        results = [_check(item, value, ABSENT, path) for item in alternatives]
        valid = sum(not item.causes for item in results)
        if valid != 1:
            verdict = f"Found {valid} valid alternatives" if valid else "Found none valid"
            cause = invalid(NO_FIELD, "", f"{name} must validate one and only one schema (oneOf). {verdict}")
            result.causes.append(cause)
        if not valid:
            result.merge(_furthest(results))
    if conjuncts := schema.get("allOf"):
        results = [_check(item, value, ABSENT, path) for item in conjuncts]
        for item in results:
            result.merge(item)
        failed = sum(bool(item.causes) for item in results)
        if failed:
            verdict = ". None validated" if failed == len(results) else ""
            cause = invalid(NO_FIELD, "", f"{name} must validate all the schemas (allOf){verdict}")
            result.causes.append(cause)
    negated = schema.get("not")
    if negated is not None and not _check(negated, value, ABSENT, path).causes:
        result.causes.append(invalid(NO_FIELD, "", f"{name} must not validate the schema (not)"))
    return result


def _furthest(results: list[_Result]) -> _Result:
    return max(results, key=lambda item: item.checks)  # the first of equals
