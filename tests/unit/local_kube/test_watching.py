"""Watches from the inside: what a slow, late or ending one gets."""

import asyncio
import json
from typing import Any

import pytest

from local.kube import watching
from local.kube.presentation import PLAIN, TABLE, Presentation
from local.kube.reads import ListOptions, Selection
from local.kube.watching import Watch, WatchOptions
from tests.support.waiting import PATIENCE
from tests.unit.local_kube.conftest import WIDGETS, Api


def opened(kube: Api, plural: str = "configmaps", version: str = "", **extra: Any) -> Watch:
    resource = kube.resource(plural)
    options = ListOptions(
        version=version, send_initial_events=extra.pop("initial", None), version_match=extra.pop("match", "")
    )
    return kube.cluster.watches.open(resource, Selection(), options, WatchOptions(**extra))


async def events(kube: Api, watch: Watch, form: str = PLAIN, plural: str = "configmaps") -> list[tuple[str, Any]]:
    """Every event up to the end of the watch."""
    encoder = Presentation(form, "Metadata", kube.clock).events(kube.resource(plural))
    try:
        async with asyncio.timeout(PATIENCE):
            chunks = [chunk async for chunk in watch.events(encoder)]
    finally:
        watch.close()
    lines = b"".join(chunks).splitlines()
    return [(event["type"], event["object"]) for event in map(json.loads, lines)]


def config(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


async def test_the_end_comes_with_a_bookmark(kube: Api) -> None:
    kube.create("configmaps", config("a"))
    found = await events(kube, opened(kube, bookmarks=True, timeout=0.05))
    assert [kind for kind, _ in found] == ["ADDED", "BOOKMARK"]
    assert found[-1][1] == {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(kube.cluster.store.version)},
    }


async def test_no_bookmarks_unless_asked_for(kube: Api) -> None:
    kube.create("configmaps", config("a"))
    assert [kind for kind, _ in await events(kube, opened(kube, timeout=0.05))] == ["ADDED"]


async def test_bookmarks_come_while_nothing_happens(kube: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BOOKMARK_SECONDS", 0.01)
    watch = opened(kube, version=str(kube.cluster.store.version), bookmarks=True)
    stream = watch.events(Presentation(PLAIN, "Metadata", kube.clock).events(kube.resource("configmaps")))
    async with asyncio.timeout(PATIENCE):
        assert await anext(stream) == b""
        for _ in range(3):
            assert json.loads(await anext(stream))["type"] == "BOOKMARK"
    watch.close()


async def test_what_happens_between_opening_and_reading_is_not_lost_or_doubled(kube: Api) -> None:
    kube.create("configmaps", config("a"))
    version = str(kube.cluster.store.version)
    present, resumed = opened(kube, timeout=0.05), opened(kube, version=version, timeout=0.05)
    kube.create("configmaps", config("b"))
    assert [obj["metadata"]["name"] for _, obj in await events(kube, present)] == ["a", "b"]
    assert [obj["metadata"]["name"] for _, obj in await events(kube, resumed)] == ["b"]


async def test_a_version_of_the_future_shows_only_what_is_newer(kube: Api) -> None:
    watch = opened(kube, version=str(kube.cluster.store.version + 1), timeout=0.05)
    for name in "abc":
        kube.create("configmaps", config(name))
    assert [obj["metadata"]["name"] for _, obj in await events(kube, watch)] == ["b", "c"]


async def test_a_watch_that_falls_too_far_behind_is_ended(kube: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BUFFER_LIMIT", 3)
    watch = opened(kube, version=str(kube.cluster.store.version))
    encoder = Presentation(PLAIN, "Metadata", kube.clock).events(kube.resource("configmaps"))
    stream = watch.events(encoder)
    assert await anext(stream) == b""
    for name in "abcde":
        kube.create("configmaps", config(name))
    assert [chunk async for chunk in stream] == []
    watch.close()


async def test_history_that_is_gone_is_an_error_in_the_stream(kube: Api) -> None:
    ((kind, status),) = await events(kube, opened(kube, version="1"))
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    assert status["message"].startswith("too old resource version: 1 (")


async def test_the_end_of_the_initial_events_is_marked(kube: Api) -> None:
    kube.create("configmaps", config("a"))
    watch = opened(kube, initial=True, match="NotOlderThan", bookmarks=True, timeout=0.05)
    found = await events(kube, watch)
    assert [kind for kind, _ in found] == ["ADDED", "BOOKMARK", "BOOKMARK"]
    assert found[1][1]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert "annotations" not in found[2][1]["metadata"]


async def test_a_table_sends_its_columns_once(kube: Api) -> None:
    for name in "ab":
        kube.create("configmaps", config(name))
    (_, first), (_, second) = await events(kube, opened(kube, timeout=0.05), TABLE)
    assert [column["name"] for column in first["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["columnDefinitions"] is None
    assert [first["rows"][0]["cells"][0], second["rows"][0]["cells"][0]] == ["a", "b"]


async def test_a_changed_definition_ends_the_watches_of_its_objects(widgets: Api) -> None:
    other, watch = opened(widgets), opened(widgets, "widgets")
    changed = json.loads(json.dumps(WIDGETS["spec"]))
    schema = changed["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    schema["added"] = {"type": "string"}
    widgets.patch("customresourcedefinitions", "widgets.unit.example.com", {"spec": {"versions": changed["versions"]}})
    await widgets.settle()
    assert await events(widgets, watch, plural="widgets") == []
    # The others go on until they are ended themselves.
    widgets.cluster.watches.close()
    assert await events(widgets, other) == []


async def test_a_deleted_definition_ends_the_watches_after_the_last_deletion(widgets: Api) -> None:
    widgets.create("widgets", {"metadata": {"name": "a"}, "spec": {}})
    watch = opened(widgets, "widgets", version=str(widgets.cluster.store.version))
    encoder = Presentation(PLAIN, "Metadata", widgets.clock).events(widgets.resource("widgets"))
    stream = watch.events(encoder)
    assert await anext(stream) == b""
    widgets.delete("customresourcedefinitions", "widgets.unit.example.com")
    await widgets.settle()
    chunks = [chunk async for chunk in stream]
    assert [json.loads(line)["type"] for line in b"".join(chunks).splitlines()] == ["DELETED"]
    assert widgets.cluster.registry.find("unit.example.com", "v1", "widgets") is None
    watch.close()
