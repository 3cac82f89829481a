"""The informer of pods, against an API server: what runs on which node, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from controller.claims import NodePods
from controller.pods import Pod, pods_informer
from modelcache.kube.client import KubeClient
from modelcache.kube.informer import Informer
from modelcache.kube.resources import ObjectKey
from tests.support.api import Api
from tests.support.kube import KubeServer
from tests.support.waiting import PATIENCE


def a_pod(name: str, node: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "engine"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"example.com/large": "x" * 1000}},
        "spec": {**spec, **({"nodeName": node} if node else {})},
    }


async def until(pods: Informer[Pod], holds: Callable[[], bool]) -> None:
    """Wait until something is true after a change that the informer has seen."""
    changed = asyncio.Event()
    pods.on_key(lambda key: changed.set())
    async with asyncio.timeout(PATIENCE):
        while not holds():
            changed.clear()
            await changed.wait()


async def test_the_pods_of_a_node(own_kube: KubeServer) -> None:
    api, namespace = Api(own_kube.kubeconfig), f"pods-{secrets.token_hex(4)}"
    here, there = f"{namespace}-0", f"{namespace}-1"
    api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).expect(
        201
    )
    path = f"/api/v1/namespaces/{namespace}/pods"
    for name, node in (("a", here), ("b", there), ("c", ""), ("d", here)):
        api.post(path, a_pod(name, node)).expect(201)
    api.patch(f"{path}/d/status", {"status": {"phase": "Succeeded"}}).expect(200)

    def names(node: str) -> list[str]:
        return sorted(pod.name for pod in on_nodes.on(node))

    async with KubeClient.connect(own_kube.kubeconfig, user_agent="tests") as client:
        pods = pods_informer(client)
        on_nodes = NodePods(client, pods)
        running = asyncio.create_task(pods.run())
        await pods.wait_synced()
        assert (names(here), names(there)) == (["a"], ["b"])
        assert pods.get(ObjectKey(namespace, "c")) is None, "no node has taken it on"
        assert pods.get(ObjectKey(namespace, "d")) is None, "it has ended"

        api.post(path, a_pod("e", here)).expect(201)
        await until(pods, lambda: names(here) == ["a", "e"])
        api.patch(f"{path}/e/status", {"status": {"phase": "Failed"}}).expect(200)
        await until(pods, lambda: names(here) == ["a"])
        api.delete(f"{path}/a?gracePeriodSeconds=0")
        await until(pods, lambda: names(here) == [])
        running.cancel()
    for name in "bcde":
        api.delete(f"{path}/{name}?gracePeriodSeconds=0")
    api.delete(f"/api/v1/namespaces/{namespace}")
