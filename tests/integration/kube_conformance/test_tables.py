"""What `kubectl get` prints from: Tables with the columns of a kind, and objects reduced to their metadata."""

import pytest

from tests.integration.kube_conformance.objects import configmap, node, pod, widget
from tests.support.api import Api, Json

pytestmark = pytest.mark.conformance

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


def table(api: Api, path: str, **query: object) -> Json:
    found = api.request("GET", path, accept=f"{TABLE},application/json", query=query).expect(200)
    assert (found["kind"], found["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    return found


def columns(found: Json, priority: int = 0) -> list[str]:
    return [column["name"] for column in found["columnDefinitions"] if column["priority"] <= priority]


def cells(found: Json, *only: str) -> list[list[object]]:
    names = [column["name"] for column in found["columnDefinitions"]]
    return [[row["cells"][names.index(name)] for name in only] for row in found["rows"]]


def test_columns_of_a_custom_resource(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", nick="al", size=3)).expect(201)
    api.post(widgets, widget("b")).expect(201)
    ready = {"status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}}
    api.patch(f"{widgets}/a/status", ready).expect(200)
    found = table(api, widgets)
    assert columns(found) == ["Name", "Color", "Size", "Ready", "Age"]
    assert columns(found, 1) == ["Name", "Color", "Size", "Ready", "Nick", "Age"]
    by_name = {column["name"]: column for column in found["columnDefinitions"]}
    assert (by_name["Name"]["type"], by_name["Name"]["format"]) == ("string", "name")
    assert (by_name["Size"]["type"], by_name["Age"]["type"]) == ("integer", "date")
    assert by_name["Color"]["description"] == "What it looks like"
    assert cells(found, "Name", "Color", "Size", "Ready", "Nick") == [
        ["a", "green", 3, "True", "al"],
        ["b", "green", 1, None, None],
    ]
    # Age is the server's to format.
    assert all(str(age).endswith("s") for (age,) in cells(found, "Age"))
    assert found["metadata"]["resourceVersion"]
    (row, _) = found["rows"]
    assert (row["object"]["kind"], row["object"]["metadata"]["name"]) == ("PartialObjectMetadata", "a")


def test_how_much_of_the_object_comes_along(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    (row,) = table(api, widgets, includeObject="None")["rows"]
    assert row.get("object") is None
    (row,) = table(api, widgets, includeObject="Object")["rows"]
    assert (row["object"]["kind"], row["object"]["spec"]["color"]) == ("Widget", "green")


def test_one_object_is_a_table_too(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    assert cells(table(api, f"{widgets}/a"), "Name", "Size") == [["a", 1]]
    assert table(api, widgets, labelSelector="no=match")["rows"] in ([], None)


def test_columns_of_small_built_in_kinds(api: Api, configmaps: str, namespace: str) -> None:
    api.post(configmaps, configmap("a", {"k": "v", "l": "w"})).expect(201)
    found = table(api, configmaps)
    assert columns(found) == ["Name", "Data", "Age"]
    assert cells(found, "Name", "Data") == [["a", 2]]
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    assert columns(table(api, leases)) == ["Name", "Holder", "Age"]


def test_columns_of_nodes(api: Api) -> None:
    api.post("/api/v1/nodes", node("table-node")).expect(201)
    try:
        status = {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.1.2.3"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0"},
        }
        path = "/api/v1/nodes"
        mine = {"fieldSelector": "metadata.name=table-node"}
        assert cells(table(api, path, **mine), "Name", "Status") == [["table-node", "Unknown"]]
        api.patch("/api/v1/nodes/table-node/status", {"status": status}).expect(200)
        found = table(api, path, **mine)
        assert columns(found) == ["Name", "Status", "Roles", "Age", "Version"]
        assert cells(found, "Status", "Roles", "Version") == [["Ready", "<none>", "v1.36.0"]]
        assert cells(found, "Internal-IP") == [["10.1.2.3"]]
        api.patch("/api/v1/nodes/table-node", {"spec": {"unschedulable": True}}).expect(200)
        assert cells(table(api, path, **mine), "Status") == [["Ready,SchedulingDisabled"]]
    finally:
        api.delete("/api/v1/nodes/table-node").expect(200)


def test_columns_of_pods(api: Api, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    api.post(path, pod("a", "busybox", "busybox")).expect(201)
    found = table(api, path)
    assert columns(found) == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert cells(found, "Name", "Ready", "Status") == [["a", "0/2", "Pending"]]
    started = {"running": {"startedAt": "2024-01-01T00:00:00Z"}}
    ready = {"ready": True, "restartCount": 0, "image": "busybox", "imageID": "", "state": started}
    running = {"phase": "Running", "containerStatuses": [{"name": name, **ready} for name in ("c0", "c1")]}
    api.patch(f"{path}/a/status", {"status": running}).expect(200)
    assert cells(table(api, path), "Ready", "Status") == [["2/2", "Running"]]


def test_a_watch_of_tables(api: Api, widgets: str) -> None:
    with api.watch(widgets, accept=f"{TABLE},application/json") as watch:
        api.post(widgets, widget("a")).expect(201)
        api.patch(f"{widgets}/a", {"spec": {"size": 2}}).expect(200)
        first, second = watch.take(2)
    assert (first["type"], first["object"]["kind"]) == ("ADDED", "Table")
    names = [column["name"] for column in first["object"]["columnDefinitions"]]
    size = names.index("Size")
    assert [event["object"]["rows"][0]["cells"][size] for event in (first, second)] == [1, 2]
    # The columns do not change, so they are sent once.
    assert not second["object"].get("columnDefinitions")


def test_metadata_alone(api: Api, widgets: str) -> None:
    created = api.post(widgets, widget("a", {"labels": {"x": "y"}})).expect(201)
    one = api.request("GET", f"{widgets}/a", accept=METADATA).expect(200)
    assert (one["kind"], one["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert one["metadata"] == created["metadata"]
    assert "spec" not in one
    several = api.request("GET", widgets, accept=METADATA_LIST).expect(200)
    assert (several["kind"], several["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert [item["metadata"]["labels"] for item in several["items"]] == [{"x": "y"}]
    assert "spec" not in several["items"][0]
