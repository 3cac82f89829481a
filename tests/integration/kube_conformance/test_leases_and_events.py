"""The two kinds that controllers write most: Leases for election, Events in both API groups."""

import pytest

from tests.integration.kube_conformance.objects import names
from tests.support.api import Api, Json

pytestmark = pytest.mark.conformance


def lease(name: str, holder: str, **spec: object) -> Json:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": 15,
            "acquireTime": "2024-05-01T10:00:00.000000Z",
            "renewTime": "2024-05-01T10:00:01.123456Z",
            "leaseTransitions": 0,
            **spec,
        },
    }


def test_only_one_of_two_candidates_takes_a_lease(api: Api, namespace: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    created = api.post(path, lease("election", "one")).expect(201)
    assert created["spec"] == lease("election", "one")["spec"]
    assert api.post(path, lease("election", "two")).expect(409)["reason"] == "AlreadyExists"
    # Both have read the same version; the first write wins, the second one learns it.
    spec = created["spec"]
    taken = api.put(f"{path}/election", {**created, "spec": {**spec, "holderIdentity": "two"}}).expect(200)
    assert taken["spec"]["holderIdentity"] == "two"
    late = api.put(f"{path}/election", {**created, "spec": {**spec, "holderIdentity": "three"}}).expect(409)
    assert late["reason"] == "Conflict"
    released = api.put(f"{path}/election", {**taken, "spec": {**spec, "holderIdentity": ""}}).expect(200)
    assert not released["spec"].get("holderIdentity")


def test_a_lease_is_replaced_only_with_its_version(api: Api, namespace: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    api.post(path, lease("election", "one")).expect(201)
    status = api.put(f"{path}/election", lease("election", "two")).expect(422)
    assert "must be specified for an update" in status["message"]


def test_lease_validation(api: Api, namespace: str) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    status = api.post(path, lease("election", "one", leaseDurationSeconds=0)).expect(422)
    assert "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0" in status["message"]
    assert api.post(path, lease("election", "one", renewTime="now")).expect(400)["reason"] == "BadRequest"


def test_a_core_event_is_an_event_of_the_group(api: Api, namespace: str) -> None:
    core, group = f"/api/v1/namespaces/{namespace}/events", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    regarded = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "namespace": namespace, "uid": "u-1"}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "a.1"},
        "involvedObject": regarded,
        "reason": "Downloading",
        "message": "12 files",
        "type": "Normal",
        "source": {"component": "modelcache", "host": "node-1"},
        "firstTimestamp": "2024-05-01T10:00:00Z",
        "lastTimestamp": "2024-05-01T10:00:05Z",
        "count": 2,
    }
    api.post(core, event).expect(201)
    found = api.get(f"{group}/a.1").expect(200)
    assert (found["apiVersion"], found["kind"]) == ("events.k8s.io/v1", "Event")
    assert (found["regarding"], found["note"], found["reason"]) == (regarded, "12 files", "Downloading")
    assert found["deprecatedSource"] == {"component": "modelcache", "host": "node-1"}
    assert (found["deprecatedFirstTimestamp"], found["deprecatedCount"]) == ("2024-05-01T10:00:00Z", 2)
    assert "message" not in found
    assert "involvedObject" not in found
    # Counting further is a patch of the same object.
    counted = api.patch(f"{core}/a.1", {"count": 3, "lastTimestamp": "2024-05-01T10:00:09Z"}).expect(200)
    assert counted["count"] == 3
    assert api.get(f"{group}/a.1").expect(200)["deprecatedCount"] == 3


def test_an_event_of_the_group_is_a_core_event(api: Api, namespace: str) -> None:
    core, group = f"/api/v1/namespaces/{namespace}/events", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "b.1"},
        "eventTime": "2024-05-01T10:00:00.000000Z",
        "reportingController": "modelcache.nvidia.com/controller",
        "reportingInstance": "controller-0",
        "action": "Resolve",
        "reason": "Resolved",
        "regarding": {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "namespace": namespace},
        "note": "revision pinned",
        "type": "Normal",
    }
    api.post(group, event).expect(201)
    found = api.get(f"{core}/b.1").expect(200)
    assert (found["apiVersion"], found["message"], found["type"]) == ("v1", "revision pinned", "Normal")
    assert found["involvedObject"]["name"] == "b"
    assert (found["reportingComponent"], found["reportingInstance"]) == (
        "modelcache.nvidia.com/controller",
        "controller-0",
    )
    assert found["eventTime"] == "2024-05-01T10:00:00.000000Z"
    incomplete = {key: value for key, value in event.items() if key != "action"}
    incomplete["metadata"] = {"name": "b.2"}
    assert "action" in api.post(group, incomplete).expect(422)["message"]
    with api.watch(core) as watch:
        assert [one["object"]["metadata"]["name"] for one in watch.take(1)] == ["b.1"]


def test_events_are_found_by_what_they_are_about(api: Api, namespace: str) -> None:
    core = f"/api/v1/namespaces/{namespace}/events"
    for name, kind, reason in (("a", "ConfigMap", "One"), ("a", "Secret", "Two"), ("b", "ConfigMap", "Three")):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{reason.lower()}"},
            "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "namespace": namespace},
            "reason": reason,
            "type": "Warning" if reason == "Two" else "Normal",
        }
        api.post(core, event).expect(201)
    about = "involvedObject.kind=ConfigMap,involvedObject.name=a"
    assert names(api.get(core, fieldSelector=about).expect(200)) == ["a.one"]
    assert names(api.get(core, fieldSelector="type=Warning").expect(200)) == ["a.two"]
    assert names(api.get(core, fieldSelector="reason=Three").expect(200)) == ["b.three"]
    group = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    assert names(api.get(group, fieldSelector="regarding.name=b").expect(200)) == ["b.three"]


def test_an_event_is_in_the_namespace_of_its_object(api: Api, namespace: str) -> None:
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "a.1"},
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "namespace": "elsewhere"},
    }
    status = api.post(f"/api/v1/namespaces/{namespace}/events", event).expect(422)
    assert "involvedObject.namespace" in status["message"]
    assert "does not match event.namespace" in status["message"]
