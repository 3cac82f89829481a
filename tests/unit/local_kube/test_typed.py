"""What server-side apply says of configurations that do not fit their schema. The sentences are those of the real library."""

from typing import Any

import pytest

from local.kube.typed import faults

SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "on": {"type": "boolean"},
        "size": {"x-kubernetes-int-or-string": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "words": {"type": "array", "items": {"type": "string"}},
        "ports": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}},
        },
    },
}


def found(spec: Any) -> list[str]:
    schema = {"type": "object", "properties": {"spec": SPEC, "metadata": {"type": "object"}}}
    return faults(schema, {"apiVersion": "a/v1", "kind": "A", "metadata": {"labels": {}}, "spec": spec})


def test_what_fits() -> None:
    spec = {
        "name": "a", "count": 1.5, "on": False, "size": "5", "labels": {"x": "y"}, "free": {"deep": {"er": [1]}},
        "words": ["a"], "ports": [{"name": "http", "port": 80}],
    }  # fmt: skip
    assert found(spec) == []
    assert found(dict.fromkeys(spec)) == [], "null is of every type"
    assert found(None) == []


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ([], ".spec: expected map, got &{[]}"),
        ("x", ".spec: expected map, got &{x}"),
        ({"nope": {"x": 1}}, ".spec.nope: field not declared in schema"),
        ({"name": 5}, ".spec.name: expected string, got &value.valueUnstructured{Value:5}"),
        ({"name": True}, ".spec.name: expected string, got &value.valueUnstructured{Value:true}"),
        ({"count": "1"}, ".spec.count: expected numeric (int or float), got string"),
        ({"count": True}, ".spec.count: expected numeric (int or float), got bool"),
        ({"on": "yes"}, ".spec.on: expected boolean, got &{yes}"),
        ({"words": "*"}, ".spec.words: expected list, got &{*}"),
        ({"words": ["a", 5]}, ".spec.words[1]: expected string, got &value.valueUnstructured{Value:5}"),
        ({"labels": {"x": 1}}, ".spec.labels.x: expected string, got &value.valueUnstructured{Value:1}"),
        ({"ports": [{"name": "http", "nope": 1}]}, '.spec.ports[name="http"].nope: field not declared in schema'),
    ],
)
def test_what_does_not(spec: Any, fault: str) -> None:
    assert found(spec) == [fault]


def test_every_fault_is_told() -> None:
    assert [fault.partition(":")[0] for fault in found({"nope": 1, "name": 5, "words": 2})] == [
        ".spec.name",
        ".spec.nope",
        ".spec.words",
    ]
