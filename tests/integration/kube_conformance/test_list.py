"""Lists: pages of one consistent snapshot, label selectors and field selectors."""

import pytest

from tests.integration.kube_conformance.objects import configmap, names, node, pod, widget
from tests.support.api import Api

pytestmark = pytest.mark.conformance


def test_pages_show_one_snapshot(api: Api, configmaps: str) -> None:
    for name in "abcde":
        api.post(configmaps, configmap(name, {"k": "old"})).expect(201)
    first = api.get(configmaps, limit=2).expect(200)
    assert names(first) == ["a", "b"]
    assert first["metadata"].get("remainingItemCount", 3) == 3
    # What changes between the pages is not seen in them.
    api.patch(f"{configmaps}/c", {"data": {"k": "new"}}).expect(200)
    api.delete(f"{configmaps}/d").expect(200)
    api.post(configmaps, configmap("da")).expect(201)
    second = api.get(configmaps, limit=2, **{"continue": first["metadata"]["continue"]}).expect(200)
    assert names(second) == ["c", "d"]
    assert second["items"][0]["data"] == {"k": "old"}
    third = api.get(configmaps, limit=2, **{"continue": second["metadata"]["continue"]}).expect(200)
    assert names(third) == ["e"]
    assert not third["metadata"].get("continue")
    versions = {page["metadata"]["resourceVersion"] for page in (first, second, third)}
    assert len(versions) == 1
    now = api.get(configmaps).expect(200)
    assert names(now) == ["a", "b", "c", "da", "e"]
    assert int(now["metadata"]["resourceVersion"]) > int(versions.pop())


def test_pages_of_custom_resources_and_selectors(api: Api, widgets: str) -> None:
    for number in range(5):
        labels = {"labels": {"odd": str(number % 2)}}
        api.post(widgets, widget(f"w{number}", labels)).expect(201)
    first = api.get(widgets, limit=2, labelSelector="odd=0").expect(200)
    assert names(first) == ["w0", "w2"]
    token = first["metadata"]["continue"]
    assert names(api.get(widgets, limit=2, labelSelector="odd=0", **{"continue": token}).expect(200)) == ["w4"]


def test_a_limit_that_fits_needs_no_token(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a")).expect(201)
    assert not api.get(configmaps, limit=1).expect(200)["metadata"].get("continue")


def test_a_foreign_token_is_refused(api: Api, configmaps: str) -> None:
    assert api.get(configmaps, limit=1, **{"continue": "bm90IGEgdG9rZW4"}).expect(400)["reason"] == "BadRequest"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", ["a", "b", "c", "d"]),
        ("app=web", ["a", "b"]),
        ("app==web", ["a", "b"]),
        ("app!=web", ["c", "d"]),
        ("app in (web,db)", ["a", "b", "c"]),
        ("app notin (web)", ["c", "d"]),
        ("app", ["a", "b", "c"]),
        ("!app", ["d"]),
        ("app=web,tier=1", ["a"]),
        ("app=web,tier!=1", ["b"]),
        ("tier in (1,2),app notin (db)", ["a", "b"]),
        ("level>1", ["b"]),
        ("level<2", ["a"]),
        ("app=", []),
        ("example.com/x=y", ["c"]),
    ],
)
def test_label_selectors(api: Api, configmaps: str, selector: str, expected: list[str]) -> None:
    for name, labels in (
        ("a", {"app": "web", "tier": "1", "level": "1"}),
        ("b", {"app": "web", "tier": "2", "level": "2"}),
        ("c", {"app": "db", "example.com/x": "y"}),
        ("d", {}),
    ):
        api.post(configmaps, configmap(name, labels=labels)).expect(201)
    assert names(api.get(configmaps, labelSelector=selector).expect(200)) == expected


@pytest.mark.parametrize("selector", ["a===b", "a in", "a in (b", "a b", "=b", "a=b c"])
def test_unreadable_label_selectors(api: Api, configmaps: str, selector: str) -> None:
    assert api.get(configmaps, labelSelector=selector).expect(400)["reason"] == "BadRequest"


def test_field_selectors_of_every_kind(api: Api, configmaps: str, widgets: str, namespace: str) -> None:
    for name in "abc":
        api.post(configmaps, configmap(name)).expect(201)
        api.post(widgets, widget(name)).expect(201)
    for path in (configmaps, widgets):
        assert names(api.get(path, fieldSelector="metadata.name=b").expect(200)) == ["b"]
        assert names(api.get(path, fieldSelector="metadata.name!=b").expect(200)) == ["a", "c"]
        assert names(api.get(path, fieldSelector=f"metadata.namespace={namespace}").expect(200)) == ["a", "b", "c"]
        assert names(api.get(path, fieldSelector="metadata.name=b,metadata.name=c").expect(200)) == []
        status = api.get(path, fieldSelector="spec.size=1").expect(400)
        assert status["reason"] == "BadRequest"
        assert "spec.size" in status["message"]


def test_selectable_fields_of_custom_resources(api: Api, widgets: str) -> None:
    api.post(widgets, widget("r", color="red")).expect(201)
    api.post(widgets, widget("g")).expect(201)
    assert names(api.get(widgets, fieldSelector="spec.color=green").expect(200)) == ["g"]


def test_field_selectors_of_pods_and_nodes(api: Api, namespace: str) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.post(pods, pod("here", nodeName="node-1")).expect(201)
    api.post(pods, pod("there", nodeName="node-2")).expect(201)
    assert names(api.get(pods, fieldSelector="spec.nodeName=node-1").expect(200)) == ["here"]
    assert names(api.get(pods, fieldSelector="status.phase=Pending,spec.nodeName!=node-1").expect(200)) == ["there"]
    assert names(api.get(pods, fieldSelector="status.phase=Running").expect(200)) == []
    for name in ("here", "there"):
        api.delete(f"{pods}/{name}", gracePeriodSeconds=0).expect(200)
    api.post("/api/v1/nodes", node("list-node", gpu="true")).expect(201)
    try:
        assert names(api.get("/api/v1/nodes", fieldSelector="metadata.name=list-node").expect(200)) == ["list-node"]
        assert names(api.get("/api/v1/nodes", labelSelector="gpu=true").expect(200)) == ["list-node"]
    finally:
        api.delete("/api/v1/nodes/list-node").expect(200)
