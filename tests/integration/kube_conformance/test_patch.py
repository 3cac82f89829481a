"""The three patches: merge (RFC 7386), JSON (RFC 6902), and strategic merge with its list keys."""

import pytest

from tests.integration.kube_conformance.objects import configmap, pod, widget
from tests.support.api import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Api, Json

pytestmark = pytest.mark.conformance


def test_merge_patch(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", limits={"x": "1", "y": "2"}, steps=["one", "two"], nick="al")).expect(201)
    changes = {"spec": {"limits": {"x": None, "z": "3"}, "steps": ["three"], "nick": None, "window": {"days": 9}}}
    spec = api.patch(f"{widgets}/a", changes).expect(200)["spec"]
    assert (spec["limits"], spec["steps"], spec["window"]) == ({"y": "2", "z": "3"}, ["three"], {"days": 9})
    assert "nick" not in spec
    assert spec["size"] == 1


def test_json_patch(api: Api, configmaps: str, widgets: str) -> None:
    api.post(configmaps, configmap("a", {"k": "v"}, annotations={"example.com/a": "b"})).expect(201)
    operations: list[Json] = [
        {"op": "test", "path": "/data/k", "value": "v"},
        {"op": "replace", "path": "/data/k", "value": "w"},
        {"op": "add", "path": "/metadata/labels", "value": {"x": "y"}},
        {"op": "remove", "path": "/metadata/annotations/example.com~1a"},
        {"op": "copy", "from": "/data/k", "path": "/data/copied"},
        {"op": "move", "from": "/data/copied", "path": "/data/moved"},
    ]
    patched = api.patch(f"{configmaps}/a", operations, JSON_PATCH).expect(200)
    assert (patched["data"], patched["metadata"]["labels"]) == ({"k": "w", "moved": "w"}, {"x": "y"})
    assert "annotations" not in patched["metadata"]
    api.post(widgets, widget("a", steps=["one"])).expect(201)
    appended = [{"op": "add", "path": "/spec/steps/-", "value": "two"}]
    assert api.patch(f"{widgets}/a", appended, JSON_PATCH).expect(200)["spec"]["steps"] == ["one", "two"]
    inserted = [{"op": "add", "path": "/spec/steps/0", "value": "zero"}]
    assert api.patch(f"{widgets}/a", inserted, JSON_PATCH).expect(200)["spec"]["steps"] == ["zero", "one", "two"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/data/k", "value": "other"},
        {"op": "remove", "path": "/data/absent"},
        {"op": "replace", "path": "/data/absent", "value": "x"},
        {"op": "add", "path": "/absent/deep", "value": "x"},
    ],
)
def test_a_json_patch_is_all_or_nothing(api: Api, configmaps: str, operation: Json) -> None:
    created = api.post(configmaps, configmap("a", {"k": "v"})).expect(201)
    first = {"op": "add", "path": "/data/l", "value": "w"}
    status = api.patch(f"{configmaps}/a", [first, operation], JSON_PATCH).expect(422)
    assert status["reason"] == "Invalid"
    assert api.get(f"{configmaps}/a").expect(200) == created


