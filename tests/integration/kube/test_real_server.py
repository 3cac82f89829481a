"""The same machinery on the API server of the suite: `local.kube`, or the real one (see tests/support/kube.py)."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelcache.kube import errors
from modelcache.kube.client import KubeClient
from modelcache.kube.elector import LeaderElector, Timing
from modelcache.kube.events import EventRecorder
from modelcache.kube.objects import ObjectReference, PartialObject
from modelcache.kube.resources import CONFIG_MAPS, EVENTS, LEASES, NODES, PODS
from tests.support.kube import KubeServer
from tests.support.kubectl import Kubectl
from tests.support.waiting import PATIENCE

Json = dict[str, Any]
Follow = Callable[..., Any]
Synced = Callable[[Any], Awaitable[None]]


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(kubeconfig) as client:
        yield client


def config_map(name: str, data: Any = None, labels: dict[str, str] | None = None) -> Json:
    metadata: Json = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {}}


def replaced(recorder: Any, goes: str, comes: str) -> bool:
    """Whether one name has left the informer's copy and another has arrived."""
    return comes in recorder.names() and goes not in recorder.names()


async def insist(write: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Repeat a write whose connection turns out to be one to the killed server."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await write(*arguments)
                return
            except errors.Unreachable:
                continue


async def test_verbs(cluster: KubeClient, namespace: str) -> None:
    created = await cluster.create(CONFIG_MAPS, config_map("a", {"k": "1"}), namespace, name="a")
    assert (created.name, created.namespace) == ("a", namespace)
    assert created.uid
    with pytest.raises(errors.AlreadyExists):
        await cluster.create(CONFIG_MAPS, config_map("a"), namespace, name="a")

    stored = await cluster.get(CONFIG_MAPS, "a", namespace, into=Json)
    patched = await cluster.merge_patch(CONFIG_MAPS, "a", {"data": {"k": None, "l": "2"}}, namespace)
    assert patched.resource_version != created.resource_version
    with pytest.raises(errors.Conflict):
        await cluster.replace(CONFIG_MAPS, "a", stored, namespace)
    await cluster.json_patch(CONFIG_MAPS, "a", [{"op": "add", "path": "/data/m", "value": "3"}], namespace)
    with pytest.raises(errors.Invalid):
        await cluster.json_patch(CONFIG_MAPS, "a", [{"op": "test", "path": "/data/m", "value": "9"}], namespace)
    assert (await cluster.get(CONFIG_MAPS, "a", namespace, into=Json))["data"] == {"l": "2", "m": "3"}

    await cluster.apply(CONFIG_MAPS, "b", config_map("b", {"k": "1"}), namespace, field_manager="one")
    with pytest.raises(errors.Conflict):
        await cluster.apply(CONFIG_MAPS, "b", config_map("b", {"k": "2"}), namespace, field_manager="two")
    await cluster.apply(CONFIG_MAPS, "b", config_map("b", {"k": "2"}), namespace, field_manager="two", force=True)

    with pytest.raises(errors.Conflict):
        await cluster.delete(CONFIG_MAPS, "a", namespace, uid="another")
    await cluster.delete(CONFIG_MAPS, "a", namespace, uid=created.uid)
    with pytest.raises(errors.NotFound):
        await cluster.get(CONFIG_MAPS, "a", namespace, into=PartialObject)


async def test_invalid_object_says_why(cluster: KubeClient, namespace: str) -> None:
    with pytest.raises(errors.Invalid, match="Bad_Name"):
        await cluster.create(CONFIG_MAPS, config_map("Bad_Name"), namespace, name="Bad_Name")


async def test_pages(cluster: KubeClient, namespace: str) -> None:
    for number in range(5):
        await cluster.create(CONFIG_MAPS, config_map(f"page-{number}", labels={"in": "pages"}), namespace)
    pages = [
        page
        async for page in cluster.list_pages(
            CONFIG_MAPS, namespace, into=PartialObject, label_selector="in=pages", limit=2
        )
    ]
    assert [[item.metadata.name for item in page.objects] for page in pages] == [
        ["page-0", "page-1"],
        ["page-2", "page-3"],
        ["page-4"],
    ]
    assert len({page.metadata.resource_version for page in pages}) == 1, "all pages show one moment"


async def test_informer_follows_with_selectors(
    cluster: KubeClient, namespace: str, follow: Follow, synced: Synced
) -> None:
    await cluster.create(CONFIG_MAPS, config_map("old", {"k": "1"}, {"watched": "yes"}), namespace)
    await cluster.create(CONFIG_MAPS, config_map("foreign"), namespace)
    async with follow(cluster, namespace=namespace, label_selector="watched=yes", page_size=1) as recorder:
        await synced(recorder)
        assert recorder.data() == {"old": {"k": "1"}}
        await cluster.create(CONFIG_MAPS, config_map("new", {"big": "x" * 700_000}, {"watched": "yes"}), namespace)
        await recorder.until(lambda: recorder.names() == {"old", "new"})
        assert len(recorder.data()["new"]["big"]) == 700_000
        await cluster.merge_patch(CONFIG_MAPS, "old", {"data": {"k": "2"}}, namespace)
        await recorder.until(lambda: recorder.data()["old"] == {"k": "2"})
        await cluster.merge_patch(CONFIG_MAPS, "foreign", {"metadata": {"labels": {"watched": "yes"}}}, namespace)
        await recorder.until(lambda: "foreign" in recorder.names())
        await cluster.merge_patch(CONFIG_MAPS, "foreign", {"metadata": {"labels": None}}, namespace)
        await recorder.until(lambda: "foreign" not in recorder.names())
        await cluster.delete(CONFIG_MAPS, "old", namespace)
        await recorder.until(lambda: recorder.names() == {"new"})


async def test_informer_survives_kill_9_in_the_middle_of_a_watch(
    cluster: KubeClient, kube_server: KubeServer, namespace: str, follow: Follow, synced: Synced
) -> None:
    await cluster.create(CONFIG_MAPS, config_map("before"), namespace)
    async with follow(cluster, namespace=namespace) as recorder:
        await synced(recorder)
        await cluster.create(CONFIG_MAPS, config_map("seen"), namespace)
        await recorder.until(lambda: {"before", "seen"} <= recorder.names())
        for goes, comes in (("before", "after-1"), ("seen", "after-2")):
            await asyncio.to_thread(kube_server.restart)
            await insist(cluster.create, CONFIG_MAPS, config_map(comes), namespace)
            await insist(cluster.delete, CONFIG_MAPS, goes, namespace)
            await recorder.until(partial(replaced, recorder, goes, comes))
    created = [new.metadata.name for old, new in recorder.changes if old is None and new is not None]
    deleted = [old.metadata.name for old, new in recorder.changes if old is not None and new is None]
    # A real server puts kube-root-ca.crt into every namespace.
    assert [name for name in created if not name.startswith("kube-")] == ["before", "seen", "after-1", "after-2"]
    assert deleted == ["before", "seen"]


async def test_lease_is_handed_over(kubeconfig: Path, namespace: str, cluster: KubeClient) -> None:
    class Lease(msgspec.Struct):
        spec: dict[str, Any]

    timing = Timing(lease_duration=30, renew_deadline=20, retry_period=0.1)
    leading: asyncio.Queue[str] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        tasks: dict[str, asyncio.Task[None]] = {}
        for name in ("one", "two"):
            client = await stack.enter_async_context(KubeClient.connect(kubeconfig))
            elector = LeaderElector(client, "test", namespace, name, timing=timing)

            async def lead(name: str = name) -> None:
                await leading.put(name)
                await asyncio.Event().wait()

            tasks[name] = asyncio.create_task(elector.run(lead))
        async with asyncio.timeout(PATIENCE):
            first = await leading.get()
            assert (await cluster.get(LEASES, "test", namespace, into=Lease)).spec["holderIdentity"] == first
            tasks[first].cancel()
            second = await leading.get()
        assert {first, second} == {"one", "two"}
        lease = (await cluster.get(LEASES, "test", namespace, into=Lease)).spec
        assert (lease["holderIdentity"], lease["leaseTransitions"]) == (second, 1)
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert (await cluster.get(LEASES, "test", namespace, into=Lease)).spec["holderIdentity"] == ""


async def test_kubectl_describe_shows_events(cluster: KubeClient, namespace: str, kubectl: Kubectl) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "c", "image": "none"}]},
    }
    meta = await cluster.create(PODS, pod, namespace)
    node_name = f"node-{secrets.token_hex(4)}"
    node = await cluster.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name}})
    async with EventRecorder(cluster, "modelcache-test", instance="here") as recorder:
        for _ in range(3):
            recorder.warning(ObjectReference("v1", "Pod", "web", namespace, meta.uid), "NotYet", "waiting for a model")
        recorder.normal(ObjectReference("v1", "Node", node_name, uid=node.uid), "Cached", "team-a/llama is there")
    assert recorder.dropped == 0

    described = await asyncio.to_thread(kubectl.in_namespace(namespace), "describe", "pod", "web")
    line = next(line for line in described.lines() if "NotYet" in line)
    assert line.split()[0] == "Warning"
    assert "(x3 over" in line
    assert "modelcache-test" in line
    assert line.endswith("waiting for a model")
    described = await asyncio.to_thread(kubectl, "describe", "node", node_name)
    assert "team-a/llama is there" in described.stdout
    await cluster.delete(NODES, node_name)


async def test_events_are_also_there_in_the_new_api(cluster: KubeClient, namespace: str, kubectl: Kubectl) -> None:
    async with EventRecorder(cluster, "modelcache-test") as recorder:
        recorder.normal(ObjectReference("v1", "Pod", "gone", namespace, "u"), "Hello", "from here")
    names = [
        event.metadata.name
        async for page in cluster.list_pages(
            EVENTS, namespace, into=PartialObject, field_selector="involvedObject.name=gone"
        )
        for event in page.objects
    ]
    assert len(names) == 1
    listed = await asyncio.to_thread(kubectl.in_namespace(namespace), "get", "events", "-o", "json")
    (event,) = listed.json()["items"]
    assert event["message"] == "from here"
