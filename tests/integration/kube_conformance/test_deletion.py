"""Deletion in two steps with finalizers, and what follows from owners and namespaces."""

import secrets

import pytest

from tests.integration.kube_conformance.objects import configmap, names, widget
from tests.support.api import Api, Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.conformance

FINALIZER = "modelcache.nvidia.com/cleanup"
GARBAGE = "garbage collection"


def owner_of(found: Json, **more: bool) -> Json:
    """An owner reference to `found`."""
    metadata = found["metadata"]
    return {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        **more,
    }


def test_a_finalizer_holds_the_object(api: Api, configmaps: str, widgets: str) -> None:
    for path, body in (
        (configmaps, configmap("a", finalizers=[FINALIZER])),
        (widgets, widget("a", {"finalizers": [FINALIZER]})),
    ):
        created = api.post(path, body).expect(201)
        with api.watch(path, resourceVersion=created["metadata"]["resourceVersion"]) as watch:
            ending = api.delete(f"{path}/a").expect(200, 202)
            assert ending["kind"] == created["kind"]
            assert ending["metadata"]["deletionTimestamp"]
            assert ending["metadata"]["deletionGracePeriodSeconds"] == 0
            # A second request changes nothing.
            again = api.delete(f"{path}/a").expect(200, 202)
            assert again["metadata"]["deletionTimestamp"] == ending["metadata"]["deletionTimestamp"]
            assert again["metadata"]["resourceVersion"] == ending["metadata"]["resourceVersion"]
            api.patch(f"{path}/a", {"metadata": {"finalizers": None}}).expect(200)
            assert api.get(f"{path}/a").status == 404
            assert [event["type"] for event in watch.take(2)] == ["MODIFIED", "DELETED"]
        # The name is free again, for another object.
        assert (
            api.post(path, {**body, "metadata": {"name": "a"}}).expect(201)["metadata"]["uid"]
            != (created["metadata"]["uid"])
        )


