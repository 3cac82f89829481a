"""CEL expressions: their values, their errors, and the mistakes that are found before they run."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.cel.compile import CompileError, Program, compile_expression
from local.kube.cel.evaluate import evaluate
from local.kube.cel.functions import CelError
from local.kube.cel.types import schema_type
from local.kube.cel.values import to_cel

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "i": {"type": "integer"},
        "d": {"type": "number"},
        "b": {"type": "boolean"},
        "s": {"type": "string"},
        "t": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"},
        "u": {"type": "string", "format": "duration"},
        "bytes": {"type": "string", "format": "byte"},
        "l": {"type": "array", "items": {"type": "integer"}},
        "ls": {"type": "array", "items": {"type": "string"}},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "keyed": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}},
        },
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "o": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}},
        "either": {"x-kubernetes-int-or-string": True},
        "n": {"type": "string", "nullable": True},
        "namespace": {"type": "string"},
        "x-y": {"type": "string"},
        "a.b": {"type": "string"},
        "c/d": {"type": "string"},
        "e__f": {"type": "string"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "anything": {"x-kubernetes-preserve-unknown-fields": True},
        "missing": {"type": "string"},
    },
}
VALUE: dict[str, Any] = {
    "i": 7,
    "d": 2.5,
    "b": True,
    "s": "hf://org/name@main",
    "t": "2026-11-22T05:06:07.5Z",
    "day": "2024-02-29",
    "u": "1h30m",
    "bytes": "aGk=",
    "l": [3, 1, 2],
    "ls": ["a", "b"],
    "set": ["a", "b"],
    "keyed": [{"k": "a", "v": 1}, {"k": "b", "v": 2}],
    "m": {"one": "1", "two": "2"},
    "o": {"x": 1},
    "either": "50%",
    "n": None,
    "namespace": "ns",
    "x-y": "dash",
    "a.b": "dot",
    "c/d": "slash",
    "e__f": "underscores",
    "free": {"k": 1},
    "anything": 5,
}


def compiled(text: str) -> Program:
    kind = schema_type(SCHEMA)
    assert kind is not None
    return compile_expression(text, {"self": kind})


def value_of(text: str) -> Any:
    return evaluate(compiled(text).checked, {"self": to_cel(SCHEMA, VALUE)})


# One expression a line; only a triple-quoted string goes on over the end of its line.
EXPRESSIONS = Path(__file__).with_name("true_expressions.cel").read_text(encoding="utf-8")


def true_expressions() -> list[str]:
    found: list[str] = []
    open_string = False
    for line in EXPRESSIONS.splitlines():
        if open_string:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
        open_string ^= line.count("'''") % 2 == 1
    return found


@pytest.mark.parametrize("text", true_expressions())
def test_is_true(text: str) -> None:
    assert value_of(text) is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("self.missing == 'x'", "no such key: missing"),
        ("self.o.y == ''", "no such key: y"),
        ("self.m['x'] == ''", "no such key: x"),
        ("self.l[9] == 1", "index out of bounds: 9"),
        ("self.l[-1] == 1", "index out of bounds: -1"),
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("1u - 2u > 0u", "unsigned integer overflow"),
        ("int('x') == 1", "type conversion error from 'string' to 'int'"),
        ("duration(self.s) > duration('1s')", "type conversion error from 'string' to 'google.protobuf.Duration'"),
        ("timestamp(self.s) == timestamp(0)", "type conversion error from 'string' to 'google.protobuf.Timestamp'"),
        ("self.s.matches(self.s + ')')", "error parsing regexp"),
        ("self.s.substring(5, 2) == ''", "invalid substring range"),
        ("self.s.substring(100) == ''", "index out of range: 100"),
        ("'abc'.charAt(9) == ''", "index out of range: 9"),
        ("[].min() == 1", "min called on empty list"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("self.l.all(x, x / 0 == 1)", "division by zero"),
        ("self.l.map(x, x / 0) == [1]", "division by zero"),
        ("self.either > 5", "no such overload"),
        ("url('a b').getHost() == ''", "URL parse error"),
        ("quantity('x').isInteger()", "quantities must match the regular expression"),
        ("{'a': 1, 'a': 2}.size() == 1", "duplicate key: a"),
        ("'%d'.format(['a']) == ''", "error during formatting"),
        ("'%y'.format([1]) == ''", "unrecognized formatting clause"),
        ("'%s'.format([]) == ''", "index 0 out of range"),
    ],
)
def test_errors_at_run_time(text: str, message: str) -> None:
    with pytest.raises(CelError) as caught:
        value_of(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("self.nope == 1", "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^"),
        ("sel.i == 1", "undeclared reference to 'sel' (in container '')"),
        ("self.i.frobnicate()", "undeclared reference to 'frobnicate' (in container '')"),
        ("ip('1.2.3.4') == 1", "undeclared reference to 'ip'"),
        ("self.i == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.i + 1.0 > 2.0", "found no matching overload for '_+_' applied to '(int, double)'"),
        ("self.s > 1", "found no matching overload for '_>_'"),
        ("self.i.startsWith('x')", "found no matching overload for 'startsWith' applied to 'int.(string)'"),
        ("self.i && true", "found no matching overload for '_&&_' applied to '(int, bool)'"),
        ("self.s.x == 1", "type 'string' does not support field selection"),
        ("self.i.all(x, true)", "expression of type 'int' cannot be range of a comprehension"),
        ("[1, 'a'].size() == 2", "expected type 'int' but found 'string'"),
        ("self.s.matches(')')", "ERROR: <input>:1:16: invalid matches argument"),
        ("duration('x') > duration('1s')", "invalid duration argument"),
        ("timestamp('x') == timestamp('y')", "invalid timestamp argument"),
        ("{'a': 1, 'b': 'c'}.size() == 2", "expected type 'int' but found 'string'"),
        ("self.s == null", "found no matching overload for '_==_' applied to '(string, null)'"),
        ("self.free.k == 1", "undefined field 'k'"),
        ("self.anything == 5", "undefined field 'anything'"),
        ("self.namespace == 'ns'", "undefined field 'namespace'"),
        ("self.l.map(x, y) == []", "undeclared reference to 'y'"),
        ("self.l.all(1, true)", "argument must be a simple name"),
        ("self.l.all(x, x, true)", "overlapping bind variable 'x'"),
        ("has(self)", "invalid argument to has() macro"),
        ("self.i ==", "Syntax error"),
        ("self.i == 1)", "Syntax error"),
        ("'open", "Syntax error"),
        ("for == 1", "reserved identifier: for"),
        ("A{x: 1}", "message construction is not supported"),
        ("[?self.?i].size() == 1", "optional list elements are not supported"),
        ("99999999999999999999 > 1", "invalid literal"),
    ],
)
def test_mistakes_found_before_running(text: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        compiled(text)
    assert message in str(caught.value)


def test_all_mistakes_are_reported() -> None:
    with pytest.raises(CompileError) as caught:
        compiled("self.nope == 1 && nobody")
    assert str(caught.value).count("ERROR: <input>") == 2


@given(st.text(max_size=30))
def test_no_text_breaks_the_compiler(text: str) -> None:
    with contextlib.suppress(CompileError):
        assert compiled(text).cost >= 0


@given(st.text(max_size=20))
def test_strings_survive_quoting(text: str) -> None:
    escaped = "".join(f"\\U{ord(char):08x}" for char in text)
    assert value_of(f"'{escaped}'") == text
    assert value_of(f"'{escaped}'.size()") == len(text)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_integers_are_64_bits_wide(left: int, right: int) -> None:
    text = f"{left} + ({right})"
    if -(2**63) <= left + right < 2**63:
        assert value_of(text) == left + right
    else:
        with pytest.raises(CelError, match="integer overflow"):
            value_of(text)


def test_deep_expressions_are_refused_not_fatal() -> None:
    with pytest.raises(CompileError):
        compiled("(" * 5000 + "1" + ")" * 5000)
