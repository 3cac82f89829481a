"""Real agents that read from each other, and one of them that cannot be trusted."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from local.ports import free_port
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of, write_repository
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_an_agent_that_serves_wrong_bytes_is_dropped_reported_and_does_no_harm(
    repositories: Path,
    hub: HubProcess,
    cluster: CacheCluster,
    model: Callable[[str], Model],
    namespace: str,
) -> None:
    write_repository(repositories, "acme/tiny", {"model.safetensors": bytes(range(256)) * 8000, "config.json": b"{}"})
    hub.restart()
    liar, *honest = cluster.nodes
    ports = {node: free_port() for node in honest}
    cluster.start_agent(liar, module="tests.support.lying_agent")
    for node, port in ports.items():
        cluster.start_agent(node, "--metrics-listen", f"127.0.0.1:{port}")
    cluster.wait_connected()
    tiny = model("tiny")
    tiny.create("hf://acme/tiny", storage={"nodeLocal": {"nodeSelector": {"kubernetes.io/hostname": liar}}})
    tiny.wait_ready()
    tiny.patch(storage={"nodeLocal": {"nodeSelector": {"kubernetes.io/hostname": None}}})
    tiny.wait_ready()
    assert set(cluster.ready_nodes(namespace, "tiny")) == set(cluster.nodes)
    first, *others = [tree_of(cluster.paths(node).current(namespace, "tiny").resolve()) for node in cluster.nodes]
    assert all(tree == first for tree in others)

    def dropped() -> list[str]:
        return [event["message"] for event in tiny.events() if event["reason"] == "PeerDropped"]

    messages = wait_until(dropped)
    assert all(f"does not read from {liar} any more" in message for message in messages)
    assert all(".safetensors" in message or "config.json" in message for message in messages)
    assert sum(_dropped(port) for port in ports.values()) == len(messages)


def _dropped(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("modelcache_peers_dropped_total"))
