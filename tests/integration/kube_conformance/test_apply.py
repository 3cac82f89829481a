"""Server-side apply: who owns which field, and what happens when two disagree."""

import pytest

from tests.integration.kube_conformance.objects import configmap, managers, widget
from tests.support.api import APPLY_PATCH, Api, Json

pytestmark = pytest.mark.conformance


def owned(found: Json, manager: str) -> Json:
    """fieldsV1 of the entry of `manager` (one entry expected)."""
    (entry,) = [entry for entry in found["metadata"]["managedFields"] if entry["manager"] == manager]
    fields = entry["fieldsV1"]
    assert isinstance(fields, dict)
    return fields


def test_apply_creates_then_updates_then_changes_nothing(api: Api, configmaps: str, widgets: str) -> None:
    for path, body, changed in (
        (configmaps, configmap("a", {"k": "1"}), configmap("a", {"k": "2"})),
        (widgets, widget("a"), widget("a", size=2)),
    ):
        created = api.apply(f"{path}/a", body, "one").expect(201)
        assert managers(created) == [("one", "Apply")]
        updated = api.apply(f"{path}/a", changed, "one").expect(200)
        assert updated["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]
        again = api.apply(f"{path}/a", changed, "one").expect(200)
        assert again["metadata"]["resourceVersion"] == updated["metadata"]["resourceVersion"]


def test_the_body_is_yaml(api: Api, configmaps: str) -> None:
    body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: |\n    two\n    lines\n"
    created = api.apply(f"{configmaps}/a", body, "one").expect(201)
    assert created["data"] == {"k": "two\nlines\n"}
    assert api.apply(f"{configmaps}/a", "a: [", "one").expect(400)["reason"] == "BadRequest"


def test_a_manager_must_be_named(api: Api, configmaps: str) -> None:
    response = api.patch(f"{configmaps}/a", configmap("a"), APPLY_PATCH)
    assert "fieldManager: Required value: is required for apply patch" in response.expect(422)["message"]


def test_managed_fields_cannot_be_applied(api: Api, configmaps: str) -> None:
    created = api.apply(f"{configmaps}/a", configmap("a", {"k": "v"}), "one").expect(201)
    status = api.apply(f"{configmaps}/a", created, "one").expect(400)
    assert "metadata.managedFields must be nil" in status["message"]


def test_fields_left_out_are_removed(api: Api, configmaps: str) -> None:
    api.apply(f"{configmaps}/a", configmap("a", {"k": "1", "l": "2"}, labels={"x": "y"}), "one").expect(201)
    applied = api.apply(f"{configmaps}/a", configmap("a", {"l": "2"}), "one").expect(200)
    assert applied["data"] == {"l": "2"}
    assert "labels" not in applied["metadata"]
    assert owned(applied, "one") == {"f:data": {"f:l": {}}}


def test_one_conflict(api: Api, configmaps: str) -> None:
    api.apply(f"{configmaps}/a", configmap("a", {"k": "1"}), "one").expect(201)
    status = api.apply(f"{configmaps}/a", configmap("a", {"k": "2"}), "two").expect(409)
    assert status["reason"] == "Conflict"
    assert status["message"] == 'Apply failed with 1 conflict: conflict with "one": .data.k'
    assert status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.k"}
    ]
    assert api.get(f"{configmaps}/a").expect(200)["data"] == {"k": "1"}


def test_several_conflicts(api: Api, configmaps: str) -> None:
    api.apply(f"{configmaps}/a", configmap("a", {"k": "1", "l": "1"}), "one").expect(201)
    status = api.apply(f"{configmaps}/a", configmap("a", {"k": "2", "l": "2"}), "two").expect(409)
    assert status["message"] == 'Apply failed with 2 conflicts: conflicts with "one":\n- .data.k\n- .data.l'
    assert [cause["field"] for cause in status["details"]["causes"]] == [".data.k", ".data.l"]


