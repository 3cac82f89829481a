"""`x-kubernetes-validations` against objects: which rules run when, and how they complain."""

from typing import Any

import pytest

from local.kube.cel.rules import validate_rules

Schema = dict[str, Any]


def schema_with(spec: Schema) -> Schema:
    return {"type": "object", "properties": {"spec": spec}}


def broken(spec_schema: Schema, spec: Any, old: Any = None, *, root: Schema | None = None) -> list[str]:
    schema = {**schema_with(spec_schema), **(root or {})}
    new = {"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "n"}, "spec": spec}
    before = {**new, "spec": old} if old is not None else None
    return [str(cause) for cause in validate_rules(schema, new, before)]


def rule(text: str, **more: Any) -> Schema:
    return {"x-kubernetes-validations": [{"rule": text, **more}]}


NUMBER: Schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}


class TestMessages:
    def test_the_message(self) -> None:
        schema = {**NUMBER, **rule("self.n < 5", message=" too big ")}
        assert broken(schema, {"n": 1}) == []
        assert broken(schema, {"n": 9}) == ["spec: Invalid value: too big"]

    def test_the_rule_itself_without_a_message(self) -> None:
        assert broken({**NUMBER, **rule("self.n < 5")}, {"n": 9}) == ["spec: Invalid value: failed rule: self.n < 5"]

    def test_an_expression(self) -> None:
        expression = "'n is %d'.format([self.n])"
        schema = {**NUMBER, **rule("self.n < 5", message="plain", messageExpression=expression)}
        assert broken(schema, {"n": 9}) == ["spec: Invalid value: n is 9"]

    @pytest.mark.parametrize("expression", ["self.s", "self.s + self.s", "'a\\nb'", "' '"])
    def test_an_unusable_expression_leaves_the_message(self, expression: str) -> None:
        schema = {**NUMBER, **rule("self.n < 5", message="plain", messageExpression=expression)}
        assert broken(schema, {"n": 9}) == ["spec: Invalid value: plain"]

    @pytest.mark.parametrize(
        ("reason", "text"),
        [
            ("FieldValueInvalid", "spec: Invalid value: m"),
            ("FieldValueForbidden", "spec: Forbidden: m"),
            ("FieldValueRequired", "spec: Required value: m"),
            ("FieldValueDuplicate", "spec: Duplicate value"),
        ],
    )
    def test_the_reason(self, reason: str, text: str) -> None:
        assert broken({**NUMBER, **rule("false", message="m", reason=reason)}, {}) == [text]

    @pytest.mark.parametrize(
        ("path", "where"), [(".n", "spec.n"), (".m['a.b']", "spec.m[a.b]"), (".o.x", "spec.o.x"), ("['n']", "spec.n")]
    )
    def test_the_field_path(self, path: str, where: str) -> None:
        schema = {
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "m": {"type": "object", "additionalProperties": {"type": "string"}},
                "o": {"type": "object", "properties": {"x": {"type": "string"}}},
            },
            **rule("false", message="m", fieldPath=path),
        }
        assert broken(schema, {}) == [f"{where}: Invalid value: m"]

    def test_errors_while_running(self) -> None:
        schema = {**NUMBER, **rule("self.n < 5", message="m")}
        assert broken(schema, {}) == ['spec: Invalid value: "object": no such key: n evaluating rule: m']
        either = {"x-kubernetes-int-or-string": True, **rule("self < 5", message="m")}
        assert broken(either, "x") == [
            "spec: Invalid value: \"\": 'no such overload': call arguments did not match a supported operator, function or "
            "macro signature for rule: m"
        ]


class TestWhereRulesRun:
    def test_on_every_value_of_their_schema(self) -> None:
        small = {"type": "integer", **rule("self < 5", message="m")}
        schema = {
            "type": "object",
            "properties": {
                "list": {"type": "array", "items": small},
                "map": {"type": "object", "additionalProperties": small},
                "one": small,
            },
        }
        assert broken(schema, {"list": [1, 9], "map": {"a": 9, "b": 1}, "one": 9}) == [
            "spec.list[1]: Invalid value: 9: m",
            "spec.map[a]: Invalid value: 9: m",
            "spec.one: Invalid value: 9: m",
        ]

    def test_not_on_absent_or_null_values(self) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer", "nullable": True, **rule("false")}}}
        assert broken(schema, {}) == []
        assert broken(schema, {"n": None}) == []

    def test_the_root_knows_its_name(self) -> None:
        root = rule("self.metadata.name == 'n' && self.kind == 'A' && self.apiVersion == 'a/v1'")
        assert broken({"type": "object"}, {}, root=root) == []
        assert broken({"type": "object"}, {}, root=rule("self.metadata.name == 'x'", message="m")) == [
            "<nil>: Invalid value: m"
        ]

    def test_metadata_shows_only_names(self) -> None:
        (cause,) = broken({"type": "object"}, {}, root=rule("has(self.metadata.labels)"))
        assert "undefined field 'labels'" in cause

    def test_embedded_resources_are_roots_too(self) -> None:
        pod = {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "x-kubernetes-preserve-unknown-fields": True,
            **rule("self.kind == 'Pod'", message="m"),
        }
        assert broken(pod, {"apiVersion": "v1", "kind": "Pod"}) == []
        assert broken(pod, {"apiVersion": "v1", "kind": "Job"}) == ["spec: Invalid value: m"]

    def test_unknown_fields_cannot_be_seen(self) -> None:
        schema = {**NUMBER, "x-kubernetes-preserve-unknown-fields": True, **rule("self == self", message="m")}
        assert broken(schema, {"extra": 1}) == []

    def test_rules_within_all_of(self) -> None:
        schema = {**NUMBER, "allOf": [rule("self.n < 5", message="m")]}
        assert broken(schema, {"n": 9}) == ["spec: Invalid value: m"]


