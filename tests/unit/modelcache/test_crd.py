"""The CRD file is what the types give, and says what the API server needs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelcache.api.crd import custom_resource_definition, render
from modelcache.api.model import DynamoModel

FILE = Path(__file__).parents[3] / "manifests" / "crd" / "dynamomodels.nvidia.com.yaml"
VERSION = custom_resource_definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def test_the_file_is_current() -> None:
    assert FILE.read_text() == render(), "run `make crd`"


def walk(schema: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, inner in schema.get("properties", {}).items():
        found += walk(inner, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        found += walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        found += walk(schema["additionalProperties"], f"{path}.*")
    return found


@pytest.mark.parametrize(("path", "schema"), walk(SCHEMA), ids=lambda value: value if isinstance(value, str) else "")
def test_the_schema_is_structural(path: str, schema: dict[str, Any]) -> None:
    assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
    assert not {"$ref", "anyOf", "oneOf", "allOf", "not", "nullable"} & set(schema), path


def test_every_field_that_a_user_writes_is_described() -> None:
    bare = [
        path
        for path, schema in walk(SCHEMA["properties"]["spec"], ".spec")
        if "description" not in schema and not path.endswith(("[]", ".*"))
    ]
    assert bare == []


def test_both_published_shapes_are_contained() -> None:
    spec = SCHEMA["properties"]["spec"]["properties"]
    assert {
        "modelName",
        "baseModelName",
        "modelType",
        "source",
        "version",
        "storage",
        "downloader",
        "verification",
    } <= set(spec)
    assert set(spec["storage"]["properties"]["pvc"]["properties"]) == {
        "create", "name", "storageClassName", "size", "accessModes", "extraPvcSpec", "subPath",
    }  # fmt: skip
    assert set(spec["downloader"]["properties"]) == {"image", "resources", "retryLimit", "timeout"}
    status = SCHEMA["properties"]["status"]
    assert status["required"] == ["readyEndpoints", "totalEndpoints"]
    assert {
        "endpoints", "conditions", "phase", "storageRef", "modelSize", "downloadStartTime", "downloadCompleteTime",
        "lastAccessTime", "referencedBy", "resolvedVersion",
    } <= set(status["properties"])  # fmt: skip


def test_what_the_schema_accepts_the_types_can_read() -> None:
    model = {
        "metadata": {"name": "m", "namespace": "n", "finalizers": None},
        "spec": {
            "modelName": "org/name",
            "modelType": "base",
            "version": "main",
            "source": {"uri": "hf://org/name", "secretRef": {"name": "s", "key": "token"}, "include": ["*.json"]},
            "storage": {
                "nodeLocal": {"nodeSelector": {"a": "b"}, "replicas": 2, "reclaimPolicy": "Retain"},
                "pvc": {
                    "create": True,
                    "size": "150Gi",
                    "accessModes": ["ReadWriteMany"],
                    "extraPvcSpec": {"x": {"y": 1}},
                },
            },
            "downloader": {"resources": {}, "retryLimit": 5, "timeout": "3600s"},
            "verification": {"enabled": True, "checksum": "sha256:" + "0" * 64},
        },
        "status": {"anything": "somebody else wrote"},
    }
    decoded = msgspec.convert(model | {"status": msgspec.Raw(b'{"x":1}')}, DynamoModel)
    assert decoded.spec.storage is not None
    assert decoded.spec.storage.node_local is not None
    assert decoded.spec.storage.node_local.replicas == 2
    assert decoded.last_status() is None