def test_conflict_with_a_plain_write(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a", {"k": "1"}), fieldManager="writer").expect(201)
    status = api.apply(f"{configmaps}/a", configmap("a", {"k": "2"}), "one").expect(409)
    assert 'conflict with "writer" using v1' in status["message"]
    assert status["message"].endswith(": .data.k")


def test_force_takes_the_field(api: Api, configmaps: str) -> None:
    api.apply(f"{configmaps}/a", configmap("a", {"k": "1", "l": "1"}), "one").expect(201)
    taken = api.apply(f"{configmaps}/a", configmap("a", {"k": "2"}), "two", force=True).expect(200)
    assert taken["data"] == {"k": "2", "l": "1"}
    assert owned(taken, "one") == {"f:data": {"f:l": {}}}
    assert owned(taken, "two") == {"f:data": {"f:k": {}}}
    # Now it is the first one that is in the wrong.
    status = api.apply(f"{configmaps}/a", configmap("a", {"k": "1", "l": "1"}), "one").expect(409)
    assert status["message"] == 'Apply failed with 1 conflict: conflict with "two": .data.k'


def test_equal_values_are_shared(api: Api, configmaps: str) -> None:
    body = configmap("a", {"k": "1"})
    api.apply(f"{configmaps}/a", body, "one").expect(201)
    shared = api.apply(f"{configmaps}/a", body, "two").expect(200)
    assert managers(shared) == [("one", "Apply"), ("two", "Apply")]
    # One of the owners lets go: the field stays, because the other still wants it.
    kept = api.apply(f"{configmaps}/a", configmap("a"), "one").expect(200)
    assert kept["data"] == {"k": "1"}
    assert managers(kept) == [("two", "Apply")]
    # The last owner lets go: it is removed.
    assert "data" not in api.apply(f"{configmaps}/a", configmap("a"), "two").expect(200)


def test_a_plain_write_takes_ownership(api: Api, configmaps: str) -> None:
    api.apply(f"{configmaps}/a", configmap("a", {"k": "1", "l": "1"}), "one").expect(201)
    written = api.patch(f"{configmaps}/a", {"data": {"k": "2"}}, fieldManager="writer").expect(200)
    assert owned(written, "one") == {"f:data": {"f:l": {}}}
    assert owned(written, "writer") == {"f:data": {"f:k": {}}}
    assert managers(written) == [("one", "Apply"), ("writer", "Update")]
    gone = api.patch(f"{configmaps}/a", {"data": {"k": None}}, fieldManager="other").expect(200)
    assert managers(gone) == [("one", "Apply")]


def test_lists_by_key(api: Api, widgets: str) -> None:
    api.apply(f"{widgets}/a", widget("a", ports=[{"name": "http", "number": 80}]), "one").expect(201)
    second = widget("a", ports=[{"name": "grpc", "number": 90}])
    merged = api.apply(f"{widgets}/a", second, "two").expect(200)
    ports = {port["name"]: port for port in merged["spec"]["ports"]}
    assert ports == {
        "http": {"name": "http", "number": 80, "protocol": "TCP"},
        "grpc": {"name": "grpc", "number": 90, "protocol": "TCP"},
    }
    fields = owned(merged, "two")["f:spec"]["f:ports"]
    assert fields['k:{"name":"grpc"}'].items() >= {".": {}, "f:name": {}, "f:number": {}}.items()
    clash = api.apply(f"{widgets}/a", widget("a", ports=[{"name": "http", "number": 81}]), "two").expect(409)
    assert clash["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.ports[name="http"].number'
    removed = api.apply(f"{widgets}/a", widget("a"), "two").expect(200)
    assert [port["name"] for port in removed["spec"]["ports"]] == ["http"]


def test_lists_that_are_sets(api: Api, widgets: str) -> None:
    api.apply(f"{widgets}/a", widget("a", tags=["x", "y"]), "one").expect(201)
    merged = api.apply(f"{widgets}/a", widget("a", tags=["y", "z"]), "two").expect(200)
    assert sorted(merged["spec"]["tags"]) == ["x", "y", "z"]
    assert owned(merged, "one")["f:spec"]["f:tags"] == {'v:"x"': {}, 'v:"y"': {}}
    fewer = api.apply(f"{widgets}/a", widget("a"), "one").expect(200)
    assert sorted(fewer["spec"]["tags"]) == ["y", "z"]


def test_lists_that_are_atomic(api: Api, widgets: str) -> None:
    api.apply(f"{widgets}/a", widget("a", steps=["one", "two"]), "one").expect(201)
    status = api.apply(f"{widgets}/a", widget("a", steps=["one"]), "two").expect(409)
    assert status["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.steps'
    assert api.apply(f"{widgets}/a", widget("a", steps=["one"]), "two", force=True).expect(200)["spec"]["steps"] == [
        "one"
    ]


def test_the_status_is_applied_apart(api: Api, widgets: str) -> None:
    api.apply(f"{widgets}/a", widget("a"), "one").expect(201)
    status: Json = widget("a")
    del status["spec"]
    status["status"] = {"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}
    applied = api.apply(f"{widgets}/a/status", status, "controller").expect(200)
    assert applied["status"]["phase"] == "Ready"
    assert applied["spec"]["size"] == 1
    (entry,) = [entry for entry in applied["metadata"]["managedFields"] if entry["manager"] == "controller"]
    assert (entry["operation"], entry["subresource"]) == ("Apply", "status")
    assert set(entry["fieldsV1"]) == {"f:status"}
    status["status"]["phase"] = "Failed"
    clash = api.apply(f"{widgets}/a/status", status, "rival").expect(409)
    assert clash["message"] == (
        'Apply failed with 1 conflict: conflict with "controller" with subresource "status": .status.phase'
    )


def test_two_managers_of_one_condition_list(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    applied: Json = {}
    for manager, kind in (("one", "Ready"), ("two", "Verified")):
        body = widget("a")
        del body["spec"]
        body["status"] = {"conditions": [{"type": kind, "status": "True"}]}
        applied = api.apply(f"{widgets}/a/status", body, manager).expect(200)
    assert sorted(entry["type"] for entry in applied["status"]["conditions"]) == ["Ready", "Verified"]


def test_apply_is_validated(api: Api, widgets: str) -> None:
    status = api.apply(f"{widgets}/a", widget("a", color="pink"), "one").expect(422)
    assert 'spec.color: Unsupported value: "pink"' in status["message"]
    assert api.get(f"{widgets}/a").status == 404


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"bogus": 1}, ".spec.bogus: field not declared in schema"),
        ({"steps": "one"}, ".spec.steps: expected list, got &{one}"),
        ({"limits": ["a", True]}, ".spec.limits: expected map, got &{[a true]}"),
        ({"nick": 5}, ".spec.nick: expected string, got &value.valueUnstructured{Value:5}"),
        ({"size": "big"}, ".spec.size: expected numeric (int or float), got string"),
    ],
)
def test_apply_takes_only_what_fits_the_schema(api: Api, widgets: str, spec: Json, fault: str) -> None:
    """Where a create prunes and warns. A plain error of the server, hence the 500."""
    status = api.apply(f"{widgets}/a", widget("a", **spec), "one").expect(500)
    kind = "conformance.example.com/v1alpha1, Kind=Widget"
    assert status["message"] == f"failed to create typed patch object (/a; {kind}): {fault}"
    assert api.get(f"{widgets}/a").status == 404


def test_finalizers_of_two_managers(api: Api, configmaps: str) -> None:
    api.apply(f"{configmaps}/a", configmap("a", finalizers=["example.com/one"]), "one").expect(201)
    both = api.apply(f"{configmaps}/a", configmap("a", finalizers=["example.com/two"]), "two").expect(200)
    assert sorted(both["metadata"]["finalizers"]) == ["example.com/one", "example.com/two"]
    left = api.apply(f"{configmaps}/a", configmap("a"), "one").expect(200)
    assert left["metadata"]["finalizers"] == ["example.com/two"]
    api.apply(f"{configmaps}/a", configmap("a"), "two").expect(200)
    assert api.get(f"{configmaps}/a").expect(200)["metadata"].get("finalizers") is None
