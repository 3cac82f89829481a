"""The user guide "Managing Models with DynamoModel", step by step with kubectl, against real processes.

`local.workers` stands in for the workers of a DynamoGraphDeployment; the adapters come from the hub of the test.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from benchmarks.churn import BASE_MODEL, Fleet, write_adapter, write_adapters
from local.workers.workers import Workers
from modelcache.api.labels import base_model_hash
from modelcache.kube.client import KubeClient
from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model
from tests.support.kubectl import Kubectl
from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers_process import WorkersProcess

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

LORA = "my-custom-lora"


@pytest.fixture(autouse=True)
def weights(repositories: Path) -> dict[str, str]:
    """sha256 of the weights of `loras/my-lora`, its branch `v2` and `loras/code`."""
    places = {"my-lora": "my-lora", "v2": "my-lora@v2", "code": "code"}
    return {
        name: write_adapter(repositories / "loras" / place, weights=name.encode() * 100)
        for name, place in places.items()
    }


@pytest.fixture
def inside(kubectl: Kubectl, namespace: str) -> Kubectl:
    return kubectl.in_namespace(namespace)


@pytest.fixture
def start_workers(
    cluster: CacheCluster, kubeconfig: Path, namespace: str
) -> Iterator[Callable[[dict[str, str]], WorkersProcess]]:
    """Starts workers (name -> node) in the test's namespace."""
    started: list[WorkersProcess] = []

    def start(workers: dict[str, str], *options: str) -> WorkersProcess:
        started.append(WorkersProcess(kubeconfig, namespace, cluster.directory, workers, *options))
        return started[-1]

    yield start
    for process in started:
        process.close()


def lora(name: str = "my-lora", model_name: str = LORA, uri: str = "hf://loras/my-lora") -> dict[str, object]:
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoModel",
        "metadata": {"name": name},
        "spec": {"modelName": model_name, "baseModelName": BASE_MODEL, "modelType": "lora", "source": {"uri": uri}},
    }


def event_reasons(model: Model) -> set[str]:
    return {event["reason"] for event in model.events()}


def counts(model: Model) -> tuple[int, int]:
    status = model.status()
    return status.get("totalEndpoints", 0), status.get("readyEndpoints", 0)


def endpoints_ready(inside: Kubectl, name: str = "my-lora") -> None:
    inside("wait", "--for=condition=EndpointsReady", f"dynamomodel/{name}", f"--timeout={PATIENCE:g}s")


