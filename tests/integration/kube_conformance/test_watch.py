"""Watches: every change once and in order, from any version still known."""

from itertools import pairwise

import pytest

from tests.integration.kube_conformance.objects import configmap, names, node, widget
from tests.support.api import Api, Json

pytestmark = pytest.mark.conformance

METADATA_ONLY = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


def version(api: Api, path: str) -> str:
    return str(api.get(path).expect(200)["metadata"]["resourceVersion"])


def seen(events: list[Json]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


def test_every_change_in_order(api: Api, configmaps: str, widgets: str) -> None:
    for path, body in ((configmaps, configmap("a", {"k": "v"})), (widgets, widget("a"))):
        with api.watch(path, resourceVersion=version(api, path)) as watch:
            assert watch.status == 200
            created = api.post(path, body).expect(201)
            changed = api.patch(f"{path}/a", {"metadata": {"labels": {"x": "y"}}}).expect(200)
            api.delete(f"{path}/a").expect(200)
            added, modified, deleted = watch.take(3)
        assert (added["type"], added["object"]) == ("ADDED", created)
        assert (modified["type"], modified["object"]) == ("MODIFIED", changed)
        assert deleted["type"] == "DELETED"
        # The last state, with the version of the deletion: a client that resumes from it has seen it.
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in (added, modified, deleted)]
        assert all(earlier < later for earlier, later in pairwise(versions))
        assert deleted["object"]["metadata"]["labels"] == {"x": "y"}
        assert deleted["object"]["kind"] == body["kind"]


def test_without_a_version_the_present_comes_first(api: Api, configmaps: str) -> None:
    for name in ("a", "b"):
        api.post(configmaps, configmap(name)).expect(201)
    for query in ({}, {"resourceVersion": "0"}):
        with api.watch(configmaps, **query) as watch:
            assert sorted(seen(watch.take(2))) == [("ADDED", "a"), ("ADDED", "b")]
            api.patch(f"{configmaps}/a", {"data": {"k": str(len(query))}}).expect(200)
            assert seen(watch.take(1)) == [("MODIFIED", "a")]


def test_resume_from_a_version_seen(api: Api, configmaps: str) -> None:
    first = api.post(configmaps, configmap("a")).expect(201)
    api.post(configmaps, configmap("b")).expect(201)
    api.delete(f"{configmaps}/a").expect(200)
    with api.watch(configmaps, resourceVersion=first["metadata"]["resourceVersion"]) as watch:
        events = watch.take(2)
    assert seen(events) == [("ADDED", "b"), ("DELETED", "a")]
    with api.watch(configmaps, resourceVersion=events[0]["object"]["metadata"]["resourceVersion"]) as watch:
        assert seen(watch.take(1)) == [("DELETED", "a")]


def test_a_version_that_is_no_longer_known_is_gone(api: Api, widgets: str) -> None:
    # The history of a custom resource begins after its definition was created, so version 1 is not in it.
    with api.watch(widgets, resourceVersion="1") as watch:
        assert watch.status == 200
        event = watch.next()
    assert event is not None
    assert event["type"] == "ERROR"
    assert (event["object"]["kind"], event["object"]["code"]) == ("Status", 410)
    assert event["object"]["reason"] in ("Expired", "Gone")
    assert "too old resource version: 1" in event["object"]["message"]


