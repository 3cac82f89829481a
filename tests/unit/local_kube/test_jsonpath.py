"""Kubernetes' JSONPath dialect."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.jsonpath import JsonPathError, parse

DATA: dict[str, Any] = {
    "spec": {"a.b": 1, "list": [10, 20, 30], "names": ["x", "y"], "empty": []},
    "status": {
        "conditions": [
            {"type": "Ready", "status": "True", "n": 1},
            {"type": "Available", "status": "False", "n": 5},
        ]
    },
    "kind": "A",
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".kind", ["A"]),
        ("kind", ["A"]),
        ("{.kind}", ["A"]),
        ("$.kind", ["A"]),
        (".", [DATA]),
        (".spec.a\\.b", [1]),
        (".spec['a.b']", [1]),
        ('.spec["a.b"]', [1]),
        (".spec.list[0]", [10]),
        (".spec.list[-1]", [30]),
        (".spec.list[1:]", [20, 30]),
        (".spec.list[:2]", [10, 20]),
        (".spec.list[0:3:2]", [10, 30]),
        (".spec.list[0,2]", [10, 30]),
        (".spec.list[*]", [10, 20, 30]),
        (".spec['list','names'][0]", [10, "x"]),
        (".status.conditions[*].type", ["Ready", "Available"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type == 'Ready')].status", ["True"]),
        ('.status.conditions[?(@.type!="Ready")].type', ["Available"]),
        (".status.conditions[?(@.n>2)].type", ["Available"]),
        (".status.conditions[?(@.n<=1)].type", ["Ready"]),
        (".status.conditions[?(@.missing)].type", []),
        (".status.conditions[?(@.n)].type", ["Ready", "Available"]),
        ("..type", ["Ready", "Available"]),
        (".missing.deep", []),
        (".kind.deep", []),
        (".spec.missing[0]", []),
        (".spec.empty[*]", []),
        (".spec.*", [1, [10, 20, 30], ["x", "y"], []]),
    ],
)
def test_finds(path: str, found: list[Any]) -> None:
    assert parse(path).find(DATA) == found


@pytest.mark.parametrize(
    "path",
    [
        ".spec.list[3]",
        ".spec.empty[0]",
        ".kind[0]",
        ".spec[?(@.x)]",
        ".spec.list[?(@.a==1)]",
    ],
)
def test_errors_while_looking(path: str) -> None:
    with pytest.raises(JsonPathError):
        parse(path).find(DATA)


@pytest.mark.parametrize(
    "path", ["", "[", ".a[", ".a[]", ".a['x]", ".a[?(@.b]", ".a[?(@.b==)]", ".a b", ".a[::0]", ".a..", "(", ".a[x]"]
)
def test_errors_while_parsing(path: str) -> None:
    with pytest.raises(JsonPathError, match="JSONPath"):
        parse(path)


@given(st.text(alphabet=".[]@?()='\"a*0:-,{}$ \\", max_size=12))
def test_only_json_path_errors_come_out(path: str) -> None:
    try:
        found = parse(path).find(DATA)
    except JsonPathError:
        return
    assert isinstance(found, list)
