"""`python -m local.workers` as the demo starts it, with Pods on an API server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.workers.pods import CONTAINER
from modelcache.api.labels import BASE_MODEL_HASH_LABEL, base_model_hash
from tests.support.api import Api
from tests.support.kubectl import Kubectl
from tests.support.process import python_module
from tests.support.waiting import wait_until
from tests.support.workers import BASE_MODEL, WorkersProcess

Start = Callable[..., WorkersProcess]


@pytest.fixture
def start(kubeconfig: Path, namespace: str) -> Iterator[Start]:
    running: list[WorkersProcess] = []

    def one(*arguments: str) -> WorkersProcess:
        common = ("--kubeconfig", str(kubeconfig), "--namespace", namespace, "--base-model", BASE_MODEL)
        running.append(WorkersProcess(*common, *arguments))
        return running[-1]

    yield one
    for process in running:
        process.close()


def pods(api: Api, namespace: str) -> dict[str, Any]:
    selector = f"{BASE_MODEL_HASH_LABEL}%3D{base_model_hash(BASE_MODEL)}"
    found = api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}").expect(200)["items"]
    return {pod["metadata"]["name"]: pod for pod in found}


def ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def test_workers_are_pods_as_long_as_they_run(
    api: Api, namespace: str, kubectl: Kubectl, start: Start, tmp_path: Path
) -> None:
    mount = f"/models={tmp_path}/{{node}}/models/{{namespace}}"
    workers = start("--mount", mount, "worker-0=node-0", "worker-1=node-1")
    wait_until(lambda: all(map(ready, pods(api, namespace).values())), what="both ready")
    first = pods(api, namespace)["worker-0"]
    assert first["spec"]["nodeName"] == "node-0"
    assert first["spec"]["volumes"][0]["hostPath"]["path"] == f"{tmp_path}/node-0/models/{namespace}"
    address = f"http://{first['status']['podIP']}:9090"
    assert workers.one("worker-0")["address"] == address
    table = kubectl.in_namespace(namespace)("get", "pods", "-l", "nvidia.com/dynamo-component-type=worker").table()
    assert [row[:3] for row in table[1:]] == [
        ["worker-0", "1/1", "Running"],
        ["worker-1", "1/1", "Running"],
    ]

    # A restart is seen on the Pod, as another container.
    before = first["status"]["containerStatuses"][0]
    workers.restart("worker-0")

    def restarted() -> bool:
        status = pods(api, namespace)["worker-0"]["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 1 and status["ready"] and status["containerID"] != before["containerID"])

    wait_until(restarted)
    assert before["name"] == CONTAINER

    # Who deletes the Pod ends the worker.
    kubectl.in_namespace(namespace)("delete", "pod", "worker-1", "--wait=false")
    wait_until(lambda: [worker["name"] for worker in workers.all()] == ["worker-0"])
    wait_until(lambda: set(pods(api, namespace)) == {"worker-0"})

    # And a worker that is added takes part.
    workers.add("worker-1", "node-2")
    wait_until(lambda: ready(pods(api, namespace).get("worker-1", {})))
    assert workers.terminate() == 0
    assert pods(api, namespace) == {}


def test_a_pod_is_not_ready_while_its_engine_starts(api: Api, namespace: str, start: Start) -> None:
    workers = start("--switches", '{"start_held": true}', "--engine", "vllm", "--annotate-engine", "worker-0=node-0")
    wait_until(lambda: pods(api, namespace)["worker-0"]["status"].get("podIP"))
    pod = pods(api, namespace)["worker-0"]
    assert not ready(pod)
    assert pod["metadata"]["annotations"]["modelcache.nvidia.com/lora-engine"] == "vllm"
    assert pod["metadata"]["annotations"]["modelcache.nvidia.com/lora-port"] == "8000"
    workers.switch("worker-0")
    wait_until(lambda: ready(pods(api, namespace)["worker-0"]))


@pytest.mark.parametrize("arguments", [["worker-0"], ["--switches", '{"what": 1}', "worker-0=node-0"]])
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    process = python_module("local.workers", *arguments)
    assert process.wait() == 2
    process.close()
