"""Defaults, pruning, and the verdict on whole objects."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.structural import apply_defaults, prune, validate

Schema = dict[str, Any]

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b"])
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "default": "d"},
        {"type": "string", "nullable": True},
        {"type": "integer", "default": 0},
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        {"x-kubernetes-int-or-string": True},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(lambda items: {"type": "array", "items": items})
        | inner.map(lambda values: {"type": "object", "additionalProperties": values})
        | st.dictionaries(NAMES, inner, max_size=3).map(lambda fields: {"type": "object", "properties": fields})
        | st.dictionaries(NAMES, inner, max_size=3).map(
            lambda fields: {"type": "object", "properties": fields, "default": {}}
        )
    ),
    max_leaves=6,
)


def wrapped(schema: Schema) -> Schema:
    return {"type": "object", "properties": {"spec": schema}}


def obj(spec: Any, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "n", **metadata}, "spec": spec}


def spec_after(schema: Schema, spec: Any) -> Any:
    value = obj(spec)
    apply_defaults(wrapped(schema), value)
    return value.get("spec", "absent")


class TestDefaults:
    def test_fills_what_is_missing_but_not_what_is_there(self) -> None:
        schema = {"properties": {"a": {"default": 1}, "b": {"default": 2}}}
        assert spec_after(schema, {"a": 0}) == {"a": 0, "b": 2}

    def test_default_objects_get_their_own_defaults(self) -> None:
        schema = {"properties": {"a": {"default": {}, "properties": {"b": {"default": 1}}}}}
        assert spec_after(schema, {}) == {"a": {"b": 1}}

    def test_absent_objects_without_default_stay_absent(self) -> None:
        assert spec_after({"properties": {"a": {"properties": {"b": {"default": 1}}}}}, {}) == {}

    def test_reaches_items_and_entries(self) -> None:
        inner = {"type": "object", "properties": {"b": {"default": 1}}}
        assert spec_after({"items": inner}, [{}, {"b": 2}]) == [{"b": 1}, {"b": 2}]
        assert spec_after({"additionalProperties": inner}, {"x": {}}) == {"x": {"b": 1}}

    def test_null_counts_as_absent_unless_nullable(self) -> None:
        fields = {"a": {"default": 1}, "b": {"type": "string"}, "c": {"nullable": True}}
        assert spec_after({"properties": fields}, {"a": None, "b": None, "c": None}) == {"a": 1, "c": None}

    def test_nulls_in_metadata_go(self) -> None:
        value = obj({}, creationTimestamp=None, labels=None)
        apply_defaults(wrapped({"type": "object"}), value)
        assert value["metadata"] == {"name": "n"}

    def test_defaults_are_not_shared(self) -> None:
        schema: Schema = {"properties": {"a": {"default": {"x": []}, "x-kubernetes-preserve-unknown-fields": True}}}
        first = spec_after(schema, {})
        first["a"]["x"].append(1)
        assert spec_after(schema, {}) == {"a": {"x": []}}

    @given(SCHEMAS, VALUES)
    def test_is_idempotent(self, schema: Schema, spec: Any) -> None:
        once = obj(spec)
        apply_defaults(wrapped(schema), once)
        twice = copy.deepcopy(once)
        apply_defaults(wrapped(schema), twice)
        assert twice == once

    @given(SCHEMAS, VALUES)
    def test_removes_nothing_but_nulls(self, schema: Schema, spec: Any) -> None:
        value = obj(copy.deepcopy(spec))
        apply_defaults(wrapped(schema), value)
        assert _keeps(spec, value.get("spec"))


def _keeps(before: Any, after: Any) -> bool:
    if before is None:
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        return all(value is None or (key in after and _keeps(value, after[key])) for key, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(_keeps(a, b) for a, b in zip(before, after, strict=True))
    return bool(before == after)


class TestPrune:
    def test_names_what_it_drops(self) -> None:
        schema: Schema = {"properties": {"l": {"items": {"properties": {"a": {}}}}}}
        value = obj({"l": [{"a": 1, "x": 1}], "y": {"z": 1}}, bogus=1)
        value["other"] = 1
        assert prune(wrapped(schema), value) == ["metadata.bogus", "other", "spec.l[0].x", "spec.y"]
        assert value == obj({"l": [{"a": 1}]})

    def test_keeps_what_may_be_unknown(self) -> None:
        spec = {"free": {"x": {"y": 1}}, "map": {"k": {"v": 1}}, "any": {"k": 1}}
        schema = {
            "properties": {
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "map": {"additionalProperties": {"properties": {"v": {}}}},
                "any": {"additionalProperties": True},
            }
        }
        value = obj(copy.deepcopy(spec))
        assert prune(wrapped(schema), value) == []
        assert value["spec"] == spec

    def test_known_fields_below_unknown_ones_are_still_pruned(self) -> None:
        schema = {"x-kubernetes-preserve-unknown-fields": True, "properties": {"a": {"type": "object"}}}
        value = obj({"a": {"x": 1}, "b": {"x": 1}})
        assert prune(wrapped(schema), value) == ["spec.a.x"]
        assert value["spec"] == {"a": {}, "b": {"x": 1}}

    def test_embedded_resources_keep_their_root_fields(self) -> None:
        schema = {"type": "object", "x-kubernetes-embedded-resource": True, "properties": {"spec": {"type": "object"}}}
        inner = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "bogus": 1}, "data": 1}
        value = obj({**inner, "spec": {}})
        assert prune(wrapped(schema), value) == ["spec.data", "spec.metadata.bogus"]
        assert value["spec"]["kind"] == "Pod"

    @given(SCHEMAS, VALUES)
    def test_is_idempotent(self, schema: Schema, spec: Any) -> None:
        once = obj(spec)
        prune(wrapped(schema), once)
        twice = copy.deepcopy(once)
        assert prune(wrapped(schema), twice) == []
        assert twice == once

    @given(SCHEMAS, VALUES)
    def test_defaults_survive_pruning(self, schema: Schema, spec: Any) -> None:
        value = obj(spec)
        prune(wrapped(schema), value)
        apply_defaults(wrapped(schema), value)
        assert prune(wrapped(schema), copy.deepcopy(value)) == []


def faults(schema: Schema, spec: Any, old: Any = None) -> list[str]:
    before = obj(old) if old is not None else None
    return [str(cause) for cause in validate(wrapped(schema), obj(spec), before)]


SKIPPED = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


class TestValidate:
    def test_metadata_has_its_own_schema(self) -> None:
        value = obj({}, labels={"a": 1})
        (cause,) = validate(wrapped({"type": "object"}), value, None)
        assert cause.field == "metadata.labels.a"
        assert cause.reason == "FieldValueTypeInvalid"

    def test_duplicates_in_sets_and_map_lists(self) -> None:
        as_set = {"items": {"type": "string"}, "x-kubernetes-list-type": "set"}
        assert faults(as_set, ["a", "b", "a", "a"]) == ['spec[2]: Duplicate value: "a"']
        keyed = {"items": {}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
        assert faults(keyed, [{"k": 1}, {"k": 1, "x": 1}]) == ['spec[1]: Duplicate value: {"k":1}']
        assert faults(keyed, [{"k": 1}, 3]) == [
            "spec[1]: Invalid value: 3: must be an object for an array of list-type map"
        ]

    def test_old_duplicates_are_forgiven(self) -> None:
        as_set = {"items": {"type": "string"}, "x-kubernetes-list-type": "set"}
        assert faults(as_set, ["a", "a", "b"], old=["a", "a"]) == []

    def test_embedded_resources_need_type_and_kind(self) -> None:
        schema = {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "x-kubernetes-preserve-unknown-fields": True,
        }
        assert faults(schema, {"kind": "Pod"}) == ["spec.apiVersion: Required value: must not be empty"]

    @pytest.mark.parametrize(
        ("spec", "skipped"),
        [({"n": "x"}, True), ({}, True), ({"n": 5, "s": "toolong"}, True), ({"n": -1}, False), ({"n": 11}, False)],
    )
    def test_rules_wait_for_the_right_shape(self, spec: dict[str, Any], skipped: bool) -> None:
        schema = {
            "type": "object",
            "required": ["n"],
            "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"type": "string", "maxLength": 3}},
            "x-kubernetes-validations": [{"rule": "self.n <= 10", "message": "too much"}],
        }
        found = faults(schema, spec)
        assert (SKIPPED in found) is skipped
        assert any("too much" in fault for fault in found) is (spec.get("n") == 11)

    def test_no_rules_no_notice(self) -> None:
        assert faults({"type": "string"}, 1) == [
            'spec: Invalid value: "integer": spec in body must be of type string: "integer"'
        ]