FIXED: Schema = {
    "type": "object",
    "properties": {"n": {"type": "integer", **rule("self == oldSelf", message="immutable")}},
}


class TestTransitions:
    def test_run_on_updates_only(self) -> None:
        assert broken(FIXED, {"n": 1}) == []
        assert broken(FIXED, {"n": 1}, old={"n": 1}) == []
        assert broken(FIXED, {"n": 2}, old={"n": 1}) == ["spec.n: Invalid value: 2: immutable"]

    def test_need_an_old_value(self) -> None:
        assert broken(FIXED, {"n": 2}, old={}) == []
        assert broken(FIXED, {}, old={"n": 1}) == []

    def test_optional_old_self_runs_always(self) -> None:
        text = "!oldSelf.hasValue() || oldSelf.value() <= self"
        schema = {"type": "integer", **rule(text, message="may not shrink", optionalOldSelf=True)}
        assert broken(schema, 5) == []
        assert broken(schema, 4, old=5) == ["spec: Invalid value: 4: may not shrink"]
        first = {"type": "integer", **rule("oldSelf.orValue(0) == 0", message="m", optionalOldSelf=True)}
        assert broken(first, 4) == []
        assert broken(first, 4, old=5) == ["spec: Invalid value: 4: m"]

    def test_items_are_matched_by_key(self) -> None:
        item = {
            "type": "object",
            "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
            **rule("self.v == oldSelf.v", message="immutable"),
        }
        keyed = {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
        old = [{"k": "a", "v": 1}, {"k": "b", "v": 2}]
        assert broken(keyed, [{"k": "new", "v": 9}, {"k": "b", "v": 2}], old=old) == []
        assert broken(keyed, [{"k": "b", "v": 3}], old=old) == ["spec[0]: Invalid value: immutable"]

    def test_what_was_broken_before_and_did_not_change_is_forgiven(self) -> None:
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer", **rule("self < 5", message="m")}, "x": {"type": "integer"}},
        }
        assert broken(schema, {"n": 9, "x": 2}, old={"n": 9, "x": 1}) == []
        assert broken(schema, {"n": 8, "x": 1}, old={"n": 9, "x": 1}) == ["spec.n: Invalid value: 8: m"]
        whole = {**NUMBER, **rule("self.n < 5", message="m")}
        assert broken(whole, {"n": 9, "s": "b"}, old={"n": 9, "s": "a"}) == ["spec: Invalid value: m"]

    def test_a_value_that_no_rule_can_look_at_is_never_forgiven(self) -> None:
        """It has come in under another schema. Whoever changes anything else of the object is refused as well."""
        schema = {
            "type": "object",
            "properties": {"s": {"type": "string", **rule("self != ''", message="m")}, "n": {"type": "integer"}},
        }
        refused = [
            'spec.s: Invalid value: "string": invalid data, expected string, got []interface {} evaluating rule: m'
        ]
        assert broken(schema, {"s": ["a"], "n": 2}, old={"s": ["a"], "n": 1}) == refused
        above = {**NUMBER, **rule("has(self.s) && self.n < 5", message="m")}
        assert broken(above, {"s": ["a"], "n": 2}, old={"s": ["a"], "n": 1}) == [], "no rule looks at it"
        assert broken(above, {"s": "a", "n": {}}, old={"s": "a", "n": {}}) == [
            'spec: Invalid value: "object": invalid data, expected int, got map[string]interface {} evaluating rule: m'
        ]

    def test_rules_about_changes_are_never_forgiven(self) -> None:
        schema = {**NUMBER, **rule("self.n > oldSelf.n", message="must grow")}
        assert broken(schema, {"n": 1}, old={"n": 1}) == ["spec: Invalid value: must grow"]
