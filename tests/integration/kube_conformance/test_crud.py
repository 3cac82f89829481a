"""Create, read, replace and delete, and what the server itself writes into the metadata."""

import re

import pytest

from tests.integration.kube_conformance.objects import configmap, names, node, pod, widget
from tests.support.api import Api, Json

pytestmark = pytest.mark.conformance


def version(found: Json) -> int:
    return int(found["metadata"]["resourceVersion"])


def test_create_fills_in_the_metadata(api: Api, configmaps: str, namespace: str) -> None:
    response = api.post(configmaps, configmap("a", {"k": "v"}, labels={"x": "y"}))
    created = response.expect(201)
    assert response.headers["content-type"].startswith("application/json")
    assert (created["apiVersion"], created["kind"], created["data"]) == ("v1", "ConfigMap", {"k": "v"})
    metadata = created["metadata"]
    assert (metadata["name"], metadata["namespace"], metadata["labels"]) == ("a", namespace, {"x": "y"})
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", metadata["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["creationTimestamp"])
    assert version(created) > 0
    assert "generation" not in metadata
    assert api.get(f"{configmaps}/a").expect(200) == created


def test_what_the_server_owns_cannot_be_set(api: Api, widgets: str) -> None:
    wanted = widget("a", {"uid": "00000000-0000-0000-0000-000000000000", "generation": 7})
    wanted["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    metadata = api.post(widgets, wanted).expect(201)["metadata"]
    assert metadata["uid"] != "00000000-0000-0000-0000-000000000000"
    assert metadata["generation"] == 1
    assert not metadata["creationTimestamp"].startswith("2001")


def test_generate_name(api: Api, configmaps: str) -> None:
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "prefix-"}}
    first, second = (api.post(configmaps, wanted).expect(201)["metadata"] for _ in range(2))
    assert first["name"] != second["name"]
    assert re.fullmatch(r"prefix-[a-z0-9]{5}", first["name"])
    assert first["generateName"] == "prefix-"


def test_a_name_is_needed(api: Api, configmaps: str) -> None:
    status = api.post(configmaps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}).expect(422)
    assert "name or generateName is required" in status["message"]


def test_list_has_its_own_kind_and_version(api: Api, configmaps: str, widgets: str) -> None:
    created = api.post(configmaps, configmap("b")).expect(201)
    api.post(configmaps, configmap("a")).expect(201)
    listed = api.get(configmaps).expect(200)
    assert (listed["kind"], listed["apiVersion"], names(listed)) == ("ConfigMapList", "v1", ["a", "b"])
    assert version(listed) > version(created)
    assert api.get(widgets).expect(200)["kind"] == "WidgetList"
    assert api.get(widgets).expect(200)["items"] == []
    everywhere = api.get("/api/v1/configmaps", fieldSelector="metadata.name=b").expect(200)
    assert created["metadata"]["uid"] in [item["metadata"]["uid"] for item in everywhere["items"]]


def test_list_of_a_namespace_that_does_not_exist_is_empty(api: Api) -> None:
    assert api.get("/api/v1/namespaces/absent/configmaps").expect(200)["items"] == []


def test_replace(api: Api, configmaps: str) -> None:
    created = api.post(configmaps, configmap("a", {"k": "v", "gone": "soon"})).expect(201)
    replaced = api.put(f"{configmaps}/a", {**created, "data": {"k": "w"}}).expect(200)
    assert replaced["data"] == {"k": "w"}
    assert replaced["metadata"]["uid"] == created["metadata"]["uid"]
    assert replaced["metadata"]["creationTimestamp"] == created["metadata"]["creationTimestamp"]
    assert version(replaced) > version(created)
    # Without a version the last writer wins, for kinds that allow it.
    assert api.put(f"{configmaps}/a", configmap("a", {"k": "x"})).expect(200)["data"] == {"k": "x"}


