"""The user guide "Managing Models with DynamoModel": each of its stories step by step, against real processes.

`guide/` has its manifests as they are printed there, but for the namespaces, which are of the test. Its commands are run as
they are printed, by a shell; `kubectl logs` alone cannot be, because no kubelet keeps logs here: what the guide searches the
operator's log for is searched for in the controller's. `local.workers` stands in for the workers of a
DynamoGraphDeployment, `nanio` for S3 with the identity of an instance (or of a Secret), `local.hub` for the Hugging Face Hub.

The cluster is one for all stories; each has a namespace, which stands for that of the guide.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from benchmarks.churn import BASE_MODEL, write_adapter
from modelcache.api.labels import base_model_hash
from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model
from tests.support.kubectl import Kubectl
from tests.support.prometheus import REQUIRED
from tests.support.s3 import REGION, S3, nanio
from tests.support.shell import Shell
from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers_process import WorkersProcess

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

GUIDE = Path(__file__).parent / "guide"
LARGE_MODEL = "meta-llama/Llama-3.3-70B-Instruct"
LORA = "my-custom-lora"
HUB_TOKEN = "hf_of_the_owner"  # of a hub on loopback
TIMEOUT = f"--timeout={PATIENCE:g}s"
LABELLED = "kubectl get pods -l nvidia.com/dynamo-component-type=worker"

PLACES = {
    "my-lora": "my-bucket/loras/my-lora",
    "my-lora-v2": "my-bucket/loras/my-lora-v2",
    "my-lora-v3": "my-bucket/loras/my-lora-v3",
    "customer-support": "my-models-bucket/loras/customer-support/v1",
    "support": "models/support-lora",
    "code": "models/code-lora",
    "broken": "models/broken-lora",
}
"""Adapters in S3. The last one lacks its weights."""


class StartWorkers(Protocol):
    def __call__(self, workers: dict[str, str], *options: str) -> WorkersProcess: ...


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of the weights of each adapter that `s3` and `hub` serve, by the names in PLACES, and `multilingual`."""
    return {}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, str]) -> Iterator[HubProcess]:
    """With a private repository whose `main` is not its `v1.0.0`."""
    root = tmp_path_factory.mktemp("repositories")
    private = root / "myorg" / "qwen-multilingual-lora"
    write_adapter(private, weights=b"main" * 100)
    weights["multilingual"] = write_adapter(private.with_name(f"{private.name}@v1.0.0"), weights=b"v1.0.0" * 100)
    settings = {"private": True, "tokens": [HUB_TOKEN]}
    private.with_name(f"{private.name}.hub.json").write_text(json.dumps(settings))
    process = HubProcess(root, "--token", HUB_TOKEN)
    yield process
    process.close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, str]) -> Iterator[S3]:
    upload = tmp_path_factory.mktemp("upload")
    for name, place in PLACES.items():
        weights[name] = write_adapter(upload / place, weights=name.encode() * 100)
    (upload / PLACES["broken"] / "adapter_model.safetensors").unlink()
    with nanio(tmp_path_factory.mktemp("nanio")) as server:
        for bucket in upload.iterdir():
            server.s5cmd("mb", f"s3://{bucket.name}")
            server.s5cmd("cp", f"{bucket}/", f"s3://{bucket.name}/")
        yield server


