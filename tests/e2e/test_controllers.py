"""Two controllers, of which one leads: killing it, killing both, and certificates that are renewed all the while."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.sync import CONNECTED
from benchmarks.churn import BASE_MODEL, write_adapter
from modelcache.api.labels import is_ours, ready_label
from tests.support.api import Api, Json, Watch
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of, write_repository
from tests.support.waiting import wait_until
from tests.support.workers_process import WorkersProcess

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 200_000}
# Short enough to wait for, and long against what a machine with ten processes for each core takes: a leader that cannot renew
# in time begins its term anew each time, and with leases of 4 s agents were not connected after three minutes.
QUICK = ("--lease-duration", "6", "--certificate-lifetime", "15", "--heartbeat", "2", "--agent-timeout", "120")
ENROLLED = "has a certificate until"
IMPATIENT = "tests.support.impatient"
LORA = "my-lora"


@pytest.fixture(autouse=True)
def repository(repositories: Path) -> Path:
    write_repository(repositories, "org/name", FILES)
    write_adapter(repositories / "loras" / "mine", weights=b"mine")
    return repositories / "org" / "name"


@pytest.fixture
def pair(
    installed: None, api: Api, kubeconfig: Path, tmp_path: Path, repository: Path, hub: HubProcess,
    request: pytest.FixtureRequest,
) -> Iterator[CacheCluster]:  # fmt: skip
    """Two nodes with agents and two controllers."""
    cluster = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub, nodes=2, controllers=2)
    try:
        cluster.project(*cluster.nodes)
        for number in range(2):
            cluster.start_replica(number, *QUICK)
        for node in cluster.nodes:
            cluster.start_agent(node, module=IMPATIENT)
        wait_until(lambda: all(CONNECTED in cluster.logs(node) for node in cluster.nodes), what="all are connected")
        yield cluster
    finally:
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

    def check(self, but: Collection[str] = ()) -> None:
        """All is as it was."""
        now = self._look()
        assert {what: found for what, found in now.items() if what not in but} == {
            what: found for what, found in self._before.items() if what not in but
        }


def certificates(cluster: CacheCluster) -> list[int]:
    """How many certificates each agent has had."""
    return [cluster.logs(node).count(ENROLLED) for node in cluster.nodes]


def certified_until(cluster: CacheCluster, node: str) -> datetime:
    """When the last certificate of an agent ends, as it says itself."""
    until = cluster.logs(node).rpartition(ENROLLED)[2].split()[0]
    return datetime.strptime(until, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def flip_a_bit(path: Path) -> None:
    """In place, so that every link to the content has it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def watching(api: Api, node: str) -> Watch:
    """What happens to a Node from now on."""
    version = api.get(f"/api/v1/nodes/{node}").expect(200)["metadata"]["resourceVersion"]
    return api.watch("/api/v1/nodes", resourceVersion=version, fieldSelector=f"metadata.name={node}")


def is_ready(event: Json, model: Model) -> bool:
    """Whether the Node carries the model's label."""
    return bool(event["object"]["metadata"]["labels"].get(ready_label(model.namespace, model.name)) == "Ready")


@pytest.fixture
def workers(pair: CacheCluster, kubeconfig: Path, namespace: str) -> Iterator[WorkersProcess]:
    """A worker on the second node."""
    process = WorkersProcess(kubeconfig, namespace, pair.directory, {"worker": pair.nodes[1]})
    yield process
    process.close()


@pytest.mark.timeout(900)  # leases and certificates have to run out in it, on a machine that may be busy
def test_controllers_die_and_nothing_is_done_twice(
    pair: CacheCluster, workers: WorkersProcess, api: Api, namespace: str
) -> None:
    model, adapter = Model(api, namespace, "first"), Model(api, namespace, "adapter")
    model.create("hf://org/name")
    adapter.create("hf://loras/mine", modelName=LORA, baseModelName=BASE_MODEL, modelType="lora")
    model.wait_ready()
    adapter.wait_condition("EndpointsReady", "True")
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
    connections = pair.logs(pair.nodes[1]).count(CONNECTED)

    # Nobody leads for longer than any certificate is good. An agent dies meanwhile, and keeps no key on its disk.
    lone, lasting = pair.nodes
    for controller in (first, second):
        pair.kill(controller)
    pair.kill(lone)
    pair.start_agent(lone, module=IMPATIENT)
    wait_until(lambda: "no new certificate" in pair.logs(lone), what="the agent works without a controller")

    # An engine that has forgotten its adapter gets it back.
    workers.restart("worker")
    wait_until(lambda: workers.all_adapters() == {"worker": {LORA}}, what="the adapter is loaded again")
    wait_until(lambda: datetime.now(UTC) > certified_until(pair, lasting), what="the other one's certificate ends")
    witness.check()

    # Neither has a certificate that a peer would accept: what is damaged comes from the source.
    for node in pair.nodes:
        before = pair.hub.file_bytes()
        with watching(api, node) as events:
            flip_a_bit(pair.paths(node).current(namespace, model.name) / "model.safetensors")
            events.until(lambda event: not is_ready(event, model))
            events.until(lambda event: is_ready(event, model))
        assert pair.hub.file_bytes() - before == len(FILES["model.safetensors"])
    assert "is kept whole without a controller" in pair.logs(lone)
    witness.check(but={"bytes from the origin", "versions"})

    mended = Witness(pair, model)
    for number in range(2):
        pair.start_replica(number, *QUICK)
    wait_until(pair.leader, what="somebody leads again")
    wait_until(lambda: CONNECTED in pair.logs(lone), what="the agent that was started without a controller is back")
    wait_until(lambda: pair.logs(lasting).count(CONNECTED) > connections, what="the other one is back")
    model.wait_ready()
    adapter.wait_condition("EndpointsReady", "True")
    mended.check()
    other.delete()
    wait_until(other.gone, what="the new leader works")
    adapter.delete()
    wait_until(adapter.gone, what="the agent takes it out of the engine")
    assert workers.all_adapters() == {"worker": set()}
    workers.remove("worker")  # its pod mounts the namespace, so all that is in there is in use
    model.delete()
    wait_until(model.gone, what="agents do as they are told")


def test_without_any_controller_nodes_serve_and_mend_from_each_other(
    cluster: CacheCluster, repository: Path, model: Callable[[str], Model]
) -> None:
    one = model("one")
    one.create("hf://org/name")
    one.wait_ready()
    expected, read = tree_of(repository), cluster.hub.file_bytes()
    progress = one.status()["progress"]
    # What was begun twice on a busy machine, the origin has sent and nobody has taken, or was taken twice.
    assert 0 < progress["originBytes"] <= read
    assert progress["originBytes"] + progress.get("peerBytes", 0) >= progress["bytesTotal"]
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
