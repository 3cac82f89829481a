"""Field sets: the codec, and what counts as one field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.fieldset import (
    FieldError,
    FieldSet,
    compare,
    fields_of,
    from_fields_v1,
    show_path,
    to_fields_v1,
    with_named_parents,
)
from local.kube.merging import merged, without

SCHEMA: dict[str, Any] = {
    "properties": {
        "a": {"type": "integer"},
        "struct": {"properties": {"x": {}, "y": {}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"x": {}}},
        "atoms": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "keyed": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k", "p"],
            "items": {"properties": {"k": {}, "p": {"default": "TCP"}, "v": {}}},
        },
    }
}
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "s", "t"])
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.integers(-3, 3),
        "struct": st.fixed_dictionaries({}, optional={"x": st.integers(0, 2), "y": st.integers(0, 2)}),
        "map": st.dictionaries(st.sampled_from("mno"), st.sampled_from("st"), max_size=3),
        "whole": st.fixed_dictionaries({}, optional={"x": st.integers(0, 2)}),
        "atoms": st.lists(st.integers(0, 2), max_size=3),
        "set": st.lists(st.sampled_from("stu"), max_size=3, unique=True),
        "keyed": st.lists(
            st.fixed_dictionaries({"k": st.integers(0, 2)}, optional={"v": st.integers(0, 2)}),
            max_size=3,
            unique_by=lambda item: item["k"],
        ),
    },
)
ELEMENTS = st.sampled_from(["f:a", "f:b", "f:.", 'k:{"n":"x"}', 'v:"s"', "i:0"])
SETS = st.frozensets(st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple), max_size=8)


def test_what_an_object_claims() -> None:
    obj = {
        "a": 1,
        "struct": {"x": 1},
        "map": {"m": "s"},
        "whole": {"x": 1},
        "atoms": [1, 2],
        "set": ["s"],
        "keyed": [{"k": 1, "v": 2}],
        "empty": {},
        "unknown": {"deep": [1]},
    }
    item = 'k:{"k":1,"p":"TCP"}'
    assert fields_of(SCHEMA, obj) == {
        ("f:a",),
        ("f:struct", "f:x"),
        ("f:map", "f:m"),
        ("f:whole",),
        ("f:atoms",),
        ("f:set", 'v:"s"'),
        ("f:keyed", item),
        ("f:keyed", item, "f:k"),
        ("f:keyed", item, "f:v"),
        ("f:empty",),
        ("f:unknown",),
        ("f:unknown", "f:deep"),
    }


def test_the_wire_form() -> None:
    fields: FieldSet = frozenset({("f:a",), ("f:b", "f:c"), ("f:l", 'k:{"n":"x"}'), ("f:l", 'k:{"n":"x"}', "f:v")})
    assert to_fields_v1(fields) == {
        "f:a": {},
        "f:b": {"f:c": {}},
        "f:l": {'k:{"n":"x"}': {".": {}, "f:v": {}}},
    }


@given(SETS)
def test_the_wire_form_loses_nothing(fields: FieldSet) -> None:
    assert from_fields_v1(to_fields_v1(fields)) == fields


@pytest.mark.parametrize("trie", [{"f:a": 1}, {"x:a": {}}, {"k:[1]": {}}, {"v:{": {}}, {"": {}}])
def test_what_is_no_field_set(trie: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        from_fields_v1(trie)


def test_keys_are_compared_by_value_not_by_spelling() -> None:
    assert from_fields_v1({'k:{"p": "TCP", "k": 1}': {}}) == {('k:{"k":1,"p":"TCP"}',)}


def test_paths_as_messages_show_them() -> None:
    path = ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:name")
    assert show_path(path) == '.spec.ports[port=80,protocol="TCP"].name'
    assert show_path(("f:finalizers", 'v:"x/y"')) == '.finalizers[="x/y"]'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"keyed": [{"k": 1}, {"k": 1}]}, 'duplicate entries for key [k=1,p="TCP"]'),
        ({"keyed": [1]}, "may not have non-map elements"),
        ({"set": [{}]}, "has an element that's a map type"),
        ({"set": ["s", "s"]}, 'duplicate entries for key [="s"]'),
    ],
)
def test_lists_that_cannot_be_addressed(value: Any, message: str) -> None:
    with pytest.raises(FieldError) as refusal:
        fields_of(SCHEMA, value)
    assert message in str(refusal.value)


@given(OBJECTS)
def test_nothing_differs_from_itself(obj: Any) -> None:
    same = compare(SCHEMA, obj, obj)
    assert not same.added | same.modified | same.removed


@given(OBJECTS, OBJECTS)
def test_a_comparison_is_its_own_mirror(old: Any, new: Any) -> None:
    there, back = compare(SCHEMA, old, new), compare(SCHEMA, new, old)
    assert (there.added, there.removed, there.modified) == (back.removed, back.added, back.modified)
    assert not there.added & there.removed
    assert bool(there.added | there.removed | there.modified) == (sorted_items(old) != sorted_items(new))


def sorted_items(obj: Any) -> Any:
    """Order is no difference in lists whose items have a name."""
    return {
        **obj,
        "set": sorted(obj["set"]) if "set" in obj else None,
        "keyed": sorted(obj["keyed"], key=lambda item: item["k"]) if "keyed" in obj else None,
    }


@given(OBJECTS, OBJECTS)
def test_a_merge_holds_everything_that_was_applied(live: Any, config: Any) -> None:
    result = merged(SCHEMA, live, config)
    difference = compare(SCHEMA, result, merged(SCHEMA, result, config))
    assert not difference.added | difference.modified | difference.removed
    assert fields_of(SCHEMA, config) <= with_named_parents(SCHEMA, fields_of(SCHEMA, result)) | empties(config)


def empties(config: Any) -> FieldSet:
    """Objects that were applied empty are claimed as themselves, and lose that when the live one has content."""
    return frozenset((f"f:{key}",) for key, value in config.items() if value == {})


@given(OBJECTS, OBJECTS)
def test_a_merge_takes_nothing_away(live: Any, config: Any) -> None:
    result = merged(SCHEMA, live, config)
    untouched = compare(SCHEMA, live, result).removed
    # Only inside values that are replaced as a whole can something be gone.
    assert not untouched


@given(OBJECTS, OBJECTS)
def test_the_applied_order_is_the_order_of_the_applied(live: Any, config: Any) -> None:
    result = merged(SCHEMA, live, config)
    wanted = config.get("set", [])
    assert [value for value in result.get("set", []) if value in wanted] == wanted
    wanted_keys = [item["k"] for item in config.get("keyed", [])]
    assert [item["k"] for item in result.get("keyed", []) if item["k"] in wanted_keys] == wanted_keys


@given(OBJECTS, st.data())
def test_removing_fields_removes_these_fields(obj: Any, data: st.DataObject) -> None:
    fields = fields_of(SCHEMA, obj)
    # Not the key alone: an item that stays must keep what it is addressed by.
    choices = sorted(path for path in fields if path[-1] != "f:k")
    removed = data.draw(st.frozensets(st.sampled_from(choices), max_size=5)) if choices else frozenset()
    rest = without(SCHEMA, obj, removed) or {}
    left = fields_of(SCHEMA, rest)
    assert not left & removed
    under = {path for path in fields if any(path[: len(gone)] == gone for gone in removed)}
    assert fields - under <= with_named_parents(SCHEMA, left)


def test_removing_nothing_changes_nothing() -> None:
    obj = {"a": 1, "map": {}, "atoms": []}
    assert without(SCHEMA, obj, frozenset()) is obj


@given(OBJECTS)
def test_true_is_not_one(obj: Any) -> None:
    assert compare(SCHEMA, {**obj, "a": 1}, {**obj, "a": True}).modified == {("f:a",)}