@pytest.fixture(scope="module")
def cluster(
    installed: None, api: Api, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory, hub: HubProcess, s3: S3
) -> Iterator[CacheCluster]:
    """Three nodes. The daemons may read the bucket `my-bucket` and `models` by themselves, in a profile."""
    directory = tmp_path_factory.mktemp("cluster")
    profile = directory / "profile"
    profile.write_text(f"[own]\naws_access_key_id = {s3.key_id}\naws_secret_access_key = {s3.secret}\n")
    environment = {"AWS_ENDPOINT_URL": s3.url, "AWS_REGION": REGION, "AWS_PROFILE": "own",
                   "AWS_SHARED_CREDENTIALS_FILE": str(profile)}  # fmt: skip
    running = CacheCluster(api, kubeconfig, directory / "nodes", hub, environment=environment)
    running.start()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def logged(cluster: CacheCluster, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the daemons said meanwhile is shown when a test fails."""
    yield
    request.node.add_report_section("teardown", "cluster logs", cluster.all_logs()[-20000:])


@pytest.fixture(autouse=True)
def jq() -> None:
    """The guide pipes into it."""
    if shutil.which("jq") is None:
        if os.environ.get(REQUIRED):
            pytest.fail("jq is missing: apt-get install jq")
        pytest.skip("jq is not installed (Debian package jq)")


@pytest.fixture
def shell(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Shell:
    """In the namespace of the test, in a directory with the manifests of the guide."""
    for file in GUIDE.iterdir():
        text = re.sub(r"(?<=namespace: )(dynamo-system|production)", namespace, file.read_text())
        (tmp_path / file.name).write_text(text)
    return Shell(kubectl, namespace, tmp_path)


@pytest.fixture
def start_workers(cluster: CacheCluster, kubeconfig: Path, namespace: str) -> Iterator[StartWorkers]:
    """Starts workers (name -> node) in the test's namespace."""
    started: list[WorkersProcess] = []

    def start(workers: dict[str, str], *options: str) -> WorkersProcess:
        started.append(WorkersProcess(kubeconfig, namespace, cluster.directory, workers, *options))
        return started[-1]

    yield start
    for process in started:
        process.close()


def told(model: Model, reason: str, text: str) -> None:
    """Wait for an Event about the model that says so."""

    def found() -> bool:
        return any(event["reason"] == reason and text in event["message"] for event in model.events())

    wait_until(found, what=f"the event {reason} of {model.name}: {text}")


def wait_ready(shell: Shell, name: str, count: int) -> None:
    shell(f"kubectl wait --for=jsonpath='{{.status.readyEndpoints}}'={count} dynamomodel/{name} {TIMEOUT}")


def wait_logged(cluster: CacheCluster, *words: str) -> None:
    """What `kubectl logs ... -f | grep` shows: a line of the controller's with all these words."""

    def logged() -> bool:
        lines = cluster.logs("controller").splitlines()
        return any(all(word in line for word in words) for line in lines)

    wait_until(logged, what=f"{words} in the controller's log")


def loaded(workers: WorkersProcess, lora: str = LORA) -> dict[str, str]:
    """sha256 of the weights that each worker has under a name, for those that have any."""
    found = {name: workers.adapters(name).get(lora) for name in workers.all_adapters()}
    return {name: adapter["sha256"] for name, adapter in found.items() if adapter is not None}


def status_of(shell: Shell, name: str = "my-lora") -> dict[str, Any]:
    """Counts and the condition as the guide prints them."""
    status = shell(f"kubectl get dynamomodel {name} -o json").json()["status"]
    condition = next(each for each in status["conditions"] if each["type"] == "EndpointsReady")
    return {"total": status["totalEndpoints"], "ready": status["readyEndpoints"],
            **{key: condition[key] for key in ("status", "reason", "message")}}  # fmt: skip


def test_quick_start_monitoring_update_and_delete(
    shell: Shell, cluster: CacheCluster, start_workers: StartWorkers, model: Callable[[str], Model],
    weights: dict[str, str],
) -> None:  # fmt: skip
    # Deployment workflow. The Dynamo operator would make the pods.
    shell("kubectl apply --server-side -f dynamographdeployments.yaml")
    shell(f"kubectl wait --for=condition=Established crd/dynamographdeployments.nvidia.com {TIMEOUT}")
    shell("kubectl apply -f my-deployment.yaml")
    workers = start_workers({"worker-0": cluster.nodes[0], "worker-1": cluster.nodes[1]})
    shell("kubectl wait --for=condition=ready pod -l nvidia.com/dynamo-component-type=worker --timeout=5m")

    # Quick start.
    mine = model("my-lora")
    assert shell("kubectl apply -f my-lora.yaml").stdout == "dynamomodel.nvidia.com/my-lora created\n"
    wait_ready(shell, "my-lora", 2)
    shell(f"kubectl wait --for=condition=EndpointsReady dynamomodel/my-lora {TIMEOUT}")
    head, row = shell("kubectl get dynamomodel my-lora").table()
    assert head == ["NAME", "TOTAL", "READY", "AGE"]
    assert row[:3] == ["my-lora", "2", "2"]
    assert re.fullmatch(r"\d+s", row[3])
    assert loaded(workers) == {"worker-0": weights["my-lora"], "worker-1": weights["my-lora"]}
    assert workers.adapters("worker-0")[LORA]["source"].startswith("file:///models/my-lora/"), "as the pod sees it"
    assert cluster.ready_nodes(mine.namespace, "my-lora") == cluster.nodes[:2], "cached where the workers are"
    service = f"kubectl get service dynamo-model-{base_model_hash(BASE_MODEL)} -o jsonpath='{{.spec.clusterIP}}'"
    assert shell(service).stdout == "None"

    # Monitoring and operations.
    said = f"Discovered 2 ready endpoints for base model {BASE_MODEL}"
    told(mine, "EndpointsReady", said)
    described = shell("kubectl describe dynamomodel my-lora").stdout
    address = r"Address:\s+http://127\.\d+\.\d+\.\d+:9090\s+Pod Name:\s+{}\s+Ready:\s+true"
    for pattern in (
        r"Name:\s+my-lora\n", rf"Namespace:\s+{mine.namespace}\n", rf"Model Name:\s+{LORA}",
        rf"Base Model Name:\s+{BASE_MODEL}", r"Model Type:\s+lora", r"Source:\n\s+Uri:\s+s3://my-bucket/loras/my-lora",
        r"Ready Endpoints:\s+2", r"Total Endpoints:\s+2", address.format("worker-0"), address.format("worker-1"),
        r"Reason:\s+EndpointsDiscovered\s+Status:\s+True\s+Type:\s+EndpointsReady",
        rf"Normal\s+EndpointsReady\s.*{said}",
    ):  # fmt: skip
        assert re.search(pattern, described), f"{pattern} is not in\n{described}"
    assert said in shell("kubectl describe dynamomodel my-lora | tail -20").stdout
    wait_logged(cluster, "my-lora", "Successfully reconciled")
    addresses = shell(
        r"kubectl get dynamomodel my-lora -o jsonpath='{.status.endpoints[*].address}' | tr ' ' '\n'"
    ).lines()
    assert addresses == [workers.address("worker-0"), workers.address("worker-1")]
    names = shell(r"kubectl get dynamomodel my-lora -o jsonpath='{.status.endpoints[*].podName}' | tr ' ' '\n'")
    assert names.lines() == ["worker-0", "worker-1"]
    readiness = shell("kubectl get dynamomodel my-lora -o json | jq '.status.endpoints[] | {podName, ready}'").stdout
    assert readiness == "".join(f'{{\n  "podName": "worker-{each}",\n  "ready": true\n}}\n' for each in (0, 1))

    # Updating: never ready with the old weights, whichever way the source is changed.
    edit = f"sed -i s|{PLACES['my-lora']}|{PLACES['my-lora-v3']}|"
    ways = {"my-lora-v3": "kubectl edit dynamomodel my-lora", "my-lora-v2": "kubectl apply -f my-lora-v2.yaml"}
    for version, way in ways.items():
        shell(way, env={"KUBE_EDITOR": edit})
        mine.wait_condition("EndpointsReady", "True")
        assert loaded(workers) == {"worker-0": weights[version], "worker-1": weights[version]}

    # A worker that is restarted has forgotten everything, and gets it back; a pod on another node gets it by itself.
    workers.restart("worker-0")
    wait_until(lambda: "worker-0" in loaded(workers), what="worker-0 healed")
    workers.add("worker-2", cluster.nodes[2])
    wait_ready(shell, "my-lora", 3)
    workers.remove("worker-0")
    wait_until(lambda: cluster.ready_nodes(mine.namespace, "my-lora") == cluster.nodes[1:], what="the label is gone")

    # Deleting: out of the workers, which go on running.
    assert shell("kubectl delete dynamomodel my-lora").stdout.startswith('dynamomodel.nvidia.com "my-lora" deleted')
    assert loaded(workers) == {}
    told(mine, "LoRAUnloaded", f"Unloaded {LORA} from 2 endpoint(s)")
    assert all(not cluster.paths(node).model(mine.namespace, "my-lora").exists() for node in cluster.nodes)
    pods = [row[:3] for row in shell(LABELLED).table()[1:]]
    assert pods == [["worker-1", "1/1", "Running"], ["worker-2", "1/1", "Running"]]


def test_the_three_use_cases(
    shell: Shell, cluster: CacheCluster, start_workers: StartWorkers, model: Callable[[str], Model], s3: S3,
    weights: dict[str, str],
) -> None:  # fmt: skip
    nodes = cluster.nodes
    support = start_workers(
        {"large-0": nodes[0], "large-1": nodes[0], "large-2": nodes[2], "large-3": nodes[2]},
        "--base-model", LARGE_MODEL,
    )  # fmt: skip
    support.switch("large-3", load_status=500)
    workers = start_workers({"worker-0": nodes[0], "worker-1": nodes[1]})
    names = ("code-lora", "customer-support-lora", "multilingual-lora", "support-lora")
    made = {name: model(name) for name in names}

    # Use case 1, its bucket being read with credentials of a Secret; use case 2, of a private repository; use case 3.
    literals = " ".join(f"--from-literal={key}={value}" for key, value in s3.secret_values.items())
    shell(f"kubectl create secret generic s3-credentials {literals}")
    shell(f"kubectl create secret generic hf-token-secret --from-literal=HF_TOKEN={HUB_TOKEN}")
    for manifest, secret in (("customer-support-lora", "s3-credentials"), ("multilingual-lora", "hf-token-secret")):
        shell(f"{{ cat {manifest}.yaml; echo '    secretRef: {{name: {secret}}}'; }} | kubectl apply -f -")
    shell("kubectl apply -f two-loras.yaml")
    for name in names:
        wait_ready(shell, name, 3 if name == "customer-support-lora" else 2)
    for lora, of in (
        ("multilingual-adapter", "multilingual"),
        ("support-adapter", "support"),
        ("code-adapter", "code"),
    ):
        assert loaded(workers, lora) == {"worker-0": weights[of], "worker-1": weights[of]}
    lora, digest = "customer-support-adapter-v1", weights["customer-support"]
    assert loaded(support, lora) == dict.fromkeys(("large-0", "large-1", "large-2"), digest)
    assert cluster.ready_nodes(made["code-lora"].namespace, "customer-support-lora") == [nodes[0], nodes[2]]

    # The pod that refuses one adapter is told about; then it is served as well.
    table = [["NAME", "TOTAL", "READY"], ["code-lora", "2", "2"], ["customer-support-lora", "4", "3"],
             ["multilingual-lora", "2", "2"], ["support-lora", "2", "2"]]  # fmt: skip
    wait_until(lambda: [row[:3] for row in shell("kubectl get dynamomodel").table()] == table, what=str(table))
    support.switch("large-3")
    shell("kubectl annotate dynamomodel customer-support-lora modelcache.nvidia.com/retry=now")
    wait_ready(shell, "customer-support-lora", 4)
    get = "kubectl get dynamomodel customer-support-lora -o jsonpath="
    assert shell(get + "'{.status.readyEndpoints}'").stdout == "4"
    assert shell(get + "'{.status.endpoints[*].podName}'").stdout == "large-0 large-1 large-2 large-3"


def test_no_endpoints_found(
    shell: Shell, kubectl: Kubectl, cluster: CacheCluster, start_workers: StartWorkers, model: Callable[[str], Model],
    api: Api,
) -> None:  # fmt: skip
    # 1. The base model is not running.
    mine, mismatch = model("my-lora"), model("mismatch")
    shell("kubectl apply -f my-lora.yaml")
    message = f"No endpoint slices found for base model {BASE_MODEL}"
    nothing = {"total": 0, "ready": 0, "status": "False", "reason": "NoEndpoints", "message": message}
    mine.wait_condition("EndpointsReady", "False", "NoEndpoints")
    assert status_of(shell) == nothing
    told(mine, "NoEndpointsFound", message)
    assert shell(LABELLED).stderr == f"No resources found in {mine.namespace} namespace.\n"

    # 2. baseModelName is not modelRef.name of the workers.
    shell("kubectl apply --server-side -f dynamographdeployments.yaml")
    shell("kubectl apply -f my-deployment.yaml")
    found = shell("kubectl get dynamographdeployment my-deployment -o yaml | grep -A2 modelRef").stdout
    assert re.search(rf"modelRef:\n\s+name: {BASE_MODEL}\n", found)
    shell(r"sed 's|Qwen3-0.6B|qwen3-0.6b|; s|name: my-lora|name: mismatch|' my-lora.yaml | kubectl apply -f -")

    # 3. Pods are not ready: not before a pod has an address is it an endpoint at all, and not before it is Ready is it ready.
    workers = start_workers({"worker-0": cluster.nodes[0]}, "--switches", '{"start_held": true}')
    mine.wait_condition("EndpointsReady", "False", "NoReadyEndpoints")
    assert [row[:3] for row in shell(LABELLED).table()[1:]] == [["worker-0", "0/1", "Running"]]
    waiting = status_of(shell)
    assert (waiting["total"], waiting["ready"]) == (1, 0)
    assert "worker-0: PodNotReady: The pod is not Ready." in waiting["message"]
    workers.switch("worker-0")
    wait_ready(shell, "my-lora", 1)

    # 4. The DynamoModel is in another namespace than the workers.
    elsewhere = f"{mine.namespace}-elsewhere"
    shell(f"kubectl create namespace {elsewhere}")
    stray = Model(api, elsewhere, "my-lora")
    shell(f"sed 's|namespace: .*|namespace: {elsewhere}|' my-lora.yaml | kubectl apply -f -")
    stray.wait_condition("EndpointsReady", "False", "NoEndpoints")
    told(stray, "NoEndpointsFound", message)
    shell(f"kubectl delete dynamomodel my-lora -n {elsewhere}")
    shell(f"kubectl delete namespace {elsewhere} --wait=false")

    assert status_of(shell, "mismatch")["reason"] == "NoEndpoints"
    correct = f'{{"spec": {{"baseModelName": "{BASE_MODEL}", "modelName": "another-name"}}}}'
    shell(f"kubectl patch dynamomodel mismatch --type=merge -p '{correct}'")
    mismatch.wait_condition("EndpointsReady", "True")


def test_lora_load_failures(
    shell: Shell, cluster: CacheCluster, start_workers: StartWorkers, model: Callable[[str], Model], s3: S3,
    weights: dict[str, str],
) -> None:  # fmt: skip
    workers = start_workers({"worker-0": cluster.nodes[0], "worker-1": cluster.nodes[1]})
    mine, private, broken = model("my-lora"), model("multilingual-lora"), model("support-lora")

    def failing(one: Model, reason: str) -> str:
        """It is as the guide shows; the message."""

        symptom = {"total": 2, "ready": 0, "status": "False", "reason": "NoReadyEndpoints"}

        def shown() -> str:
            found = status_of(shell, one.name)
            return found["message"] if found.items() >= symptom.items() and f" {reason}: " in found["message"] else ""

        message = wait_until(shown, what=f"{reason} of {one.name}")
        wait_logged(cluster, one.name, "Failed to load", f"error {reason}")
        told(one, "PartialEndpointFailure", f"error {reason}")
        return message

    # 1. The source cannot be read: another's bucket, with credentials that are not valid; a private repository without a token.
    wrong = {**s3.secret_values, "AWS_SECRET_ACCESS_KEY": "not-it"}
    literals = " ".join(f"--from-literal={key}={value}" for key, value in wrong.items())
    shell(f"kubectl create secret generic s3-credentials {literals}")
    shell("{ cat my-lora.yaml; echo '    secretRef: {name: s3-credentials}'; } | kubectl apply -f -")
    shell("kubectl apply -f multilingual-lora.yaml")
    # 2. There is something, and it is no adapter.
    shell("sed 's|models/support-lora|models/broken-lora|' two-loras.yaml | kubectl apply -f -")
    failing(mine, "Unauthorized")
    assert "myorg/qwen-multilingual-lora" in failing(private, "NotFound")
    assert "adapter_model.safetensors" in failing(broken, "InvalidAdapter")
    wait_ready(shell, "code-lora", 2)

    # 3. The engine has no such API. 4. Its memory is not enough.
    for worker in ("worker-0", "worker-1"):
        workers.switch(worker, load_status=500, load_message="CUDA out of memory")
    right = json.dumps({"stringData": {"AWS_SECRET_ACCESS_KEY": s3.secret}})
    shell(f"kubectl patch secret s3-credentials -p '{right}'")
    shell("kubectl annotate dynamomodel my-lora modelcache.nvidia.com/retry=now")
    assert "CUDA out of memory" in failing(mine, "LoadFailed")
    for worker in ("worker-0", "worker-1"):
        workers.switch(worker, lora_enabled=False)
    shell("kubectl annotate dynamomodel my-lora modelcache.nvidia.com/retry=again --overwrite")
    assert "DYN_LORA_ENABLED" in failing(mine, "LoRADisabled")

    # What is done about it is noticed without anybody's action: a worker that is started with LoRA support is another one.
    for worker in ("worker-0", "worker-1"):
        workers.switch(worker)
        workers.restart(worker)
    wait_ready(shell, "my-lora", 2)
    assert loaded(workers) == {"worker-0": weights["my-lora"], "worker-1": weights["my-lora"]}


def test_status_shows_not_ready(
    shell: Shell, cluster: CacheCluster, start_workers: StartWorkers, model: Callable[[str], Model]
) -> None:
    workers = start_workers({"worker-0": cluster.nodes[0]})
    silent = start_workers({"worker-1": cluster.nodes[0]}, "--keep-pods", "--switches", '{"hang": "load"}')
    mine = model("my-lora")
    shell("kubectl apply -f my-lora.yaml")

    # One endpoint does not respond: the other one of the same node is served nevertheless.
    wait_ready(shell, "my-lora", 1)
    found = mine.wait_condition("EndpointsReady", "False", "NotReady")
    assert found["message"].startswith("Found 1 ready endpoint(s) out of 2 total. worker-1: ")
    told(mine, "NotReady", f"endpoints ready for base model {BASE_MODEL}")
    which = shell("kubectl get dynamomodel my-lora -o json | jq '.status.endpoints[] | select(.ready == false)'").json()
    assert which["podName"] == "worker-1"
    assert which["reason"] in ("Loading", "Timeout")
    assert shell("kubectl get dynamomodel my-lora").table()[1][:3] == ["my-lora", "2", "1"]
    wait_logged(cluster, "worker-1", "my-lora")

    # It begins to, and then dies with its process: its pod stays, as on a lost node, and says that all is well.
    silent.switch("worker-1")
    silent.restart("worker-1")
    wait_ready(shell, "my-lora", 2)
    silent.close()
    shell(f"kubectl delete dynamomodel my-lora {TIMEOUT}")
    assert loaded(workers) == {}
    told(
        mine,
        "LoRAUnloadFailed",
        f"Failed to unload {LORA} from some endpoints; it stays there until they restart: worker-1",
    )
    told(mine, "LoRAUnloaded", f"Unloaded {LORA} from 1 endpoint(s)")
    shell("kubectl delete pod worker-1 --grace-period=0 --force")