def test_the_user_guide(
    cluster: CacheCluster,
    inside: Kubectl,
    start_workers: Callable[[dict[str, str]], WorkersProcess],
    model: Callable[[str], Model],
    weights: dict[str, str],
) -> None:
    # No endpoints found: the DynamoModel is there before its workers.
    mine = model("my-lora")
    inside("apply", "-f", "-", input=lora())
    found = mine.wait_condition("EndpointsReady", "False", "NoEndpoints")
    assert found["message"] == f"No endpoint slices found for base model {BASE_MODEL}"
    assert counts(mine) == (0, 0)
    wait_until(lambda: "NoEndpointsFound" in event_reasons(mine), what="the event NoEndpointsFound")

    # Quick start: two workers on two of three nodes.
    workers = start_workers({"worker-0": cluster.nodes[0], "worker-1": cluster.nodes[1]})
    endpoints_ready(inside)
    head, row = inside("get", "dynamomodel", "my-lora").table()
    assert head == ["NAME", "TOTAL", "READY", "AGE"]
    shown = dict(zip(head, row, strict=True))
    assert (shown["NAME"], shown["TOTAL"], shown["READY"]) == ("my-lora", "2", "2")
    assert cluster.ready_nodes(mine.namespace, "my-lora") == cluster.nodes[:2], "cached where the workers are"
    for worker in ("worker-0", "worker-1"):
        (loaded,) = workers.adapters(worker).values()
        assert (loaded["name"], loaded["sha256"]) == (LORA, weights["my-lora"])
        assert loaded["source"].startswith("file:///models/my-lora/"), "the path as the pod sees it"

    # Monitoring: the commands of the guide.
    def jsonpath(path: str) -> str:
        return inside("get", "dynamomodel", "my-lora", "-o", f"jsonpath={path}").stdout

    assert jsonpath("{.status.readyEndpoints}") == "2"
    assert jsonpath("{.status.endpoints[*].podName}") == "worker-0 worker-1"
    assert jsonpath("{.status.endpoints[*].address}") == f"{workers.address('worker-0')} {workers.address('worker-1')}"
    listed = json.loads(inside("get", "dynamomodel", "my-lora", "-o", "json").stdout)["status"]["endpoints"]
    assert [(each["podName"], each["ready"]) for each in listed] == [("worker-0", True), ("worker-1", True)]
    wait_until(lambda: "EndpointsReady" in event_reasons(mine), what="the event EndpointsReady")
    described = inside("describe", "dynamomodel", "my-lora").stdout
    for pattern in (
        rf"Model Name:\s+{LORA}",
        rf"Base Model Name:\s+{BASE_MODEL}",
        r"Model Type:\s+lora",
        r"Ready Endpoints:\s+2",
        r"Total Endpoints:\s+2",
        r"Address:\s+http://127\.\d+\.\d+\.\d+:9090\s+Pod Name:\s+worker-0\s+Ready:\s+true",
        r"Reason:\s+EndpointsDiscovered\s+Status:\s+True\s+Type:\s+EndpointsReady",
        rf"Normal\s+EndpointsReady\s.*Discovered 2 ready endpoints for base model {BASE_MODEL}",
    ):
        assert re.search(pattern, described), f"{pattern} is not in\n{described}"
    assert (
        inside(
            "get", "service", f"dynamo-model-{base_model_hash(BASE_MODEL)}", "-o", "jsonpath={.spec.clusterIP}"
        ).stdout
        == "None"
    )
    assert counts(mine) == (2, 2)

    # Use case 3: another adapter on the same base model; at first the engines refuse it (LoRA load failures).
    for worker in ("worker-0", "worker-1"):
        workers.switch(worker, load_status=500, load_message="CUDA out of memory")
    code = model("code-lora")
    inside("apply", "-f", "-", input=lora("code-lora", "code-adapter", "hf://loras/code"))
    failed = code.wait_condition("EndpointsReady", "False", "NoReadyEndpoints")
    wait_until(lambda: "CUDA out of memory" in code.condition("EndpointsReady")["message"], what="the engine's words")
    assert counts(code) == (2, 0), failed
    wait_until(lambda: "PartialEndpointFailure" in event_reasons(code), what="the event PartialEndpointFailure")
    assert "Failed to load code-adapter" in cluster.logs("controller"), "what the guide searches the log for"
    assert counts(mine) == (2, 2), "the other adapter does not suffer"
    for worker in ("worker-0", "worker-1"):
        workers.switch(worker)
    inside("annotate", "dynamomodel", "code-lora", "modelcache.nvidia.com/retry=now")
    endpoints_ready(inside, "code-lora")
    assert workers.all_adapters() == {"worker-0": {LORA, "code-adapter"}, "worker-1": {LORA, "code-adapter"}}

    # A worker that is restarted has forgotten everything, and gets it back.
    workers.restart("worker-0")
    wait_until(lambda: workers.all_adapters()["worker-0"] == {LORA, "code-adapter"}, what="worker-0 healed")
    endpoints_ready(inside)

    # A pod on another node gets it by itself; without its last pod a node loses it.
    workers.add("worker-2", cluster.nodes[2])
    wait_until(lambda: counts(mine) == (3, 3), what="three endpoints")
    workers.remove("worker-0")
    wait_until(lambda: counts(mine) == (2, 2), what="two endpoints")
    wait_until(lambda: cluster.ready_nodes(mine.namespace, "my-lora") == cluster.nodes[1:], what="the label is gone")

    # Updating: never ready with the old weights.
    generation = json.loads(inside("get", "dynamomodel", "my-lora", "-o", "json").stdout)["metadata"]["generation"]
    inside("patch", "dynamomodel", "my-lora", "--type=merge", "-p", '{"spec": {"version": "v2"}}')
    mine.wait_condition("EndpointsReady", "True")
    assert mine.condition("EndpointsReady")["observedGeneration"] > generation
    assert {workers.adapters(name)[LORA]["sha256"] for name in ("worker-1", "worker-2")} == {weights["v2"]}

    # Deleting: out of the workers, which go on running.
    inside("delete", "dynamomodel", "my-lora", f"--timeout={PATIENCE:g}s")
    assert workers.all_adapters() == {"worker-1": {"code-adapter"}, "worker-2": {"code-adapter"}}
    wait_until(lambda: "LoRAUnloaded" in event_reasons(mine), what="the event LoRAUnloaded")
    assert all(not cluster.paths(node).model(mine.namespace, "my-lora").exists() for node in cluster.nodes)
    assert counts(code) == (2, 2)


async def test_a_restless_fleet_settles(
    cluster: CacheCluster, kubeconfig: Path, namespace: str, repositories: Path, hub: HubProcess, api: Api
) -> None:
    adapters = write_adapters(repositories, 2, ("main", "v2"))
    hub.restart()
    mounts = {"/models": f"{cluster.directory}/{{node}}/models/{{namespace}}"}
    async with KubeClient.connect(kubeconfig) as client:
        workers = Workers(client, namespace=namespace, base_model=BASE_MODEL, mounts=mounts)
        async with workers:
            fleet = Fleet(client, namespace, workers, cluster.nodes, adapters)
            try:
                await fleet.populate(3)
                await fleet.churn(Random(5), steps=15, pause=0.1)
                await fleet.until_agreed(timeout=PATIENCE)
                assert sum(fleet.done.values()) == 15
            finally:
                for adapter in adapters:
                    path = f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels/{adapter.name}"
                    await asyncio.to_thread(api.delete, path)
                await fleet.until_empty(timeout=PATIENCE)