def test_replace_with_a_stale_version_conflicts(api: Api, configmaps: str, widgets: str) -> None:
    for path, created, resource in (
        (configmaps, api.post(configmaps, configmap("a", {"k": "1"})).expect(201), "configmaps"),
        (widgets, api.post(widgets, widget("a")).expect(201), "widgets.conformance.example.com"),
    ):
        api.patch(f"{path}/a", {"metadata": {"labels": {"x": "y"}}}).expect(200)
        status = api.put(f"{path}/a", created).expect(409)
        assert status["reason"] == "Conflict"
        assert status["message"] == (
            f'Operation cannot be fulfilled on {resource} "a": the object has been modified; '
            "please apply your changes to the latest version and try again"
        )


def test_a_custom_resource_is_replaced_only_with_its_version(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    status = api.put(f"{widgets}/a", widget("a", size=2)).expect(422)
    assert status["message"] == (
        'widgets.conformance.example.com "a" is invalid: '
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    )


def test_replace_does_not_create(api: Api, configmaps: str) -> None:
    assert api.put(f"{configmaps}/absent", configmap("absent")).expect(404)["reason"] == "NotFound"


def test_replace_with_another_uid_conflicts(api: Api, configmaps: str) -> None:
    created = api.post(configmaps, configmap("a")).expect(201)
    created["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    del created["metadata"]["resourceVersion"]
    assert api.put(f"{configmaps}/a", created).expect(409)["reason"] == "Conflict"


def test_a_write_that_changes_nothing_keeps_the_version(api: Api, configmaps: str, widgets: str) -> None:
    for path, created in (
        (configmaps, api.post(configmaps, configmap("a", {"k": "v"})).expect(201)),
        (widgets, api.post(widgets, widget("a")).expect(201)),
    ):
        assert version(api.put(f"{path}/a", created).expect(200)) == version(created)
        assert version(api.patch(f"{path}/a", {"metadata": {"labels": None}}).expect(200)) == version(created)
        assert version(api.get(f"{path}/a").expect(200)) == version(created)


def test_delete(api: Api, configmaps: str) -> None:
    created = api.post(configmaps, configmap("a")).expect(201)
    status = api.delete(f"{configmaps}/a").expect(200)
    assert (status["kind"], status["status"]) == ("Status", "Success")
    assert status["details"] == {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}
    assert api.get(f"{configmaps}/a").status == 404
    assert api.delete(f"{configmaps}/a").expect(404)["reason"] == "NotFound"


def test_delete_preconditions(api: Api, configmaps: str) -> None:
    created = api.post(configmaps, configmap("a")).expect(201)["metadata"]
    other_uid = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    stale = {"preconditions": {"resourceVersion": "1"}}
    for options in (other_uid, stale):
        status = api.delete(f"{configmaps}/a", options).expect(409)
        assert status["reason"] == "Conflict"
        assert "in the precondition" in status["message"]
    exact = {"preconditions": {"uid": created["uid"], "resourceVersion": created["resourceVersion"]}}
    api.delete(f"{configmaps}/a", exact).expect(200)


def test_delete_collection_by_selector(api: Api, configmaps: str) -> None:
    for name, label in (("a", "1"), ("b", "1"), ("c", "2")):
        api.post(configmaps, configmap(name, labels={"set": label})).expect(201)
    api.delete(configmaps, labelSelector="set=1").expect(200)
    assert names(api.get(configmaps).expect(200)) == ["c"]


def test_dry_run_stores_nothing(api: Api, configmaps: str) -> None:
    tried = api.post(configmaps, configmap("a", {"k": "v"}), dryRun="All").expect(201)
    assert tried["metadata"]["uid"]
    assert api.get(f"{configmaps}/a").status == 404
    created = api.post(configmaps, configmap("a", {"k": "v"})).expect(201)
    assert api.patch(f"{configmaps}/a", {"data": {"k": "w"}}, dryRun="All").expect(200)["data"] == {"k": "w"}
    api.delete(f"{configmaps}/a", dryRun="All").expect(200)
    assert api.get(f"{configmaps}/a").expect(200) == created


def test_a_body_may_be_yaml(api: Api, configmaps: str) -> None:
    body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: v\n"
    created = api.request("POST", configmaps, body, content_type="application/yaml").expect(201)
    assert created["data"] == {"k": "v"}


def test_managed_fields_record_who_wrote_what(api: Api, configmaps: str) -> None:
    created = api.post(configmaps, configmap("a", {"k": "v"}), fieldManager="writer").expect(201)
    (entry,) = created["metadata"]["managedFields"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.pop("time"))
    assert entry == {
        "manager": "writer",
        "operation": "Update",
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {".": {}, "f:k": {}}},
    }
    # Who gives no name is known by the program name of its User-Agent.
    patched = api.patch(f"{configmaps}/a", {"data": {"l": "w"}}).expect(200)
    fields = {entry["manager"]: entry["fieldsV1"] for entry in patched["metadata"]["managedFields"]}
    assert fields == {"writer": {"f:data": {".": {}, "f:k": {}}}, "conformance": {"f:data": {"f:l": {}}}}


def test_secrets_take_text_and_give_base64(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}
    created = api.post(path, {**secret, "stringData": {"token": "hf_x"}}).expect(201)
    assert created["data"] == {"token": "aGZfeA=="}
    assert "stringData" not in created
    assert created["type"] == "Opaque"
    nothing = api.post(path, {**secret, "metadata": {"name": "c"}, "data": {"token": ""}}).expect(201)
    assert nothing["data"] == {"token": ""}
    broken = {**secret, "metadata": {"name": "b"}, "data": {"token": "not base64!"}}
    assert "illegal base64 data" in api.post(path, broken).expect(400)["message"]


def test_immutable_configmaps(api: Api, configmaps: str) -> None:
    api.post(configmaps, {**configmap("a", {"k": "v"}), "immutable": True}).expect(201)
    status = api.patch(f"{configmaps}/a", {"data": {"k": "w"}}).expect(422)
    assert "field is immutable when `immutable` is set" in status["message"]
    api.patch(f"{configmaps}/a", {"metadata": {"labels": {"still": "possible"}}}).expect(200)


def test_namespaces(api: Api, namespace: str) -> None:
    found = api.get(f"/api/v1/namespaces/{namespace}").expect(200)
    assert found["metadata"]["labels"] == {"kubernetes.io/metadata.name": namespace}
    assert found["spec"] == {"finalizers": ["kubernetes"]}
    assert found["status"] == {"phase": "Active"}
    existing = names(api.get("/api/v1/namespaces").expect(200))
    assert {"default", "kube-system", "kube-public", "kube-node-lease"} <= set(existing)
    assert api.delete("/api/v1/namespaces/kube-system").expect(403)["reason"] == "Forbidden"


def test_node_labels_and_status_are_patched_apart(api: Api) -> None:
    api.post("/api/v1/nodes", node("crud-node", zone="a")).expect(201)
    try:
        labels = {"modelcache.nvidia.com/team.model": "Ready", "zone": None}
        patched = api.patch("/api/v1/nodes/crud-node", {"metadata": {"labels": labels}}).expect(200)
        assert patched["metadata"]["labels"] == {"modelcache.nvidia.com/team.model": "Ready"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}
        status = {"status": {"conditions": [ready], "capacity": {"cpu": "4"}}}
        patched = api.patch("/api/v1/nodes/crud-node/status", status).expect(200)
        assert patched["status"]["capacity"] == {"cpu": "4"}
        (found,) = patched["status"]["conditions"]
        assert (found["type"], found["status"]) == ("Ready", "True")
    finally:
        api.delete("/api/v1/nodes/crud-node").expect(200)


def test_pods_end_at_once_unless_a_node_has_them(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    created = api.post(path, pod("free")).expect(201)
    assert created["status"]["phase"] == "Pending"
    assert created["spec"]["restartPolicy"] == "Always"
    api.delete(f"{path}/free").expect(200)
    assert api.get(f"{path}/free").status == 404
    api.post(path, pod("bound", nodeName="some-node")).expect(201)
    ending = api.delete(f"{path}/bound").expect(200)["metadata"]
    assert ending["deletionTimestamp"]
    assert ending["deletionGracePeriodSeconds"] == 30
    api.get(f"{path}/bound").expect(200)
    api.delete(f"{path}/bound", gracePeriodSeconds=0).expect(200)
    assert api.get(f"{path}/bound").status == 404
