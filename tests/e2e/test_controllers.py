"""Two controllers, of which one leads: killing it, killing both, and certificates that are renewed all the while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.sync import CONNECTED
from modelcache.api.labels import is_ours
from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of, write_repository
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 200_000}
QUICK = ("--lease-duration", "4", "--certificate-lifetime", "10", "--heartbeat", "2", "--agent-timeout", "120")
ENROLLED = "has a certificate until"


@pytest.fixture(autouse=True)
def repository(repositories: Path) -> Path:
    write_repository(repositories, "org/name", FILES)
    return repositories / "org" / "name"


@pytest.fixture
def pair(
    installed: None, api: Api, kubeconfig: Path, tmp_path: Path, repository: Path, hub: HubProcess,
    request: pytest.FixtureRequest,
) -> Iterator[CacheCluster]:  # fmt: skip
    """Two nodes with agents and two controllers."""
    cluster = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub, nodes=2, controllers=2)
    cluster.project(*cluster.nodes)
    for number in range(2):
        cluster.start_replica(number, *QUICK)
    for node in cluster.nodes:
        cluster.start_agent(node)
    wait_until(lambda: all(CONNECTED in cluster.logs(node) for node in cluster.nodes), what="all are connected")
    yield cluster
    request.node.add_report_section("teardown", "cluster logs", cluster.all_logs()[-40000:])
    cluster.close()


class Witness:
    """What must not change while controllers come and go."""

    def __init__(self, cluster: CacheCluster, model: Model) -> None:
        self._cluster = cluster
        self._model = model
        self._before = self._look()

    def _look(self) -> dict[str, object]:
        nodes = {
            node: self._cluster.api.get(f"/api/v1/nodes/{node}").expect(200)["metadata"] for node in self._cluster.nodes
        }
        ready = self._model.condition("Ready")
        return {
            "bytes from the origin": self._cluster.hub.file_bytes(),
            # Of the whole Node: a label that was withdrawn and set again would show in it.
            "versions": {name: metadata["resourceVersion"] for name, metadata in nodes.items()},
            "labels": {name: sorted(filter(is_ours, metadata["labels"])) for name, metadata in nodes.items()},
            "ready since": (ready.get("status"), ready.get("lastTransitionTime")),
            "files": [
                tree_of(self._cluster.paths(node).current(self._model.namespace, self._model.name)) for node in nodes
            ],
        }

    def check(self) -> None:
        """All is as it was."""
        assert self._look() == self._before


def certificates(cluster: CacheCluster) -> list[int]:
    """How many certificates each agent has had."""
    return [cluster.logs(node).count(ENROLLED) for node in cluster.nodes]


@pytest.mark.timeout(300)  # leases and certificates have to run out in it, on a machine that may be busy
def test_controllers_die_and_nothing_is_done_twice(pair: CacheCluster, api: Api, namespace: str) -> None:
    model = Model(api, namespace, "first")
    model.create("hf://org/name")
    model.wait_ready()
    witness = Witness(pair, model)
    first = wait_until(pair.leader, what="somebody leads")

    pair.kill(first)
    (second,) = {"controller", "controller-1"} - {first}
    wait_until(lambda: pair.leader() == second, what="the other one leads")
    # A model that is new shows that the agents have found the new leader.
    other = Model(api, namespace, "second")
    other.create("hf://org/name", storage={"nodeLocal": {"nodeSelector": {"none": "such"}}})
    other.wait_condition("Ready", "False", "NoNodes")
    had = certificates(pair)
    wait_until(lambda: all(now > then for now, then in zip(certificates(pair), had, strict=True)), what="renewals")
    witness.check()

    # Nobody leads for longer than any certificate is good; an agent dies meanwhile.
    pair.kill(second)
    pair.kill(pair.nodes[0])
    pair.start_agent(pair.nodes[0])
    wait_until(lambda: "no new certificate" in pair.logs(pair.nodes[0]), what="the agent works without a controller")
    wait_until(
        lambda: "certificate has expired" in pair.logs(pair.nodes[1]) or "no controller" in pair.logs(pair.nodes[1])
    )
    witness.check()

    for number in range(2):
        pair.start_replica(number, *QUICK)
    wait_until(pair.leader, what="somebody leads again")
    wait_until(lambda: CONNECTED in pair.logs(pair.nodes[0]), what="the agent is back")
    model.wait_ready()
    witness.check()
    other.delete()
    wait_until(other.gone, what="the new leader works")
    model.delete()
    wait_until(model.gone, what="agents do as they are told")


def test_without_any_controller_nodes_serve_and_mend_from_each_other(
    cluster: CacheCluster, repository: Path, model: Callable[[str], Model]
) -> None:
    one = model("one")
    one.create("hf://org/name")
    one.wait_ready()
    expected, read = tree_of(repository), cluster.hub.file_bytes()
    cluster.kill("controller")
    damaged = cluster.paths(cluster.nodes[0]).current(one.namespace, one.name) / "model.safetensors"
    damaged.chmod(0o644)
    with damaged.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")

    def whole() -> bool:
        trees = [tree_of(cluster.paths(node).current(one.namespace, one.name)) for node in cluster.nodes]
        return all(tree == expected for tree in trees)

    wait_until(whole, what="the damaged file is as it was")
    wait_until(lambda: cluster.ready_nodes(one.namespace, one.name) == cluster.nodes, what="all nodes are labelled")
    assert cluster.hub.file_bytes() == read, "it came from another node"
