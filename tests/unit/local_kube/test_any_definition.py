"""Definitions are untrusted: whatever schema they bring is judged, and whatever object then comes is too."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.kube.builtin_schemas import builtin_schema
from local.kube.causes import Cause
from local.kube.crd import validate_crd
from local.kube.json_schema_props import json_schema_props
from local.kube.structural import apply_defaults, prune, validate

Schema = dict[str, Any]

DEFINITION = builtin_schema("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
KEYWORDS = json_schema_props()["properties"]
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

names = st.sampled_from(["a", "b", "metadata", "kind", "spec", "status", "", "a-b"])
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
rules = st.sampled_from(
    [
        "((",
        "'%d'.format([self]) == ''",
        "[self][1] == self",
        "duration(self) > duration('1s')",
        "has(self.a)",
        "int(self) == 1",
        "quantity(self).isLessThan(quantity('1'))",
        "self * 9223372036854775807 > 0",
        "self / 0 == 1",
        "self == oldSelf",
        "self > 1",
        "self.?a.hasValue()",
        "self.a == self.b",
        "self.all(x, x == x)",
        "self.b.all(x, x > 1)",
        "self.charAt(-1) == ''",
        "self.find('(a') == ''",
        "self.map(x, x).sum() == 1",
        "self.matches('a+')",
        "self.substring(3, 1) == ''",
        "self['a'] == 1",
        "self[0] == 1",
        "size(self) < 2",
        "timestamp(self) > timestamp('2020-01-01T00:00:00Z')",
        "url(self).getHost() == ''",
    ]
)
expressions = st.fixed_dictionaries(
    {"rule": rules},
    optional={
        "fieldPath": st.sampled_from([".a", "a", ".spec.a", "[0]", "..", ".a['b']"]),
        "message": st.text(max_size=3),
        "messageExpression": st.sampled_from(["'a'", "1", "self", "string(self)"]),
        "optionalOldSelf": st.booleans(),
        "reason": st.sampled_from(["FieldValueInvalid", "FieldValueForbidden", "x"]),
    },
)
texts = {
    "format": st.sampled_from(["byte", "date", "date-time", "duration", "int32", "x"]),
    "pattern": st.sampled_from(["a", "(", "^a+$"]),
    "type": st.sampled_from(["array", "boolean", "integer", "null", "number", "object", "string", "x"]),
    "x-kubernetes-list-type": st.sampled_from(["atomic", "map", "set", "x"]),
    "x-kubernetes-map-type": st.sampled_from(["atomic", "granular", "x"]),
}
scalars: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-3, 2**70),
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    "string": st.text(max_size=3),
}


def keyword(name: str, schemas: st.SearchStrategy[Schema]) -> st.SearchStrategy[Any]:
    """Values that the keyword may have as far as types go."""
    kind = KEYWORDS[name].get("type")
    if name in ("properties", "patternProperties", "definitions", "dependencies"):
        return st.dictionaries(names, schemas, max_size=3)
    if name in ("additionalItems", "additionalProperties", "items", "not"):
        return schemas if name == "not" else schemas | st.booleans()
    if name == "x-kubernetes-validations":
        return st.lists(expressions, min_size=1, max_size=2)
    if name in ("required", "x-kubernetes-list-map-keys"):
        return st.lists(names, max_size=2)
    if name in ("default", "example"):
        return documents
    if kind == "array":
        return st.lists(documents if name == "enum" else schemas, max_size=2)
    if kind == "object":
        return st.just({"url": "u"})
    return texts[name] if name in texts else scalars[kind]


def nodes(schemas: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    often = ["type", "properties", "items", "default", "x-kubernetes-validations"]
    chosen = st.lists(st.sampled_from(often * 5 + sorted(KEYWORDS)), max_size=6, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: keyword(key, schemas) for key in keys}))


any_schema: st.SearchStrategy[Schema] = st.recursive(st.builds(dict, type=texts["type"]), nodes, max_leaves=5)


def judged(schema: Schema) -> tuple[Schema, list[Cause]]:
    """The schema as it would be stored, and what is wrong with a definition that has it."""
    wrapper = {"openAPIV3Schema": schema}
    version = {"name": "v1", "served": True, "storage": True, "schema": wrapper}
    spec_names = {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}
    crd: dict[str, Any] = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "as.x.y"},
        "spec": {"group": "x.y", "scope": "Cluster", "names": spec_names, "versions": [version]},
    }
    prune(DEFINITION, crd)
    apply_defaults(DEFINITION, crd)
    wrong = validate(DEFINITION, crd, None)
    return wrapper["openAPIV3Schema"], wrong or validate_crd(crd)


def use(schema: Schema, value: Any) -> None:
    obj = {"apiVersion": "x.y/v1", "kind": "A", "metadata": {"name": "n"}, "spec": value, "a": value}
    prune(schema, obj)
    apply_defaults(schema, obj)
    for old in (None, obj, {**obj, "a": 7, "spec": None}):
        assert all(str(cause) for cause in validate(schema, obj, old))


@SLOW
@given(any_schema, documents)
def test_any_schema(schema: Schema, value: Any) -> None:
    stored, wrong = judged(schema)
    assert all(str(cause) for cause in wrong)
    if not wrong:
        use(stored, value)


bounded = st.sampled_from(
    [
        {"type": "string", "maxLength": 9},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"x-kubernetes-int-or-string": True},
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        {"type": "array", "maxItems": 3, "items": {"type": "integer"}},
        {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "string", "maxLength": 9}},
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}, "b": {"type": "integer"}}},
    ]
)


@SLOW
@given(bounded, rules, st.booleans(), documents)
def test_any_rule_on_any_value(schema: Schema, rule: str, nullable: bool, value: Any) -> None:
    ruled = {**schema, "nullable": nullable, "x-kubernetes-validations": [{"rule": rule}]}
    stored, wrong = judged({"type": "object", "properties": {"a": ruled}})
    if wrong:
        assert {cause.reason for cause in wrong} <= {"FieldValueInvalid", "FieldValueForbidden"}
    else:
        use(stored, value)
