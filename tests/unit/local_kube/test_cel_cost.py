"""The cost estimate against the numbers that Kubernetes' own tests expect of cel-go's estimator.

The expected costs are facts of the real server (TestCostEstimation in k8s.io/apiextensions-apiserver, pkg/apiserver/
schema/cel): each rule once on a schema without bounds, once with a bound.
"""

from collections.abc import Callable
from typing import Any

import pytest

from local.kube.cel.compile import compile_rules

Schema = dict[str, Any]
Bounded = Callable[[int | None], Schema]

TEXTS: dict[str, Schema] = {
    "duration": {"type": "string", "format": "duration"},
    "date": {"type": "string", "format": "date"},
    "date-time": {"type": "string", "format": "date-time"},
    "int-or-string": {"x-kubernetes-int-or-string": True},
}
NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}
NUMBER_MAP: Schema = {"type": "object", "additionalProperties": {"type": "number"}}
OBJECT: Schema = {
    "type": "object",
    "required": ["required"],
    "properties": {"required": {"type": "string"}, "optional": {"type": "string"}},
}


def kind(name: str) -> Schema:
    return dict(TEXTS.get(name, {"type": name}))


def bounded(schema: Schema, key: str, bound: int | None) -> Schema:
    return schema if bound is None else {**schema, key: bound}


def array(items: Schema) -> Bounded:
    return lambda bound: bounded({"type": "array", "items": items}, "maxItems", bound)


def mapping(values: Schema) -> Bounded:
    return lambda bound: bounded({"type": "object", "additionalProperties": values}, "maxProperties", bound)


def text(**more: Any) -> Bounded:
    return lambda bound: bounded({"type": "string", **more}, "maxLength", bound)


def array_of_text(bound: int | None) -> Schema:
    return bounded({"type": "array", "items": text()(bound)}, "maxItems", bound)


def map_of_text(bound: int | None) -> Schema:
    return bounded({"type": "object", "additionalProperties": text()(bound)}, "maxProperties", bound)


def all_nested_bounded(bound: int | None) -> Schema:
    inner = bounded(OBJECT, "maxProperties", bound)
    middle = bounded({"type": "object", "additionalProperties": inner}, "maxProperties", bound)
    return bounded({"type": "array", "items": middle}, "maxItems", bound)


def one_nested_bounded(bound: int | None) -> Schema:
    return {"type": "array", "items": mapping(OBJECT)(bound)}


def replacing(bound: int | None) -> Schema:
    fields = {
        "str": text()(bound),
        "before": {"type": "string", "maxLength": 2},
        "after": {"type": "string", "maxLength": 4},
    }
    return {"type": "object", "properties": fields}


def splitting(bound: int | None) -> Schema:
    return {"type": "object", "properties": {"str": text()(bound), "separator": text()(bound)}}