def test_each_finalizer_has_to_go(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", {"finalizers": ["example.com/one", "example.com/two"]})).expect(201)
    ending = api.delete(f"{widgets}/a").expect(200, 202)
    ending["metadata"]["finalizers"] = ["example.com/two"]
    left = api.put(f"{widgets}/a", ending).expect(200)
    assert left["metadata"]["finalizers"] == ["example.com/two"]
    left["metadata"]["finalizers"] = []
    api.put(f"{widgets}/a", left).expect(200)
    assert api.get(f"{widgets}/a").status == 404


def test_an_ending_object_can_be_written_but_not_kept(api: Api, configmaps: str, widgets: str) -> None:
    for path, body in (
        (configmaps, configmap("a", finalizers=[FINALIZER])),
        (widgets, widget("a", {"finalizers": [FINALIZER]})),
    ):
        api.post(path, body).expect(201)
        ending = api.delete(f"{path}/a").expect(200, 202)["metadata"]
        api.patch(f"{path}/a", {"metadata": {"labels": {"still": "here"}}}).expect(200)
        more = {"metadata": {"finalizers": [FINALIZER, "example.com/new"]}}
        status = api.patch(f"{path}/a", more).expect(422)
        assert "metadata.finalizers: Forbidden: no new finalizers can be added" in status["message"]
        revived = api.patch(f"{path}/a", {"metadata": {"deletionTimestamp": None}})
        assert revived.status in (200, 422)
        assert api.get(f"{path}/a").expect(200)["metadata"]["deletionTimestamp"] == ending["deletionTimestamp"]
        api.patch(f"{path}/a", {"metadata": {"finalizers": []}}).expect(200)
        assert api.get(f"{path}/a").status == 404


def test_the_end_of_a_custom_resource_is_a_new_generation(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a", {"finalizers": [FINALIZER]})).expect(201)
    assert api.delete(f"{widgets}/a").expect(200, 202)["metadata"]["generation"] == 2
    api.patch(f"{widgets}/a", {"metadata": {"finalizers": None}}).expect(200)


def test_finalizers_without_a_deletion_come_and_go(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    added = api.patch(f"{widgets}/a", {"metadata": {"finalizers": [FINALIZER]}}).expect(200)
    assert added["metadata"]["finalizers"] == [FINALIZER]
    removed = api.patch(f"{widgets}/a", {"metadata": {"finalizers": None}}).expect(200)
    assert "finalizers" not in removed["metadata"]
    assert removed["metadata"]["generation"] == 1


def test_delete_collection_respects_finalizers(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a", finalizers=[FINALIZER])).expect(201)
    api.post(configmaps, configmap("b")).expect(201)
    api.delete(configmaps).expect(200)
    (left,) = api.get(configmaps).expect(200)["items"]
    assert left["metadata"]["name"] == "a"
    assert left["metadata"]["deletionTimestamp"]
    api.patch(f"{configmaps}/a", {"metadata": {"finalizers": None}}).expect(200)


@pytest.mark.needs_controllers(GARBAGE)
def test_dependents_follow_their_owner(api: Api, configmaps: str, widgets: str) -> None:
    owner = api.post(widgets, widget("owner")).expect(201)
    api.post(configmaps, configmap("child", ownerReferences=[owner_of(owner)])).expect(201)
    api.post(configmaps, configmap("free")).expect(201)
    api.delete(f"{widgets}/owner").expect(200)
    wait_until(lambda: names(api.get(configmaps).expect(200)) == ["free"], what="the dependent is collected")


@pytest.mark.needs_controllers(GARBAGE)
def test_a_dependent_of_two_owners_outlives_the_first(api: Api, configmaps: str) -> None:
    owners = [api.post(configmaps, configmap(name)).expect(201) for name in ("one", "two")]
    api.post(configmaps, configmap("child", ownerReferences=[owner_of(owner) for owner in owners])).expect(201)
    api.delete(f"{configmaps}/one").expect(200)
    # The collector drops the reference to the owner that is gone, so its work can be seen and waited for.
    wait_until(
        lambda: api.get(f"{configmaps}/child").expect(200)["metadata"]["ownerReferences"] == [owner_of(owners[1])],
        what="the reference to the first owner is dropped",
    )
    api.delete(f"{configmaps}/two").expect(200)
    wait_until(lambda: names(api.get(configmaps).expect(200)) == [], what="the dependent is collected")


@pytest.mark.needs_controllers(GARBAGE)
def test_a_dependent_of_an_owner_that_never_was_is_collected(api: Api, configmaps: str) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "absent", "uid": "not-a-uid-of-anything"}}
    api.post(configmaps, configmap("child", ownerReferences=[owner_of(owner)])).expect(201)
    wait_until(lambda: names(api.get(configmaps).expect(200)) == [], what="the dependent is collected")


@pytest.mark.needs_controllers(GARBAGE)
def test_orphans_stay(api: Api, configmaps: str) -> None:
    owner = api.post(configmaps, configmap("owner")).expect(201)
    api.post(configmaps, configmap("child", ownerReferences=[owner_of(owner)])).expect(201)
    api.delete(f"{configmaps}/owner", {"propagationPolicy": "Orphan"}).expect(200, 202)
    wait_until(lambda: api.get(f"{configmaps}/owner").status == 404, what="the owner is gone")
    assert "ownerReferences" not in api.get(f"{configmaps}/child").expect(200)["metadata"]


@pytest.mark.needs_controllers(GARBAGE)
def test_foreground_deletion_waits_for_dependents(api: Api, configmaps: str) -> None:
    owner = api.post(configmaps, configmap("owner")).expect(201)
    reference = owner_of(owner, blockOwnerDeletion=True)
    api.post(configmaps, configmap("child", ownerReferences=[reference], finalizers=[FINALIZER])).expect(201)
    ending = api.delete(f"{configmaps}/owner", {"propagationPolicy": "Foreground"}).expect(200, 202)
    assert ending["metadata"]["finalizers"] == ["foregroundDeletion"]
    wait_until(
        lambda: api.get(f"{configmaps}/child").expect(200)["metadata"].get("deletionTimestamp"),
        what="the dependent is being deleted",
    )
    assert api.get(f"{configmaps}/owner").expect(200)["metadata"]["finalizers"] == ["foregroundDeletion"]
    api.patch(f"{configmaps}/child", {"metadata": {"finalizers": None}}).expect(200)
    wait_until(lambda: api.get(f"{configmaps}/owner").status == 404, what="the owner is gone")


@pytest.mark.needs_controllers(GARBAGE)
def test_a_finalizer_of_the_dependent_is_respected(api: Api, configmaps: str) -> None:
    owner = api.post(configmaps, configmap("owner")).expect(201)
    held = configmap("child", ownerReferences=[owner_of(owner)], finalizers=[FINALIZER])
    api.post(configmaps, held).expect(201)
    api.delete(f"{configmaps}/owner").expect(200)
    wait_until(
        lambda: api.get(f"{configmaps}/child").expect(200)["metadata"].get("deletionTimestamp"),
        what="the dependent is being deleted",
    )
    api.patch(f"{configmaps}/child", {"metadata": {"finalizers": None}}).expect(200)
    assert api.get(f"{configmaps}/child").status == 404


def test_an_ending_namespace_takes_nothing_new(api: Api) -> None:
    name = f"ending-{secrets.token_hex(4)}"
    path = f"/api/v1/namespaces/{name}"
    api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).expect(201)
    held = configmap("held", finalizers=[FINALIZER])
    api.post(f"{path}/configmaps", held).expect(201)
    api.delete(path).expect(200, 202)
    found = api.get(path).expect(200)
    assert found["status"]["phase"] == "Terminating"
    assert found["metadata"]["deletionTimestamp"]
    status = api.post(f"{path}/configmaps", configmap("late")).expect(403)
    assert status["reason"] == "Forbidden"
    assert f"unable to create new content in namespace {name} because it is being terminated" in status["message"]
    # What is there can still be changed, or nothing could ever end.
    api.patch(f"{path}/configmaps/held", {"metadata": {"finalizers": None}}).expect(200)


@pytest.mark.needs_controllers("deletion of a namespace's content")
def test_a_namespace_takes_its_content_along(api: Api, widget_crd: None) -> None:
    name = f"ending-{secrets.token_hex(4)}"
    path = f"/api/v1/namespaces/{name}"
    api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).expect(201)
    widgets = f"/apis/conformance.example.com/v1alpha1/namespaces/{name}/widgets"
    api.post(f"{path}/configmaps", configmap("a")).expect(201)
    api.post(widgets, widget("held", {"finalizers": [FINALIZER]})).expect(201)
    api.delete(path).expect(200, 202)
    wait_until(
        lambda: api.get(f"{widgets}/held").expect(200)["metadata"].get("deletionTimestamp"),
        what="the content is being deleted",
    )
    wait_until(lambda: api.get(f"{path}/configmaps/a").status == 404, what="the rest of the content is gone")
    assert api.get(path).expect(200)["status"]["phase"] == "Terminating"
    api.patch(f"{widgets}/held", {"metadata": {"finalizers": None}}).expect(200)
    wait_until(lambda: api.get(path).status == 404, what="the namespace is gone")