def test_strategic_patch_merges_maps_and_lists_by_key(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    api.post(path, pod("a", "busybox:1", "busybox:2")).expect(201)
    changes = {"spec": {"containers": [{"name": "c1", "image": "busybox:3"}]}, "metadata": {"labels": {"x": "y"}}}
    patched = api.patch(f"{path}/a", changes, STRATEGIC_PATCH).expect(200)
    assert [container["image"] for container in patched["spec"]["containers"]] == ["busybox:1", "busybox:3"]
    assert patched["metadata"]["labels"] == {"x": "y"}


def test_strategic_patch_directives(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/services"
    ports = [{"name": "one", "port": 1, "protocol": "TCP"}, {"name": "two", "port": 2, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"clusterIP": "None", "selector": {"app": "a", "tier": "b"}, "ports": ports},
    }
    created = api.post(path, service).expect(201)
    assert created["spec"]["clusterIP"] == "None"

    def patched(changes: Json) -> Json:
        return api.patch(f"{path}/a", changes, STRATEGIC_PATCH).expect(200)

    added = patched({"spec": {"ports": [{"name": "three", "port": 3}]}})["spec"]["ports"]
    assert sorted(port["port"] for port in added) == [1, 2, 3]
    removed = patched({"spec": {"ports": [{"$patch": "delete", "port": 2}]}})["spec"]["ports"]
    assert sorted(port["port"] for port in removed) == [1, 3]
    replaced = patched({"spec": {"ports": [{"$patch": "replace"}, {"name": "only", "port": 9}]}})["spec"]["ports"]
    assert [port["port"] for port in replaced] == [9]
    assert patched({"spec": {"selector": {"tier": None}}})["spec"]["selector"] == {"app": "a"}
    selector = patched({"spec": {"selector": {"$patch": "replace", "only": "this"}}})["spec"]["selector"]
    assert selector == {"only": "this"}


def test_strategic_patch_of_finalizers_and_owners(api: Api, configmaps: str) -> None:
    owner = api.post(configmaps, configmap("owner")).expect(201)["metadata"]
    api.post(configmaps, configmap("a", finalizers=["example.com/one"])).expect(201)

    def patched(metadata: Json) -> Json:
        found = api.patch(f"{configmaps}/a", {"metadata": metadata}, STRATEGIC_PATCH).expect(200)["metadata"]
        assert isinstance(found, dict)
        return found

    assert sorted(patched({"finalizers": ["example.com/two"]})["finalizers"]) == ["example.com/one", "example.com/two"]
    assert patched({"$deleteFromPrimitiveList/finalizers": ["example.com/one"]})["finalizers"] == ["example.com/two"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    assert patched({"ownerReferences": [reference]})["ownerReferences"] == [reference]
    gone = patched({"ownerReferences": [{"$patch": "delete", "uid": owner["uid"]}], "finalizers": None})
    assert "ownerReferences" not in gone
    assert "finalizers" not in gone


def test_a_patch_may_name_the_version_it_is_for(api: Api, configmaps: str, widgets: str) -> None:
    for path, body in ((configmaps, configmap("a")), (widgets, widget("a"))):
        stale = api.post(path, body).expect(201)["metadata"]["resourceVersion"]
        fresh = api.patch(f"{path}/a", {"metadata": {"labels": {"x": "1"}}}).expect(200)["metadata"]["resourceVersion"]
        changes: Json = {"metadata": {"resourceVersion": stale, "labels": {"x": "2"}}}
        assert api.patch(f"{path}/a", changes).expect(409)["reason"] == "Conflict"
        changes["metadata"]["resourceVersion"] = fresh
        assert api.patch(f"{path}/a", changes).expect(200)["metadata"]["labels"] == {"x": "2"}


@pytest.mark.parametrize("content_type", [MERGE_PATCH, JSON_PATCH, STRATEGIC_PATCH])
def test_a_patch_needs_its_object(api: Api, configmaps: str, content_type: str) -> None:
    body: object = [] if content_type == JSON_PATCH else {}
    assert api.patch(f"{configmaps}/absent", body, content_type).expect(404)["reason"] == "NotFound"


def test_patches_are_validated(api: Api, widgets: str) -> None:
    created = api.post(widgets, widget("a")).expect(201)
    status = api.patch(f"{widgets}/a", {"spec": {"color": "pink"}}).expect(422)
    assert 'spec.color: Unsupported value: "pink"' in status["message"]
    status = api.patch(f"{widgets}/a", [{"op": "remove", "path": "/spec/size"}], JSON_PATCH).expect(422)
    assert "spec.size: Required value" in status["message"]
    assert api.get(f"{widgets}/a").expect(200) == created
    status = api.patch(f"{widgets}/a", {"spec": {"bogus": 1}}, fieldValidation="Strict").expect(422, 400)
    assert 'unknown field "spec.bogus"' in status["message"]


def test_a_removed_field_gets_its_default_again(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", color="blue")).expect(201)
    assert api.patch(f"{widgets}/a", {"spec": {"color": None}}).expect(200)["spec"]["color"] == "green"


@pytest.mark.parametrize(
    ("field", "value"),
    [("uid", "00000000-0000-0000-0000-000000000000"), ("deletionTimestamp", "2026-01-01T00:00:00Z")],
)
def test_a_patch_of_what_only_the_server_sets_is_refused(
    api: Api, configmaps: str, widgets: str, field: str, value: str
) -> None:
    api.post(configmaps, configmap("a")).expect(201)
    api.post(widgets, widget("a")).expect(201)
    for path in (configmaps, widgets):
        status = api.patch(f"{path}/a", {"metadata": {field: value}}).expect(422)
        assert status["message"].endswith(f'is invalid: metadata.{field}: Invalid value: "{value}": field is immutable')
