"""`modelcache diagnose` against an API server full of secrets: what is in the archive, and what must not be."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.kubectl import Kubectl
from tests.support.manifests import MANIFESTS
from tests.support.waiting import PATIENCE

CANARY = "cAnArY0123456789xyz"


@pytest.fixture
def cluster(api: Api, kubectl: Kubectl, namespace: str) -> Iterator[None]:
    """Objects with a canary wherever somebody may have put a secret."""
    kubectl("apply", "--server-side", "-k", MANIFESTS / "crd")
    kubectl("wait", "--for=condition=Established", "crd/dynamomodels.nvidia.com", f"--timeout={PATIENCE:g}s")
    core, apps = f"/api/v1/namespaces/{namespace}", f"/apis/apps/v1/namespaces/{namespace}"
    env = [{"name": "HF_TOKEN", "value": f"hf_{CANARY}"}, {"name": "MODELCACHE_ROOT", "value": "/mnt/nvme"}]
    container = {"name": "agent", "image": "agent", "env": env, "args": [f"--token={CANARY}"]}
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": CANARY}
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "modelcache-agent-x", "annotations": annotations},
        "spec": {"containers": [container]},
    }
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod["spec"]}
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "modelcache-agent"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "modelcache-ca"},
        "stringData": {"key": CANARY},
    }
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}, "data": {"password": CANARY}}
    model = {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoModel",
        "metadata": {"name": "m", "annotations": {"note": CANARY}},
        "spec": {"modelName": "m", "source": {"uri": f"https://user:{CANARY}@host/m?sig={CANARY}"}},
    }
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "m.1"},
        "involvedObject": {
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoModel",
            "name": "m",
            "namespace": namespace,
        },
        "reason": "ResolveFailed",
        "message": f"the server said: Authorization: Bearer {CANARY}",
    }
    for path, body in (
        (f"{core}/pods", pod),
        (f"{core}/secrets", secret),
        (f"{core}/configmaps", config),
        (f"{core}/events", event),
        (f"{apps}/daemonsets", daemons),
        (f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels", model),
    ):
        api.post(path, body).expect(201)
    yield
    api.delete(f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels/m").expect(200)


def run(kubeconfig: Path, namespace: str, output: Path) -> tuple[dict[str, bytes], str]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cli.main",
            "diagnose",
            "-n",
            namespace,
            "-o",
            str(output),
            "--kubeconfig",
            str(kubeconfig),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(output) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        content = {name.removeprefix("modelcache-diagnose/"): file.read() for name, file in files.items() if file}
    return content, done.stdout + done.stderr


def test_no_canary_leaves_the_cluster(cluster: None, kubeconfig: Path, namespace: str, tmp_path: Path) -> None:
    files, output = run(kubeconfig, namespace, tmp_path / "report.tar.gz")
    leaks = [name for name, content in files.items() if CANARY.encode() in content]
    assert leaks == []
    assert CANARY not in output
    models = json.loads(files["cluster/dynamomodels.json"])
    mine = next(each for each in models if each["metadata"]["namespace"] == namespace)
    assert mine["spec"]["source"]["uri"] == "https://***@host/m?sig=***"
    (pod,) = json.loads(files["namespace/pods.json"])
    env = pod["spec"]["containers"][0]["env"]
    assert env == [{"name": "HF_TOKEN", "value": "***"}, {"name": "MODELCACHE_ROOT", "value": "/mnt/nvme"}]
    assert "ResolveFailed" in files["cluster/model-events.json"].decode()
    assert {"versions.txt", "server-version.json", "cluster/nodes.json", "namespace/daemonsets.json"} <= files.keys()
    assert not [name for name in files if "secret" in name]
    # This server has no kubelets: that is noted, and the rest is there.
    assert "log of modelcache-agent-x" in files["problems.txt"].decode()


def test_an_empty_namespace_is_no_error(kubeconfig: Path, namespace: str, tmp_path: Path) -> None:
    files, _ = run(kubeconfig, namespace, tmp_path / "report.tar.gz")
    assert json.loads(files["namespace/pods.json"]) == []
