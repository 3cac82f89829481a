"""Texts of causes are read by people and tests: they must be the ones that Go prints."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube import causes


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("tab\tline\nbell\a", '"tab\\tline\\nbell\\a"'),
        ("\x00\x7f", '"\\x00\\x7f"'),
        ("grün ✓", '"grün ✓"'),
        ("\u200b", '"\\u200b"'),
        ("\U000e0001", '"\\U000e0001"'),
    ],
)
def test_quotes_as_go_does(text: str, quoted: str) -> None:
    assert causes.go_quote(text) == quoted


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_printable_ascii_reads_back(text: str) -> None:
    assert json.loads(causes.go_quote(text)) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (3.0, "3"),
        (1.5, "1.5"),
        (1e21, "1e+21"),
        ("x", '"x"'),
        ({"b": 1, "a": "<&>"}, '{"a":"\\u003c\\u0026\\u003e","b":1}'),
        ([1, "ü"], '[1,"ü"]'),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_shows_refused_values(value: Any, shown: str) -> None:
    assert causes.go_value(value) == shown


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (causes.required("spec.a"), "spec.a: Required value"),
        (causes.required("spec.a", "because"), "spec.a: Required value: because"),
        (causes.invalid("spec.a", "x", "is wrong"), 'spec.a: Invalid value: "x": is wrong'),
        (causes.invalid("", None, "some"), "<nil>: Invalid value: null: some"),
        (
            causes.not_supported("spec.t", "x", ["base", "lora", 1]),
            'spec.t: Unsupported value: "x": supported values: "base", "lora", "1"',
        ),
        (causes.duplicate("l[1]", {"name": "a"}), 'l[1]: Duplicate value: {"name":"a"}'),
        (causes.forbidden("spec.a", "not here"), "spec.a: Forbidden: not here"),
        (causes.too_long("spec.a", 253), "spec.a: Too long: may not be more than 253 bytes"),
        (causes.too_long("spec.a", 1), "spec.a: Too long: may not be more than 1 byte"),
        (causes.too_many("spec.a", 3, 1), "spec.a: Too many: 3: must have at most 1 item"),
        (causes.too_many("spec.a", 3, 2), "spec.a: Too many: 3: must have at most 2 items"),
    ],
)
def test_sentences(cause: causes.Cause, text: str) -> None:
    assert str(cause) == text


def test_paths_join() -> None:
    assert causes.join_path("", "spec") == "spec"
    assert causes.join_path("spec", "a") == "spec.a"
