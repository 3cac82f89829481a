"""Old and new side by side: a controller, and agents that speak other versions of the wire contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of, write_repository
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

VERSIONS = ("older-agent", "newer", "older-controller")
"""See `tests.support.other_schema`: what the agents of the three nodes speak, or hear."""


@pytest.fixture(autouse=True)
def branches(repositories: Path) -> dict[str, Path]:
    for branch, content in (("name", b"first"), ("name@v2", b"second")):
        write_repository(repositories, f"org/{branch}", {"config.json": b"{}", "w.safetensors": content * 1000})
    return {"main": repositories / "org" / "name", "v2": repositories / "org" / "name@v2"}


@pytest.fixture
def mixed(
    installed: None, api: Api, kubeconfig: Path, tmp_path: Path, branches: dict[str, Path], hub: HubProcess,
    request: pytest.FixtureRequest,
) -> Iterator[CacheCluster]:  # fmt: skip
    """A node for each of VERSIONS."""
    cluster = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub)
    try:
        cluster.project(*cluster.nodes)
        cluster.start_controller()
        for node, version in zip(cluster.nodes, VERSIONS, strict=True):
            cluster.start_agent(node, "--speaks", version, module="tests.support.other_schema")
        cluster.wait_connected()
        yield cluster
    finally:
        request.node.add_report_section("teardown", "cluster logs", cluster.all_logs()[-40000:])
        cluster.close()


def test_models_come_change_and_go_among_versions(
    mixed: CacheCluster, api: Api, namespace: str, branches: dict[str, Path]
) -> None:
    def hold(branch: str) -> Callable[[], bool]:
        trees = {node: mixed.paths(node).current(namespace, "one") for node in mixed.nodes}
        return lambda: all(tree_of(tree) == tree_of(branches[branch]) for tree in trees.values())

    def removed(node: str) -> bool:
        return not mixed.paths(node).model(namespace, "one").exists()

    model = Model(api, namespace, "one")
    model.create("hf://org/name")
    model.wait_ready()
    assert mixed.ready_nodes(namespace, "one") == mixed.nodes
    assert hold("main")()

    model.patch(version="v2")
    model.wait_ready()
    wait_until(hold("v2"), what="all hold the other revision")
    wait_until(lambda: mixed.revisions(namespace, "one") == {model.status()["resolvedVersion"][:12]})

    # Who is not told, or cannot ask, which pods use what keeps the files, without labels, until both sides can.
    model.delete()
    waiting = [node for node, version in zip(mixed.nodes, VERSIONS, strict=True) if version != "newer"]
    wait_until(lambda: mixed.ready_nodes(namespace, "one") == [], what="the labels are gone")
    wait_until(partial(removed, mixed.nodes[VERSIONS.index("newer")]), what="files are gone")
    told = f"waiting for 2 nodes to remove it: {', '.join(waiting)}"
    wait_until(lambda: told in mixed.logs("controller"), what="it is told")
    for node in waiting:
        assert not removed(node)
        mixed.start_agent(node)
    wait_until(model.gone, what="gone, now that both sides know who uses what")
    assert all(map(removed, mixed.nodes))
