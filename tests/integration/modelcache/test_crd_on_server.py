"""The shipped CRD on an API server: accepted, every published manifest applies, bad ones are refused with our words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api import Api
from tests.support.kubectl import Kubectl
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[3]
CRD = ROOT / "manifests" / "crd" / "dynamomodels.nvidia.com.yaml"

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module", autouse=True)
def crd(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-f", str(CRD))
    kubectl("wait", "--for=condition=Established", "crd/dynamomodels.nvidia.com", f"--timeout={PATIENCE:g}s")


def model(spec: dict[str, Any], name: str = "m") -> str:
    return yaml.safe_dump(
        {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel", "metadata": {"name": name}, "spec": spec}
    )


LORA: dict[str, Any] = {"modelName": "adapter", "baseModelName": "Qwen/Qwen3-0.6B", "modelType": "lora"}

PUBLISHED: dict[str, dict[str, Any]] = {
    # The user guide of DynamoModel.
    "quick-start": {**LORA, "source": {"uri": "s3://my-bucket/loras/my-lora"}},
    "s3-lora": {
        "modelName": "customer-support-adapter-v1",
        "baseModelName": "meta-llama/Llama-3.3-70B-Instruct",
        "modelType": "lora",
        "source": {"uri": "s3://my-models-bucket/loras/customer-support/v1"},
    },
    "hf-lora": {**LORA, "source": {"uri": "hf://myorg/qwen-multilingual-lora@v1.0.0"}},
    # The caching proposal.
    "cached": {
        "modelName": "meta-llama/Llama-3.3-70B-Instruct",
        "version": "8a4556b53a7d81d7e07db15eafb5af5dcd321b33",
        "source": {
            "uri": "hf://meta-llama/Llama-3.3-70B-Instruct",
            "secretRef": {"name": "huggingface-token", "key": "token"},
        },
        "storage": {
            "pvc": {
                "create": True,
                "name": "llama-3-70b-instruct-v1-pvc",
                "storageClassName": "fast-nvme",
                "size": "150Gi",
                "accessModes": ["ReadWriteMany"],
                "extraPvcSpec": {},
            }
        },
        "downloader": {
            "image": "my-registry/hf-downloader:my-tag",
            "resources": {},
            "retryLimit": 5,
            "timeout": "3600s",
        },
    },
    "existing-pvc": {
        "modelName": "m",
        "source": {"uri": "hf://org/name"},
        "storage": {"pvc": {"name": "existing-model-cache", "subPath": "llama-3-70b", "size": 10}},
    },
    "tracking-only": {"modelName": "Qwen/Qwen3-0.6B", "baseModelName": "Qwen/Qwen3-0.6B", "modelType": "base"},
    # Ours.
    "node-local": {
        "modelName": "m",
        "version": "v1",
        "source": {"uri": "hf://org/name@v1", "include": ["*.safetensors"], "exclude": ["original/*"]},
        "storage": {"nodeLocal": {"nodeSelector": {"gpu": "h100"}, "replicas": 2, "reclaimPolicy": "Retain"}},
        "verification": {"enabled": True, "checksum": "sha256:" + "ab" * 32},
    },
    "third-party-scheme": {"modelName": "m", "source": {"uri": "x-registry://somewhere/else"}},
    "spaces-in-a-path": {"modelName": "m", "source": {"uri": "s3://bucket/my  models/x"}},
    "at-sign-in-a-path": {"modelName": "m", "version": "v1", "source": {"uri": "file:///models/a@b"}},
}


def test_every_published_manifest_applies_unchanged(kubectl: Kubectl, namespace: str) -> None:
    documents = "---\n".join(model(spec, name) for name, spec in PUBLISHED.items())
    inside = kubectl.in_namespace(namespace)
    inside("apply", "-f", "-", input=documents)
    assert inside("apply", "-f", "-", input=documents).stdout.count("unchanged") == len(PUBLISHED)
    stored = yaml.safe_load(inside("get", "dynamomodels", "-o", "yaml").stdout)["items"]
    specs = {item["metadata"]["name"]: item["spec"] for item in stored}
    assert specs["cached"] == {**PUBLISHED["cached"], "modelType": "base"}, "nothing of the proposal is dropped"
    assert specs["node-local"]["storage"]["nodeLocal"]["reclaimPolicy"] == "Retain"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown scheme": ({"modelName": "m", "source": {"uri": "ftp://host/x"}}, "known scheme"),
    "no scheme": ({"modelName": "m", "source": {"uri": "org/name"}}, "known scheme"),
    "space at the end": ({"modelName": "m", "source": {"uri": "s3://bucket/x "}}, "known scheme"),
    "space in the uri": ({"modelName": "m", "source": {"uri": "hf://org/na me"}}, "known scheme"),
    "lora without source": ({**LORA}, "a lora needs source.uri"),
    "lora without base": (
        {"modelName": "a", "modelType": "lora", "source": {"uri": "hf://o/n"}},
        "a lora needs baseModelName",
    ),
    "versions disagree": ({"modelName": "m", "version": "v1", "source": {"uri": "hf://o/n@v2"}}, "disagree"),
    "versions disagree with a colon": (
        {"modelName": "m", "version": "v1", "source": {"uri": "hf://o/n:v2"}},
        "disagree",
    ),
    "type": ({"modelName": "m", "modelType": "quantised"}, 'supported values: "adapter", "base", "lora"'),
    "no name": ({"source": {"uri": "hf://o/n"}}, "spec.modelName"),
    "empty name": ({"modelName": ""}, "spec.modelName"),
    "source without uri": ({"modelName": "m", "source": {}}, "spec.source.uri"),
    "negative replicas": ({"modelName": "m", "storage": {"nodeLocal": {"replicas": -1}}}, "replicas"),
    "policy": ({"modelName": "m", "storage": {"nodeLocal": {"reclaimPolicy": "Keep"}}}, '"Delete", "Retain"'),
    "checksum": ({"modelName": "m", "verification": {"checksum": "md5:abc"}}, "sha256: followed by 64"),
    "wrong type": ({"modelName": 5}, "spec.modelName"),
    "unknown field": ({"modelName": "m", "sauce": {}}, 'unknown field "spec.sauce"'),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_refused_with_a_message_that_helps(case: str, kubectl: Kubectl) -> None:
    spec, said = BAD[case]
    refused = kubectl("apply", "--dry-run=server", "-f", "-", input=model(spec, "bad"), check=False)
    assert refused.code != 0
    assert said in refused.stderr


def test_columns_answer_ready_where_and_how_far(kubectl: Kubectl, api: Api, namespace: str) -> None:
    inside = kubectl.in_namespace(namespace)
    inside("apply", "-f", "-", input=model(PUBLISHED["cached"], "llama"))
    status = {
        "phase": "Downloading",
        "readyEndpoints": 1,
        "totalEndpoints": 2,
        "nodes": {"wanted": 3, "ready": 2, "downloading": 1, "failed": 0, "summary": "2/3", "where": "node-0,node-1"},
        "progress": {"bytesDone": 50, "bytesTotal": 100, "percent": 50, "summary": "50%"},
    }
    path = f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels/llama/status"
    api.patch(path, {"status": status}).expect(200)
    head, row = inside("get", "dm").stdout.splitlines()
    assert head.split() == ["NAME", "TOTAL", "READY", "AGE"], "as in the user guide"
    assert row.split()[:-1] == ["llama", "2", "1"]
    head, row = inside("get", "dynamomodel", "llama", "-o", "wide").stdout.splitlines()
    assert head.split()[:7] == ["NAME", "TOTAL", "READY", "AGE", "PHASE", "NODES", "PROGRESS"]
    assert row.split()[4:7] == ["Downloading", "2/3", "50%"]
    assert "WHERE" in head
    assert "node-0,node-1" in row
    assert "hf://meta-llama/Llama-3.3-70B-Instruct" in row


def test_explain_describes_the_fields(kubectl: Kubectl) -> None:
    text = kubectl("explain", "dynamomodel.spec.storage.nodeLocal").stdout
    assert "replicas" in text
    assert "How many of the matching nodes hold the model" in " ".join(text.split())