ALL, HAS = "self.all(x, true)", "has(self.x)"
NESTED_RULE = 'self.all(x, x["y"].required == "z")'
# schema, rule, cost without a bound, bound, cost with the bound
CASES: list[tuple[Bounded, str, int | None, int, int]] = [
    (array(kind("number")), ALL, 4718591, 10, 32),
    (array(kind("string")), ALL, 3145727, 20, 62),
    (array(kind("boolean")), ALL, 1887437, 5, 17),
    (array(NUMBERS), ALL, 3145727, 100, 302),
    (array(OBJECT), ALL, 555128, 50, 152),
    (mapping(kind("number")), ALL, 1348169, 10, 32),
    (mapping(kind("string")), ALL, 1179647, 3, 11),
    (mapping(kind("boolean")), ALL, 943718, 100, 302),
    (text(), "self.contains('test')", 314574, 10, 5),
    (text(), "self.startsWith('test')", 2, 15, 2),
    (text(), "self.endsWith('test')", 2, 30, 2),
    (text(), 'size(self + "hello") > size("hello")', 314578, 4, 7),
    (array(kind("number")), "self[1] == 0.0", 2, 5000, 2),
    (array(kind("string")), "self[1] == self[1]", 314577, 8, 314577),
    (array(kind("number")), "self.all(x, self.all(y, true))", None, 10, 352),
    (array(kind("number")), "self.all(x, self.all(y, self.all(z, true)))", None, 10, 3552),
    (text(), 'self.matches("x")', 314574, 50, 22),
    (text(), '"".matches("(((((((((())))))))))[0-9]")', 7, 10, 7),
    (text(), 'self.matches("")', 1, 100, 1),
    (map_of_text, "self.all(x, x.contains(self[x]))", 2752507, 10, 72),
    (array(kind("number")), "self[3] == 0.0", 2, 0, 2),
    (mapping(kind("number")), 'self["x"] == 0.0', 2, 0, 2),
    (text(), 'self == "x"', 2, 0, 1),
    (text(format="byte"), 'self == b"x"', 2, 0, 1),
    (array(kind("number")), "self.all(x, x == 0.0)", 6291454, 3 * 1024 * 2048, 25165826),
    (all_nested_bounded, NESTED_RULE, 7340027, 10, 72),
    (one_nested_bounded, NESTED_RULE, 7340027, 10, 7340027),
    (array(kind("int-or-string")), ALL, 4718591, 10, 32),
    (array(kind("int-or-string")), "self[0] == 5", 3, 10, 3),
    (array(kind("boolean")), "self[0] == false", 2, 25, 2),
    (array(OBJECT), "self[0] == null", 2, 422, 2),
    (array(NUMBERS), "self[0][0] == -1.0", 3, 51, 3),
    (array(NUMBER_MAP), "self.all(x, x.y == 25.2)", 6291452, 12, 74),
    (array(NUMBER_MAP), "self[0].x > 2.0", 4, 3000, 4),
    (array(kind("duration")), ALL, 2359295, 5, 17),
    (array(kind("duration")), "self[0].getHours() == 2", 4, 525, 4),
    (array(kind("date")), ALL, 725936, 15, 47),
    (array(kind("date")), "self[2].getDayOfMonth() == 13", 4, 42, 4),
    (array(kind("date-time")), ALL, 428963, 25, 77),
    (array(kind("date-time")), "self[2].getMinutes() == 45", 4, 99, 4),
    (mapping(kind("int-or-string")), ALL, 1348169, 15, 47),
    (mapping(OBJECT), ALL, 428963, 20, 62),
    (mapping(NUMBER_MAP), ALL, 1179647, 10, 32),
    (mapping(NUMBERS), ALL, 1179647, 25, 77),
    (mapping(kind("duration")), ALL, 1048577, 5, 17),
    (mapping(kind("date")), ALL, 524288, 10, 32),
    (mapping(kind("date-time")), ALL, 349526, 25, 77),
    (text(), "self.find('[0-9]+') == ''", 629147, 10, 11),
    (array_of_text, "self.join(' ') == 'aa bb'", 329853068905, 10, 43),
    (array_of_text, "self.isSorted() == true", 329854432052, 10, 52),
    (replacing, "self.str.replace(self.before, self.after) == 'does not matter'", 629154, 4, 12),
    (splitting, "self.str.split(self.separator) == []", 629160, 10, 22),
    (text(), "self.lowerAscii() == 'lower!'", 314575, 10, 6),
    (mapping(kind("integer")), "oldSelf.size() == self.size()", 5, 10, 5),
    (mapping(kind("date-time")), 'self["a"] == self["b"]', 8, 7, 8),
    (mapping(kind("duration")), 'self["c"] == self["d"]', 8, 42, 8),
    (text(enum=["A", "B", "C", "LongValue"]), "self.contains('A')", 2, 1000, 401),
]


def cost_of(schema: Schema, rule: str) -> int:
    (compiled,) = compile_rules({**schema, "x-kubernetes-validations": [{"rule": rule}]}, root=False)
    assert compiled.error == ""
    assert compiled.program is not None
    return compiled.program.cost


@pytest.mark.parametrize(("schema", "rule", "unbounded", "bound", "with_bound"), CASES)
def test_costs_are_those_of_the_real_server(
    schema: Bounded, rule: str, unbounded: int | None, bound: int, with_bound: int
) -> None:
    assert cost_of(schema(bound), rule) == with_bound
    if unbounded is None:
        assert cost_of(schema(None), rule) > 10_000_000
    else:
        assert cost_of(schema(None), rule) == unbounded


def test_numbers_as_text_have_no_bound() -> None:
    # A trap of the real server: string() of an int might have any length, so what is made of it is not affordable.
    assert cost_of({"type": "integer"}, "('x' + string(self)).size() > 1") > 10_000_000
    assert cost_of({"type": "integer"}, "'x%d'.format([self]).size() > 1") < 100


@pytest.mark.parametrize(
    ("rule", "most"),
    [
        ("{'a': self}['a'] == self", 1000),
        ("self.map(x, x + 'b').all(x, x.size() < 3)", 1000),
        ("self.filter(x, x != 'a').size() < 3", 1000),
        ("[self, self][0].exists_one(x, x == 'a')", 1000),
        ("self.transformList(i, v, i).sum() < 5", 1000),
        ("self.all(i, v, i < 3 && v != '')", 1000),
        ("dyn(self) == dyn(self)", 1000),
    ],
)
def test_costs_follow_bounds_through_expressions(rule: str, most: int) -> None:
    schema = {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5}}
    assert cost_of(schema, rule) <= most
