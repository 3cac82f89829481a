"""Values against schemas: which faults, at which path, in which words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.value_validation import same_json, validate_value

Schema = dict[str, Any]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def faults(schema: Schema, value: Any, **old: Any) -> list[str]:
    return [str(cause) for cause in validate_value(schema, value, path="spec", **old)]


def in_body(kind: str, found: str) -> str:
    return f'spec: Invalid value: "{found}": spec in body must be of type {kind}: "{found}"'


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["", "x"], {"integer": 1, "null": None, "array": [], "object": {}, "boolean": True}),
        ("integer", [1, -5, 2**62, 3.0], {"number": 1.5, "string": "1", "boolean": False, "null": None}),
        ("number", [1, 1.5], {"string": "1", "boolean": True}),
        ("boolean", [True, False], {"integer": 1, "string": "true"}),
        ("array", [[], [1]], {"object": {}, "string": "x"}),
        ("object", [{}, {"a": 1}], {"array": [], "null": None}),
    ],
)
def test_types(kind: str, good: list[Any], bad: dict[str, Any]) -> None:
    for value in good:
        assert faults({"type": kind}, value) == []
    for found, value in bad.items():
        assert faults({"type": kind}, value) == [in_body(kind, found)]


def test_nullable_allows_null() -> None:
    assert faults({"type": "string", "nullable": True}, None) == []


def test_int_or_string() -> None:
    schema = {"x-kubernetes-int-or-string": True}
    assert faults(schema, 1) == faults(schema, "50%") == []
    assert faults(schema, 1.5) == [
        'spec: Invalid value: "number": spec in body must be of type integer,string: "number"'
    ]


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"maxLength": 2}, "abc", "spec: Too long: may not be more than 2 bytes"),
        ({"minLength": 2}, "a", 'spec: Invalid value: "a": spec in body should be at least 2 chars long'),
        ({"pattern": "^a+$"}, "b", "spec: Invalid value: \"b\": spec in body should match '^a+$'"),
        ({"format": "date-time"}, "x", 'spec: Invalid value: "x": spec in body must be of type date-time: "x"'),
        ({"maximum": 5}, 6, "spec: Invalid value: 6: spec in body should be less than or equal to 5"),
        ({"maximum": 5, "exclusiveMaximum": True}, 5, "spec: Invalid value: 5: spec in body should be less than 5"),
        ({"minimum": 1}, 0, "spec: Invalid value: 0: spec in body should be greater than or equal to 1"),
        ({"minimum": 0.5}, 0.25, "spec: Invalid value: 0.25: spec in body should be greater than or equal to 0.5"),
        ({"minimum": 1, "exclusiveMinimum": True}, 1, "spec: Invalid value: 1: spec in body should be greater than 1"),
        ({"multipleOf": 3}, 4, "spec: Invalid value: 4: spec in body should be a multiple of 3"),
        ({"minItems": 1}, [], "spec: Invalid value: 0: spec in body should have at least 1 items"),
        ({"maxItems": 1}, [1, 2], "spec: Too many: 2: must have at most 1 item"),
        ({"uniqueItems": True}, [1, 2, 1], 'spec: Invalid value: "": spec in body shouldn\'t contain duplicates'),
        ({"minProperties": 1}, {}, "spec: Invalid value: 0: spec in body should have at least 1 properties"),
        ({"maxProperties": 1}, {"a": 1, "b": 2}, "spec: Too many: 2: must have at most 1 item"),
        ({"enum": ["a", 1]}, "b", 'spec: Unsupported value: "b": supported values: "a", "1"'),
        ({"enum": [1]}, True, 'spec: Unsupported value: true: supported values: "1"'),
        ({"required": ["a"]}, {}, "spec.a: Required value"),
        ({"items": {"type": "string"}}, ["a", 1], None),
        ({"additionalProperties": {"type": "string"}}, {"a.b": 1}, None),
    ],
)
def test_bounds(schema: Schema, value: Any, fault: str | None) -> None:
    found = faults(schema, value)
    assert len(found) == 1
    if fault is not None:
        assert found == [fault]


def test_paths_of_items_and_entries() -> None:
    items = {"items": {"type": "string"}}
    assert faults(items, ["a", 1])[0].startswith("spec[1]: ")
    entries = {"additionalProperties": {"type": "string"}}
    assert faults(entries, {"a.b": 1})[0].startswith("spec.a.b: ")
    assert faults({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}, {"a": {"b": 1}})[0].startswith(
        "spec.a.b:"
    )


def test_patterns_are_re2() -> None:
    assert faults({"pattern": "^(a+)+$"}, "a" * 40 + "!") != []  # exponential in a backtracking engine
    assert faults({"pattern": "(?!x)"}, "x") != []  # no lookahead: an unusable pattern matches nothing


def test_length_counts_characters() -> None:
    assert faults({"maxLength": 2}, "éé") == []


def test_any_of_reports_the_verdict_and_the_furthest_alternative() -> None:
    schema = {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert faults(schema, {"b": 1}) == []
    assert faults(schema, {}) == [
        '<nil>: Invalid value: "": "spec" must validate at least one schema (anyOf)',
        "spec.a: Required value",
    ]


def test_one_of() -> None:
    schema = {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert faults(schema, {"a": 1}) == []
    verdict = '<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). '
    assert faults(schema, {"a": 1, "b": 1}) == [f"{verdict}Found 2 valid alternatives"]
    assert faults(schema, {}) == [f"{verdict}Found none valid", "spec.a: Required value"]


def test_all_of_and_not() -> None:
    schema = {"allOf": [{"minimum": 1}, {"maximum": 3}]}
    assert faults(schema, 2) == []
    assert faults(schema, 4) == [
        "spec: Invalid value: 4: spec in body should be less than or equal to 3",
        '<nil>: Invalid value: "": "spec" must validate all the schemas (allOf)',
    ]
    assert faults({"not": {"minimum": 1}}, 0) == []
    assert faults({"not": {"minimum": 1}}, 1) == ['<nil>: Invalid value: "": "spec" must not validate the schema (not)']


def test_faults_of_unchanged_parts_are_forgiven() -> None:
    schema = {"properties": {"a": {"maximum": 1}, "b": {"maximum": 1}}}
    assert faults(schema, {"a": 2, "b": 0}, old={"a": 2, "b": 1}) == []
    assert len(faults(schema, {"a": 3, "b": 0}, old={"a": 2, "b": 1})) == 1
    assert len(faults(schema, {"a": 2, "b": 2}, old={"a": 2, "b": 1})) == 1


def test_items_of_map_lists_are_compared_by_key() -> None:
    items = {"type": "object", "properties": {"name": {"type": "string"}, "v": {"maximum": 1}}}
    keyed = {"items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    old = [{"name": "a", "v": 5}, {"name": "b", "v": 0}]
    new = [{"name": "new", "v": 0}, {"name": "a", "v": 5}]
    assert faults(keyed, new, old=old) == []
    assert len(faults({"items": items}, new, old=old)) == 1  # items without keys are new after every change


@given(JSON)
def test_every_value_equals_itself_and_fits_an_empty_schema(value: Any) -> None:
    assert same_json(value, value)
    assert faults({}, value) == []


@given(JSON, JSON)
def test_an_unchanged_value_is_never_refused(schema_value: Any, value: Any) -> None:
    schema = {"enum": [schema_value], "type": "string", "required": ["x"]}
    assert faults(schema, value, old=value) == []


def test_true_is_not_one() -> None:
    assert not same_json(True, 1)
    assert same_json(1, 1.0)
    assert not same_json([True], [1])
    assert not same_json({"a": 1}, {"a": 1, "b": 1})
