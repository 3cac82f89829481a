"""From `kubectl apply` to verified files on labelled nodes, through restarts, kills, updates and deletion."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of, write_repository
from tests.support.kube import KubeServer
from tests.support.kubectl import Kubectl
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

MIB = 1024 * 1024
BIG = os.urandom(8 * MIB)
FILES = {
    "config.json": b'{"model_type": "test"}',
    "model.safetensors": BIG,
    "empty.txt": b"",
    "nested/deep/tokenizer.json": b"{}",
}
SIZE = sum(len(content) for content in FILES.values())


@pytest.fixture(autouse=True)
def repository(repositories: Path) -> Path:
    write_repository(repositories, "org/name", FILES)
    return repositories / "org" / "name"


def assert_published(cluster: CacheCluster, model: Model, expected: dict[str, str]) -> None:
    """Every node is labelled and holds exactly the expected files, in the tree and in the hub view."""
    assert cluster.ready_nodes(model.namespace, model.name) == cluster.nodes
    for node in cluster.nodes:
        paths = cluster.paths(node)
        current = paths.current(model.namespace, model.name)
        assert tree_of(current.resolve()) == expected
        published = [path for path in current.resolve().rglob("*") if path.is_file()]
        assert all(path.stat().st_mode & 0o222 == 0 for path in published), "published files are read-only"
        assert not list(paths.staging.iterdir())


def test_apply_to_ready_with_kubectl(
    cluster: CacheCluster, kubectl: Kubectl, namespace: str, repository: Path, model: Callable[[str], Model]
) -> None:
    inside = kubectl.in_namespace(namespace)
    manifest = """
        {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel", "metadata": {"name": "tiny"},
         "spec": {"modelName": "org/name", "source": {"uri": "hf://org/name"}}}
    """
    inside("apply", "-f", "-", input=manifest)
    inside("wait", "--for=condition=Ready", "dynamomodel/tiny", f"--timeout={PATIENCE:g}s")
    tiny = model("tiny")
    assert_published(cluster, tiny, tree_of(repository))

    status = tiny.status()
    revision = status["resolvedVersion"]
    assert status["phase"] == "Ready"
    assert len(revision) == 40
    assert status["modelSizeBytes"] == SIZE
    assert status["modelSize"] == "8Mi" or status["modelSize"].startswith("8.0")
    assert status["files"] == len(FILES)
    assert status["nodes"]["summary"] == "3/3"
    assert sorted(status["readyNodes"]) == cluster.nodes
    assert status["progress"]["percent"] == 100
    assert status["readyEndpoints"] == status["totalEndpoints"] == 0
    assert status["downloadStartTime"] <= status["downloadCompleteTime"]
    assert status["storageRef"]["path"] == str(cluster.paths(cluster.nodes[0]).current(namespace, "tiny"))
    conditions = {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}
    assert conditions["Downloaded"] == ("True", "DownloadComplete")
    assert conditions["Verified"] == ("True", "ChecksumValid")
    assert {kind: conditions[kind][0] for kind in ("Resolved", "Available", "Ready")} == {
        "Resolved": "True",
        "Available": "True",
        "Ready": "True",
    }
    assert cluster.revisions(namespace, "tiny") == {revision[:12]}

    described = inside("describe", "dynamomodel", "tiny").stdout
    assert "Normal" in described.partition("Events:")[2]
    assert inside("get", "dm").table()[0] == ["NAME", "TOTAL", "READY", "AGE"]
    table = inside("get", "dm", "-o", "wide").table()
    assert table[0][:7] == ["NAME", "TOTAL", "READY", "AGE", "PHASE", "NODES", "PROGRESS"]
    assert [table[1][0], *table[1][4:7]] == ["tiny", "Ready", "3/3", "100%"]

    offline = subprocess.run(
        [sys.executable, "-c", "import huggingface_hub as h; print(h.snapshot_download('org/name'))"],
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1",
             "HF_HUB_CACHE": str(cluster.paths(cluster.nodes[0]).hub_cache(namespace))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert tree_of(Path(offline.stdout.strip())) == tree_of(repository)
    assert revision in offline.stdout


def test_three_nodes_read_the_origin_once(
    cluster: CacheCluster, hub: HubProcess, repository: Path, model: Callable[[str], Model]
) -> None:
    tiny = model("tiny")
    tiny.create("hf://org/name")
    tiny.wait_ready()
    assert_published(cluster, tiny, tree_of(repository))
    assert hub.file_bytes() <= 1.05 * SIZE + 64 * 1024


@pytest.mark.parametrize("victim", ["agent", "controller", "api server"])
def test_a_process_killed_during_the_download_costs_no_finished_piece(
    victim: str,
    cluster: CacheCluster,
    hub: HubProcess,
    kube_server: KubeServer,
    repository: Path,
    repositories: Path,
    model: Callable[[str], Model],
) -> None:
    many = {f"part-{index}.safetensors": os.urandom(2 * MIB) for index in range(12)}
    size = 24 * MIB
    write_repository(repositories, "org/parts", many)
    hub.restart()
    hub.limit(8 * MIB)
    parts = model("parts")
    parts.create("hf://org/parts")
    wait_until(lambda: hub.file_bytes() > size / 3, what="a third of the download")
    match victim:
        case "agent":
            cluster.kill(cluster.nodes[0])
            cluster.start_agent(cluster.nodes[0])
        case "controller":
            cluster.kill("controller")
            cluster.start_controller()
        case _:
            kube_server.restart()
    hub.limit(None)
    parts.wait_ready()
    assert_published(cluster, parts, tree_of(repositories / "org" / "parts"))
    # At most one unfinished file for each of the four connections of the agent that was killed.
    allowed = 4 * 2 * MIB if victim == "agent" else 0
    assert hub.file_bytes() / MIB <= (1.05 * size + allowed) / MIB


def test_restarts_keep_ready_and_download_nothing(
    cluster: CacheCluster, hub: HubProcess, kube_server: KubeServer, model: Callable[[str], Model], api: Api
) -> None:
    tiny = model("tiny")
    tiny.create("hf://org/name")
    tiny.wait_ready()
    before = hub.file_bytes()
    versions = {
        node: api.get(f"/api/v1/nodes/{node}").expect(200)["metadata"]["resourceVersion"] for node in cluster.nodes
    }
    changed = tiny.condition("Ready")["lastTransitionTime"]
    for node in cluster.nodes:
        cluster.kill(node)
    cluster.kill("controller")
    kube_server.restart()
    cluster.start()
    # Something that only the restarted controller and agents can do shows that all of them are at work again.
    other = model("other")
    other.create("hf://org/name")
    other.wait_ready()
    assert tiny.condition("Ready")["lastTransitionTime"] == changed
    assert cluster.ready_nodes(tiny.namespace, "tiny") == cluster.nodes
    assert hub.file_bytes() == before, "the second model shares the blobs of the first, and nothing is fetched again"
    assert set(versions) == set(cluster.nodes)


def test_a_flipped_byte_at_the_origin_is_never_ready(
    cluster: CacheCluster, hub: HubProcess, repository: Path, model: Callable[[str], Model]
) -> None:
    hub.fault(kind="flip", file="model.safetensors", offset=5 * MIB)
    tiny = model("tiny")
    tiny.create("hf://org/name")
    failed = tiny.wait_condition("Verified", "False", reason="DigestMismatch")
    assert "model.safetensors" in failed["message"]
    assert tree_of(repository)["model.safetensors"] in failed["message"], "the digest that was expected"
    assert len([word for word in failed["message"].replace(",", " ").split() if len(word.strip(".;:")) == 64]) >= 2
    wait_until(lambda: tiny.status()["phase"] == "Failed", what="all nodes have found it out")
    assert cluster.ready_nodes(tiny.namespace, "tiny") == []
    for node in cluster.nodes:
        assert not cluster.paths(node).current(tiny.namespace, "tiny").exists()
    hub.no_faults()
    api_path = tiny.path
    tiny.api.patch(api_path, {"metadata": {"annotations": {"modelcache.nvidia.com/retry": "1"}}}).expect(200)
    tiny.wait_ready()
    assert_published(cluster, tiny, tree_of(repository))


def test_a_new_version_arrives_beside_the_old_one(
    cluster: CacheCluster, hub: HubProcess, repositories: Path, model: Callable[[str], Model]
) -> None:
    tiny = model("tiny")
    tiny.create("hf://org/name")
    old = tiny.wait_ready()["resolvedVersion"]
    update = FILES | {"config.json": b'{"model_type": "changed"}', "extra.safetensors": os.urandom(4 * MIB)}
    write_repository(repositories, "org/name@v2", update)
    hub.restart()
    hub.fault(kind="stall", file="extra.safetensors", after=MIB)
    tiny.patch(version="v2")
    tiny.wait_condition("Ready", "False")
    wait_until(lambda: hub.file_bytes() >= MIB, what="the new revision is on its way")
    assert cluster.revisions(tiny.namespace, "tiny") == {old[:12]}, "the old revision stays labelled until the switch"
    for node in cluster.nodes:
        assert (cluster.paths(node).current(tiny.namespace, "tiny") / "config.json").read_bytes() == FILES[
            "config.json"
        ]
    hub.restart()
    new = tiny.wait_ready()["resolvedVersion"]
    assert new != old
    assert cluster.revisions(tiny.namespace, "tiny") == {new[:12]}
    assert_published(cluster, tiny, tree_of(repositories / "org" / "name@v2"))
    assert hub.file_bytes() < 3 * 5 * MIB, "files that did not change are not fetched again"


def made_for_models(api: Api, namespace: str) -> list[str]:
    """Manifests, and Services in front of workers, that the controller has made in a namespace."""
    lists = (
        api.get(f"/api/v1/namespaces/{namespace}/{kind}").expect(200)["items"] for kind in ("configmaps", "services")
    )
    found = [each["metadata"] for items in lists for each in items]
    return [meta["name"] for meta in found if "modelcache-controller" in (meta.get("labels") or {}).values()]


def test_deletion_removes_label_files_and_object(
    cluster: CacheCluster, kubectl: Kubectl, api: Api, namespace: str, model: Callable[[str], Model]
) -> None:
    tiny = model("tiny")
    tiny.create("hf://org/name")
    tiny.wait_ready()
    wait_until(lambda: len(made_for_models(api, namespace)) == 2, what="a manifest and a Service")
    kubectl.in_namespace(namespace)("delete", "dynamomodel", "tiny", f"--timeout={PATIENCE:g}s")
    assert tiny.gone()
    for node in cluster.nodes:
        assert cluster.labels(node) == {}
        paths = cluster.paths(node)
        assert not paths.model(namespace, "tiny").exists()
        assert not [path for path in paths.blobs.rglob("*") if path.is_file()]
        assert not [path for path in paths.hub.rglob("*") if path.is_file()]
    wait_until(lambda: not made_for_models(api, namespace), what="the garbage is collected")


def test_a_deletion_in_the_middle_of_a_download_leaves_nothing(
    cluster: CacheCluster, hub: HubProcess, model: Callable[[str], Model]
) -> None:
    hub.fault(kind="stall", file="model.safetensors", after=MIB)
    tiny = model("tiny")
    tiny.create("hf://org/name")
    wait_until(lambda: hub.file_bytes() >= MIB, what="the download has begun")
    tiny.delete()
    wait_until(tiny.gone, what="the object is gone")
    for node in cluster.nodes:
        assert not [path for path in cluster.paths(node).partial.rglob("*") if path.is_file()]


def test_a_node_that_is_gone_never_blocks_a_deletion(
    cluster: CacheCluster, api: Api, model: Callable[[str], Model]
) -> None:
    tiny = model("tiny")
    tiny.create("hf://org/name")
    tiny.wait_ready()
    lost = cluster.nodes[1]
    cluster.kill(lost)
    api.delete(f"/api/v1/nodes/{lost}").expect(200)
    tiny.delete()
    wait_until(tiny.gone, what="the object is gone")


def test_replicas_are_as_many_as_asked_and_stay_where_they_are(
    cluster: CacheCluster, model: Callable[[str], Model]
) -> None:
    tiny = model("tiny")
    tiny.create("hf://org/name", storage={"nodeLocal": {"replicas": 1}})
    tiny.wait_ready()
    chosen = cluster.ready_nodes(tiny.namespace, "tiny")
    assert len(chosen) == 1
    cluster.kill("controller")
    cluster.start_controller()
    tiny.patch(storage={"nodeLocal": {"replicas": 2}})
    tiny.wait_ready()
    both = cluster.ready_nodes(tiny.namespace, "tiny")
    assert len(both) == 2
    assert set(chosen) < set(both)


def test_a_node_that_joins_gets_the_models_that_match(
    cluster: CacheCluster, repository: Path, model: Callable[[str], Model]
) -> None:
    selected = model("selected")
    selected.create("hf://org/name", storage={"nodeLocal": {"nodeSelector": {"gpu": "h100"}}})
    selected.wait_condition("Ready", "False", reason="NoNodes")
    joined = cluster.nodes[0] + "-joined"
    cluster.add_node(joined, {"gpu": "h100"})
    cluster.nodes.append(joined)
    cluster.start_agent(joined)
    selected.wait_ready()
    assert cluster.ready_nodes(selected.namespace, "selected") == [joined]


def test_a_repository_of_many_nested_files(
    cluster: CacheCluster, repositories: Path, hub: HubProcess, model: Callable[[str], Model]
) -> None:
    files = {f"dir-{index % 40}/sub-{index % 7}/file-{index}.json": f"{index}".encode() for index in range(500)}
    write_repository(repositories, "org/many", files)
    hub.restart()
    many = model("many")
    many.create("hf://org/many")
    assert many.wait_ready(timeout=120)["files"] == 500
    assert_published(cluster, many, tree_of(repositories / "org" / "many"))
