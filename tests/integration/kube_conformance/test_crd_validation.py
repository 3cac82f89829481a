"""What the schema of a custom resource does: defaults, pruning, refusals with the path of the field, and CEL rules."""

from typing import Any

import pytest

from tests.integration.kube_conformance.objects import widget
from tests.support.api import Api

pytestmark = pytest.mark.conformance


def test_defaults(api: Api, widgets: str) -> None:
    created = api.post(widgets, widget("a", nested={}, ports=[{"name": "http"}])).expect(201)
    assert created["spec"] == {
        "size": 1,
        "color": "green",
        "mode": "auto",
        "window": {"days": 7},
        "nested": {"depth": 1},
        "ports": [{"name": "http", "protocol": "TCP"}],
    }


def test_null_is_nothing_unless_nullable(api: Api, widgets: str) -> None:
    spec = api.post(widgets, widget("a", color=None, nested={"note": None})).expect(201)["spec"]
    assert spec["color"] == "green"
    assert spec["nested"] == {"note": None, "depth": 1}


def test_unknown_fields_are_pruned(api: Api, widgets: str) -> None:
    body = widget("a", bogus={"x": 1}, anything={"kept": [1, {"x": "y"}]}, ports=[{"name": "p", "extra": 1}])
    body["other"] = "field"
    body["status"] = {"phase": "Ready"}
    created = api.post(widgets, body).expect(201)
    assert "other" not in created
    assert "bogus" not in created["spec"]
    assert created["spec"]["anything"] == {"kept": [1, {"x": "y"}]}
    assert created["spec"]["ports"] == [{"name": "p", "protocol": "TCP"}]
    patched = api.patch(f"{widgets}/a/status", {"status": {"phase": "Ready", "bogus": 1}}).expect(200)
    assert patched["status"] == {"phase": "Ready"}


def test_metadata_is_not_pruned_away(api: Api, widgets: str) -> None:
    metadata = {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["example.com/f"]}
    created = api.post(widgets, widget("a", metadata)).expect(201)["metadata"]
    assert {key: created[key] for key in metadata} == metadata
    api.patch(f"{widgets}/a", {"metadata": {"finalizers": None}}).expect(200)


@pytest.mark.parametrize("amount", [5, "5", "50%"])
def test_int_or_string(api: Api, widgets: str, amount: int | str) -> None:
    assert api.post(widgets, widget("a", amount=amount)).expect(201)["spec"]["amount"] == amount


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"size": None}, "spec.size: "),
        ({"size": "big"}, "spec.size in body must be of type integer"),
        ({"size": 1.5}, "spec.size in body must be of type int"),
        ({"size": 0}, "spec.size in body should be greater than or equal to 1"),
        ({"size": 101}, "spec.size in body should be less than or equal to 100"),
        ({"color": "pink"}, 'spec.color: Unsupported value: "pink": supported values: "red", "green", "blue"'),
        ({"nick": "Al"}, "spec.nick in body should match '^[a-z]+$'"),
        ({"nick": "toolong"}, "spec.nick: Too long: may not be "),
        ({"steps": []}, "spec.steps in body should have at least 1 items"),
        ({"steps": ["1", "2", "3", "4"]}, "spec.steps: Too many: 4: must have at most 3 items"),
        ({"steps": "one"}, "spec.steps in body must be of type array"),
        ({"steps": [1]}, "spec.steps[0] in body must be of type string"),
        ({"tags": ["x", "y", "x"]}, 'spec.tags[2]: Duplicate value: "x"'),
        ({"ports": [{"name": "a"}, {"name": "a"}]}, "spec.ports[1]: Duplicate value: "),
        ({"ports": [{"number": 1}]}, "spec.ports[0].name: Required value"),
        ({"limits": {"cpu": 4}}, "spec.limits.cpu in body must be of type string"),
        ({"amount": True}, "spec.amount"),
        ({"when": "yesterday"}, "spec.when in body must be of type date-time"),
        ({"min": 2, "max": 1}, "min must not be greater than max"),
        ({"color": "red", "size": 11}, "a red widget has at most size 10, not 11"),
        ({"nick": "root"}, "spec.nick: Forbidden: nick must not be root"),
    ],
)
def test_refusals(api: Api, widgets: str, spec: dict[str, Any], message: str) -> None:
    status = api.post(widgets, widget("a", **spec)).expect(422)
    assert (status["reason"], status["code"]) == ("Invalid", 422)
    assert status["message"].startswith('Widget.conformance.example.com "a" is invalid: ')
    assert message in status["message"]
    assert (status["details"]["name"], status["details"]["kind"]) == ("a", "Widget")
    assert status["details"]["group"] == "conformance.example.com"
    assert api.get(f"{widgets}/a").status == 404


def test_required_fields(api: Api, widgets: str) -> None:
    body = widget("a")
    del body["spec"]["size"]
    status = api.post(widgets, body).expect(422)
    assert "spec.size: Required value" in status["message"]
    cause = {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.size"}
    assert cause in status["details"]["causes"]
    # The rules could trip over what is missing, so they wait, and the user is told so.
    assert "some validation rules were not checked because the object was invalid" in status["message"]
    del body["spec"]
    assert "spec: Required value" in api.post(widgets, body).expect(422)["message"]


def test_all_refusals_at_once(api: Api, widgets: str) -> None:
    status = api.post(widgets, widget("a", size=0, color="pink", steps=[])).expect(422)
    fields = {cause["field"] for cause in status["details"]["causes"]}
    assert {"spec.size", "spec.color", "spec.steps"} <= fields


def test_a_rule_names_its_field(api: Api, widgets: str) -> None:
    status = api.post(widgets, widget("a", min=2, max=1)).expect(422)
    (cause,) = status["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldValueInvalid", "spec")
    assert cause["message"] == "Invalid value: min must not be greater than max"
    (cause,) = api.post(widgets, widget("a", nick="root")).expect(422)["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldValueForbidden", "spec.nick")


def test_rules_pass_what_they_allow(api: Api, widgets: str) -> None:
    for name, spec in (("a", {"min": 1, "max": 1}), ("b", {"min": 5}), ("c", {"color": "red", "size": 10})):
        api.post(widgets, widget(name, **spec)).expect(201)


def test_a_transition_rule_looks_at_the_old_value(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", mode="manual")).expect(201)
    api.patch(f"{widgets}/a", {"spec": {"mode": "manual", "size": 2}}).expect(200)
    status = api.patch(f"{widgets}/a", {"spec": {"mode": "auto"}}).expect(422)
    assert "spec.mode: Invalid value: " in status["message"]
    assert "mode is immutable" in status["message"]
    api.delete(f"{widgets}/a").expect(200)
    api.post(widgets, widget("a", mode="auto")).expect(201)


def test_a_status_update_does_not_judge_the_spec_anew(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", mode="manual")).expect(201)
    body = {"spec": {"mode": "auto"}, "status": {"phase": "Ready"}}
    patched = api.patch(f"{widgets}/a/status", body).expect(200)
    assert (patched["spec"]["mode"], patched["status"]["phase"]) == ("manual", "Ready")


def test_an_object_of_another_kind(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    for answer in (
        api.post(widgets, {**widget("a"), "kind": "Gadget"}),
        api.patch(f"{widgets}/a", {"kind": "Gadget"}),
    ):
        assert answer.expect(422)["message"] == (
            'Gadget.conformance.example.com "a" is invalid: kind: Invalid value: "Gadget": must be Widget'
        )