def test_the_server_ends_a_watch_in_time(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a")).expect(201)
    with api.watch(configmaps, timeoutSeconds=1) as watch:
        assert seen(watch.rest()) == [("ADDED", "a")]


def test_initial_events_end_with_a_bookmark(api: Api, configmaps: str, widgets: str) -> None:
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    for path, make in ((configmaps, configmap), (widgets, widget)):
        for name in ("a", "b"):
            latest = api.post(path, make(name)).expect(201)
        with api.watch(path, **query) as watch:
            assert sorted(seen(watch.take(2))) == [("ADDED", "a"), ("ADDED", "b")]
            bookmark = watch.next()
            assert bookmark is not None
            assert bookmark["type"] == "BOOKMARK"
            metadata = bookmark["object"]["metadata"]
            assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
            assert int(metadata["resourceVersion"]) >= int(latest["metadata"]["resourceVersion"])
            assert bookmark["object"]["kind"] == latest["kind"]
            api.delete(f"{path}/a").expect(200)
            assert seen(watch.take(1)) == [("DELETED", "a")]
        # The bookmark's version is one to resume from.
        with api.watch(path, resourceVersion=metadata["resourceVersion"]) as watch:
            assert seen(watch.take(1)) == [("DELETED", "a")]


def test_initial_events_need_their_companions(api: Api, configmaps: str) -> None:
    with api.watch(configmaps, sendInitialEvents="true", allowWatchBookmarks="true") as watch:
        assert watch.status == 422
    with api.watch(configmaps, resourceVersionMatch="NotOlderThan") as watch:
        assert watch.status == 422


def test_a_selector_turns_changes_into_arrivals_and_departures(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a", {"k": "1"}, labels={"in": "no"})).expect(201)
    with api.watch(configmaps, resourceVersion=version(api, configmaps), labelSelector="in=yes") as watch:
        api.post(configmaps, configmap("other")).expect(201)
        api.patch(f"{configmaps}/a", {"data": {"k": "2"}}).expect(200)
        api.patch(f"{configmaps}/a", {"metadata": {"labels": {"in": "yes"}}}).expect(200)
        api.patch(f"{configmaps}/a", {"data": {"k": "3"}}).expect(200)
        left = api.patch(f"{configmaps}/a", {"metadata": {"labels": {"in": "no"}}, "data": {"k": "4"}}).expect(200)
        api.patch(f"{configmaps}/a", {"data": {"k": "5"}}).expect(200)
        api.post(configmaps, configmap("b", labels={"in": "yes"})).expect(201)
        api.delete(f"{configmaps}/b").expect(200)
        events = watch.take(5)
    assert seen(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b"), ("DELETED", "b")]
    departure = events[2]["object"]
    # What matched last, but with the version of the change that made it not match.
    assert (departure["metadata"]["labels"], departure["data"]) == ({"in": "yes"}, {"k": "3"})
    assert departure["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


def test_field_selectors(api: Api, configmaps: str, widgets: str) -> None:
    with api.watch(configmaps, fieldSelector="metadata.name=b") as watch:
        for name in ("a", "b", "c"):
            api.post(configmaps, configmap(name)).expect(201)
        api.delete(f"{configmaps}/b").expect(200)
        assert seen(watch.take(2)) == [("ADDED", "b"), ("DELETED", "b")]
    with api.watch(widgets, fieldSelector="spec.color=red") as watch:
        api.post(widgets, widget("a")).expect(201)
        api.patch(f"{widgets}/a", {"spec": {"color": "red"}}).expect(200)
        api.patch(f"{widgets}/a", {"spec": {"color": "blue"}}).expect(200)
        assert seen(watch.take(2)) == [("ADDED", "a"), ("DELETED", "a")]


def test_a_watch_spans_namespaces_or_keeps_to_one(api: Api, configmaps: str, namespace: str) -> None:
    everywhere = "/api/v1/configmaps"
    start = version(api, configmaps)
    with (
        api.watch(everywhere, resourceVersion=start, labelSelector=f"of={namespace}") as all_of_them,
        api.watch("/api/v1/namespaces/default/configmaps", resourceVersion=start, timeoutSeconds=1) as elsewhere,
    ):
        api.post(configmaps, configmap("a", labels={"of": namespace})).expect(201)
        assert seen(all_of_them.take(1)) == [("ADDED", "a")]
        assert ("ADDED", "a") not in seen(elsewhere.rest())


def test_status_changes_are_seen(api: Api, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    with api.watch(widgets, resourceVersion=version(api, widgets)) as watch:
        api.patch(f"{widgets}/a/status", {"status": {"phase": "Ready"}}).expect(200)
        (event,) = watch.take(1)
    assert (event["type"], event["object"]["status"]) == ("MODIFIED", {"phase": "Ready"})


def test_metadata_only(api: Api, widgets: str) -> None:
    with api.watch(widgets, accept=METADATA_ONLY) as watch:
        api.post(widgets, widget("a", {"labels": {"x": "y"}})).expect(201)
        (event,) = watch.take(1)
    assert event["type"] == "ADDED"
    found = event["object"]
    assert (found["kind"], found["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert found["metadata"]["labels"] == {"x": "y"}
    assert "spec" not in found


def test_many_watches_see_the_same(api: Api, configmaps: str) -> None:
    watches = [api.watch(configmaps) for _ in range(20)]
    try:
        expected = []
        for number in range(50):
            api.post(configmaps, configmap(f"m{number:02}")).expect(201)
            expected.append(("ADDED", f"m{number:02}"))
        for watch in watches:
            assert seen(watch.take(50)) == expected
    finally:
        for watch in watches:
            watch.close()
    assert len(names(api.get(configmaps).expect(200))) == 50


def test_cluster_scoped(api: Api) -> None:
    with api.watch("/api/v1/nodes", fieldSelector="metadata.name=watch-node") as watch:
        api.post("/api/v1/nodes", node("watch-node")).expect(201)
        api.patch("/api/v1/nodes/watch-node", {"metadata": {"labels": {"x": "y"}}}).expect(200)
        api.delete("/api/v1/nodes/watch-node").expect(200)
        assert [event["type"] for event in watch.take(3)] == ["ADDED", "MODIFIED", "DELETED"]
