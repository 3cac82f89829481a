"""The status subresource keeps what users want and what controllers see apart; the generation counts the former."""

import pytest

from tests.integration.kube_conformance.objects import widget
from tests.support.api import JSON_PATCH, Api

pytestmark = pytest.mark.conformance


def test_a_new_object_has_no_status(api: Api, widgets: str) -> None:
    created = api.post(widgets, {**widget("a"), "status": {"phase": "Ready"}}).expect(201)
    assert "status" not in created
    assert created["metadata"]["generation"] == 1


def test_the_main_path_leaves_the_status_alone(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    current = api.patch(f"{widgets}/a/status", {"status": {"phase": "Ready"}}).expect(200)
    ignored = api.put(f"{widgets}/a", {**current, "status": {"phase": "Failed"}}).expect(200)
    assert ignored["status"] == {"phase": "Ready"}
    assert ignored["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"]
    assert api.patch(f"{widgets}/a", {"status": None}).expect(200)["status"] == {"phase": "Ready"}
    without = {key: value for key, value in current.items() if key != "status"}
    assert api.put(f"{widgets}/a", without).expect(200)["status"] == {"phase": "Ready"}


def test_the_status_path_leaves_the_rest_alone(api: Api, widgets: str) -> None:
    created = api.post(widgets, widget("a", {"labels": {"x": "y"}})).expect(201)
    changed = {**created, "spec": {"size": 50}, "status": {"phase": "Ready"}}
    changed["metadata"] = {**created["metadata"], "labels": {"x": "z"}}
    updated = api.put(f"{widgets}/a/status", changed).expect(200)
    assert updated["status"] == {"phase": "Ready"}
    assert updated["spec"] == created["spec"]
    assert updated["metadata"]["labels"] == {"x": "y"}
    assert updated["metadata"]["generation"] == 1
    assert updated["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]
    patched = api.patch(f"{widgets}/a/status", {"spec": {"size": 60}, "status": {"readyNodes": 2}}).expect(200)
    assert (patched["spec"]["size"], patched["status"]) == (1, {"phase": "Ready", "readyNodes": 2})
    assert api.get(f"{widgets}/a/status").expect(200) == patched


def test_a_stale_status_conflicts(api: Api, widgets: str) -> None:
    created = api.post(widgets, widget("a")).expect(201)
    api.patch(f"{widgets}/a", {"spec": {"size": 2}}).expect(200)
    stale = api.put(f"{widgets}/a/status", {**created, "status": {"phase": "Ready"}}).expect(409)
    assert stale["reason"] == "Conflict"


def test_the_status_is_validated(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    status = api.patch(f"{widgets}/a/status", {"status": {"readyNodes": -1}}).expect(422)
    assert (
        "status.readyNodes: Invalid value: -1: readyNodes in body should be greater than or equal to 0"
        in status["message"]
    )
    bad = {"status": {"conditions": [{"type": "Ready", "status": "Perhaps"}]}}
    assert (
        "status.conditions[0].status: Unsupported value"
        in (api.patch(f"{widgets}/a/status", bad).expect(422)["message"])
    )


def test_the_status_of_nothing(api: Api, widgets: str) -> None:
    assert api.patch(f"{widgets}/absent/status", {"status": {}}).expect(404)["reason"] == "NotFound"
    assert api.get(f"{widgets}/absent/status").status == 404


def test_the_generation_counts_changes_of_the_spec(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)

    def generation(path: str, changes: object, content_type: str = "application/merge-patch+json") -> int:
        return int(api.patch(path, changes, content_type).expect(200)["metadata"]["generation"])

    item = f"{widgets}/a"
    assert generation(item, {"spec": {"size": 2}}) == 2
    assert generation(item, {"spec": {"size": 2}}) == 2
    assert generation(item, {"metadata": {"labels": {"x": "y"}, "annotations": {"a": "b"}}}) == 2
    assert generation(f"{item}/status", {"status": {"phase": "Ready"}}) == 2
    assert generation(item, {"metadata": {"generation": 9}}) == 2
    assert generation(item, [{"op": "replace", "path": "/spec/color", "value": "blue"}], JSON_PATCH) == 3
    current = api.get(item).expect(200)
    current["spec"]["size"] = 3
    assert api.put(item, current).expect(200)["metadata"]["generation"] == 4


def test_writers_of_status_and_spec_are_recorded_apart(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a"), fieldManager="user").expect(201)
    path = f"{widgets}/a/status"
    written = api.patch(path, {"status": {"phase": "Ready"}}, fieldManager="controller").expect(200)
    entries = {entry["manager"]: entry for entry in written["metadata"]["managedFields"]}
    assert "subresource" not in entries["user"]
    assert entries["controller"]["subresource"] == "status"
    assert entries["controller"]["fieldsV1"] == {"f:status": {".": {}, "f:phase": {}}}
