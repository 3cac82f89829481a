"""A server that dies and comes back has lost nothing, and says so where a watch cannot go on."""

import pytest

from tests.integration.kube_conformance.objects import CRDS, WIDGET_CRD, configmap, widget
from tests.support.api import Api
from tests.support.kube import KubeServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.conformance


def test_objects_outlive_the_server(api: Api, kube_server: KubeServer, configmaps: str, widgets: str) -> None:
    held = api.post(configmaps, configmap("held", {"k": "v"}, finalizers=["example.com/held"])).expect(201)
    held = api.delete(f"{configmaps}/held").expect(200, 202)
    kept = api.post(widgets, widget("kept")).expect(201)
    kept = api.patch(f"{widgets}/kept/status", {"status": {"phase": "Ready"}}).expect(200)
    api.post(configmaps, configmap("gone")).expect(201)
    api.delete(f"{configmaps}/gone").expect(200)
    kube_server.restart()
    wait_until(lambda: api.get(widgets).status == 200, what="custom resources are served again")
    assert api.get(f"{widgets}/kept").expect(200) == kept
    assert api.get(f"{configmaps}/held").expect(200) == held
    assert api.get(f"{configmaps}/gone").status == 404
    assert api.get(f"{CRDS}/{WIDGET_CRD['metadata']['name']}").status == 200
    # Versions go on where they were: a write of before is stale, a write of now is newer.
    later = api.patch(f"{widgets}/kept", {"spec": {"size": 2}}).expect(200)
    assert int(later["metadata"]["resourceVersion"]) > int(kept["metadata"]["resourceVersion"])
    assert api.put(f"{widgets}/kept", kept).expect(409)["reason"] == "Conflict"
    api.patch(f"{configmaps}/held", {"metadata": {"finalizers": None}}).expect(200)
    assert api.get(f"{configmaps}/held").status == 404


def test_tokens_outlive_the_server(api: Api, kube_server: KubeServer, namespace: str) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    api.post(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}}).expect(201)
    kind = {"apiVersion": "authentication.k8s.io/v1"}
    request = {**kind, "kind": "TokenRequest", "spec": {"audiences": ["modelcache"]}}
    token = api.post(f"{accounts}/agent/token", request).expect(201)["status"]["token"]
    kube_server.restart()
    review = {**kind, "kind": "TokenReview", "spec": {"token": token, "audiences": ["modelcache"]}}
    status = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review).expect(201)["status"]
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:agent"


def test_a_watch_ends_with_the_server_and_its_version_is_gone(api: Api, kube_server: KubeServer, widgets: str) -> None:
    old = api.post(widgets, widget("a")).expect(201)["metadata"]["resourceVersion"]
    for size in (2, 3):
        api.patch(f"{widgets}/a", {"spec": {"size": size}}).expect(200)
    kube_server.restart()
    wait_until(lambda: api.get(widgets).status == 200, what="custom resources are served again")
    # The history of before was in the memory of the server that died.
    with api.watch(widgets, resourceVersion=old) as watch:
        event = watch.next()
    assert event is not None
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    fresh = api.get(widgets).expect(200)["metadata"]["resourceVersion"]
    with api.watch(widgets, resourceVersion=fresh) as watch:
        api.delete(f"{widgets}/a").expect(200)
        assert [event["type"] for event in watch.take(1)] == ["DELETED"]
