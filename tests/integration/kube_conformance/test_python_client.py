"""The official Python client, plain and asyncio, as this project's controllers use it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import aio, client, config, watch
from kubernetes.aio import config as aio_config

from tests.integration.kube_conformance.objects import WIDGET_GROUP, WIDGET_VERSION, configmap, node, widget
from tests.support.api import Api
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="session")
def sync_client(kubeconfig: Path) -> Iterator[Any]:
    """An ApiClient of the plain client."""
    found = config.new_client_from_config(str(kubeconfig))
    yield found
    found.close()


@pytest.fixture
async def async_client(kubeconfig: Path) -> AsyncIterator[Any]:
    """An ApiClient of the asyncio client."""
    settings = aio.client.Configuration()
    await aio_config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
    async with aio.client.ApiClient(settings) as found:
        yield found


def test_typed_objects(sync_client: Any, namespace: str) -> None:
    core: Any = client.CoreV1Api(sync_client)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "v"})
    created = core.create_namespaced_config_map(namespace, body)
    assert (created.data, created.metadata.namespace) == ({"k": "v"}, namespace)
    patched = core.patch_namespaced_config_map("a", namespace, {"data": {"l": "w"}})
    assert patched.data == {"k": "v", "l": "w"}
    created.data = {"k": "stale"}
    with pytest.raises(client.ApiException) as conflict:
        core.replace_namespaced_config_map("a", namespace, created)
    assert (conflict.value.status, json.loads(conflict.value.body or "")["reason"]) == (409, "Conflict")
    listed = core.list_namespaced_config_map(namespace, label_selector="x=y", limit=1)
    assert [item.metadata.name for item in listed.items] == ["a"]
    core.delete_namespaced_config_map("a", namespace)
    with pytest.raises(client.ApiException) as missing:
        core.read_namespaced_config_map("a", namespace)
    assert missing.value.status == 404
    assert client.VersionApi(sync_client).get_code().major == "1"


def test_nodes_and_leases(sync_client: Any, api: Api, namespace: str) -> None:
    core: Any = client.CoreV1Api(sync_client)
    core.create_node(node("python-node", x="y"))
    try:
        patched = core.patch_node("python-node", {"metadata": {"labels": {"x": None, "z": "1"}}})
        assert patched.metadata.labels == {"z": "1"}
        status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        assert core.patch_node_status("python-node", status).status.conditions[0].type == "Ready"
    finally:
        core.delete_node("python-node")
    leases: Any = client.CoordinationV1Api(sync_client)
    spec = client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15)
    body = client.V1Lease(metadata=client.V1ObjectMeta(name="election"), spec=spec)
    created = leases.create_namespaced_lease(namespace, body)
    created.spec.lease_transitions = 1
    assert leases.replace_namespaced_lease("election", namespace, created).spec.lease_transitions == 1
    with pytest.raises(client.ApiException) as conflict:
        leases.replace_namespaced_lease("election", namespace, created)
    assert conflict.value.status == 409


@pytest.mark.usefixtures("widgets")
def test_custom_objects(sync_client: Any, namespace: str) -> None:
    custom: Any = client.CustomObjectsApi(sync_client)
    where = (WIDGET_GROUP, WIDGET_VERSION, namespace, "widgets")
    created = custom.create_namespaced_custom_object(*where, widget("a", steps=["one"]))
    assert created["spec"]["color"] == "green"
    operations = [{"op": "add", "path": "/spec/steps/-", "value": "two"}]
    patched = custom.patch_namespaced_custom_object(
        *where, "a", operations, _content_type="application/json-patch+json"
    )
    assert patched["spec"]["steps"] == ["one", "two"]
    status = {"status": {"phase": "Ready"}}
    patched = custom.patch_namespaced_custom_object_status(
        *where, "a", status, _content_type="application/merge-patch+json"
    )
    assert patched["status"] == {"phase": "Ready"}
    with pytest.raises(client.ApiException) as refused:
        custom.create_namespaced_custom_object(*where, widget("b", size=0))
    assert refused.value.status == 422
    listed = custom.list_namespaced_custom_object(*where)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
    custom.delete_namespaced_custom_object(*where, "a")


def test_watch_resumes_where_the_list_ended(sync_client: Any, api: Api, configmaps: str, namespace: str) -> None:
    core: Any = client.CoreV1Api(sync_client)
    api.post(configmaps, configmap("before")).expect(201)
    listed = core.list_namespaced_config_map(namespace)
    api.post(configmaps, configmap("a", {"k": "v"})).expect(201)
    api.delete(f"{configmaps}/a").expect(200)
    stream = watch.Watch()
    seen = []
    for event in stream.stream(
        core.list_namespaced_config_map,
        namespace,
        resource_version=listed.metadata.resource_version,
        timeout_seconds=60,
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            stream.stop()
    assert seen == [("ADDED", "a"), ("DELETED", "a")]


@pytest.mark.usefixtures("widgets")
def test_watch_of_a_version_too_old_is_an_error(sync_client: Any, namespace: str) -> None:
    custom: Any = client.CustomObjectsApi(sync_client)
    where = (WIDGET_GROUP, WIDGET_VERSION, namespace, "widgets")
    with pytest.raises(client.ApiException) as gone:
        for _ in watch.Watch().stream(
            custom.list_namespaced_custom_object, *where, resource_version="1", timeout_seconds=5
        ):
            pass
    assert gone.value.status == 410


@pytest.mark.usefixtures("widgets")
async def test_asyncio_client(async_client: Any, namespace: str) -> None:
    custom: Any = aio.client.CustomObjectsApi(async_client)
    where = (WIDGET_GROUP, WIDGET_VERSION, namespace, "widgets")
    created = await custom.create_namespaced_custom_object(*where, widget("a"))
    stale = {**created, "spec": {"size": 3}}
    updated = await custom.replace_namespaced_custom_object(*where, "a", {**created, "spec": {"size": 2}})
    assert updated["metadata"]["generation"] == 2
    with pytest.raises(aio.client.ApiException) as conflict:
        await custom.replace_namespaced_custom_object(*where, "a", stale)
    assert conflict.value.status == 409
    with pytest.raises(aio.client.ApiException) as refused:
        await custom.create_namespaced_custom_object(*where, widget("b", color="pink"))
    assert "supported values" in json.loads(refused.value.body or "")["message"]


async def test_asyncio_list_and_watch_as_bytes(async_client: Any, api: Api, widgets: str, namespace: str) -> None:
    """How large lists and watches are read cheaply: pages and lines as they come, decoded by the caller."""
    for name in ("a", "b", "c"):
        api.post(widgets, widget(name)).expect(201)
    read = aio.client.CustomObjectsApi(async_client).list_namespaced_custom_object_without_preload_content
    where = (WIDGET_GROUP, WIDGET_VERSION, namespace, "widgets")
    first = json.loads(await (await read(*where, limit=2)).read())
    rest = json.loads(await (await read(*where, limit=2, _continue=first["metadata"]["continue"])).read())
    assert [item["metadata"]["name"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
    start = rest["metadata"]["resourceVersion"]
    response = await read(*where, watch=True, allow_watch_bookmarks=True, resource_version=start, timeout_seconds=60)
    try:
        changed = api.patch(f"{widgets}/b", {"spec": {"size": 5}}).expect(200)
        event = json.loads(await asyncio.wait_for(response.content.readline(), PATIENCE))
        assert (event["type"], event["object"]) == ("MODIFIED", changed)
    finally:
        response.close()
