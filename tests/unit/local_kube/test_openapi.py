"""The OpenAPI documents that kubectl reads."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from local.kube.openapi import component_of, openapi_v2, openapi_v3_document, openapi_v3_index
from local.kube.resources import BUILTIN_RESOURCES, STATUS, Resource

Document = dict[str, Any]

SCHEMA: Document = {
    "type": "object",
    "description": "A model.",
    "required": ["spec"],
    "properties": {
        "apiVersion": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "description": "What is wanted.",
            "properties": {"n": {"type": "string", "nullable": True, "oneOf": [{"minLength": 1}]}},
            "x-kubernetes-validations": [{"rule": "true"}],
        },
    },
}
MODEL = Resource(
    "nvidia.com",
    "v1alpha1",
    "dynamomodels",
    "dynamomodel",
    "DynamoModel",
    "DynamoModelList",
    namespaced=True,
    subresources={"status": STATUS},
    schema=SCHEMA,
    custom=True,
)
RESOURCES = (*BUILTIN_RESOURCES, MODEL)
COMPONENT = "com.nvidia.v1alpha1.DynamoModel"
COLLECTION = "/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref" and isinstance(item, str):
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation


def test_component_names() -> None:
    assert component_of(MODEL) == COMPONENT
    pod = next(resource for resource in BUILTIN_RESOURCES if resource.kind == "Pod")
    assert component_of(pod) == "io.k8s.api.core.v1.Pod"


def test_the_index_leads_to_every_group_version() -> None:
    index = openapi_v3_index(RESOURCES)
    assert set(index["paths"]) == {
        f"apis/{resource.api_version}" if resource.group else "api/v1" for resource in RESOURCES
    }
    url = index["paths"]["apis/nvidia.com/v1alpha1"]["serverRelativeURL"]
    assert url.startswith("/openapi/v3/apis/nvidia.com/v1alpha1?hash=")


def test_the_hash_changes_with_the_schema_only() -> None:
    def url(resource: Resource) -> str:
        found: str = openapi_v3_index([resource])["paths"]["apis/nvidia.com/v1alpha1"]["serverRelativeURL"]
        return found

    changed = {**SCHEMA, "description": "Another."}
    assert url(MODEL) == url(replace(MODEL))
    assert url(MODEL) != url(replace(MODEL, schema=changed))


@pytest.mark.parametrize("group_version", sorted({resource.api_version for resource in RESOURCES}))
def test_documents_are_complete(group_version: str) -> None:
    document = openapi_v3_document(group_version, RESOURCES)
    components = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in components
    identifiers = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(identifiers)) == len(identifiers)
    for path, _, operation in operations(document):
        named = {parameter["name"] for parameter in document["paths"][path].get("parameters", ())}
        assert {part for part in ("name", "namespace") if f"{{{part}}}" in path} == named
        assert operation["responses"]["200"]


def test_unknown_group_versions() -> None:
    with pytest.raises(KeyError):
        openapi_v3_document("example.com/v1", RESOURCES)


def test_kubectl_finds_server_side_validation() -> None:
    document = openapi_v3_document("nvidia.com/v1alpha1", RESOURCES)
    patch = document["paths"][f"{COLLECTION}/{{name}}"]["patch"]
    gvk = {"group": "nvidia.com", "version": "v1alpha1", "kind": "DynamoModel"}
    assert patch["x-kubernetes-group-version-kind"] == gvk
    assert patch["x-kubernetes-action"] == "patch"
    assert {"fieldValidation", "dryRun", "fieldManager", "force"} <= {
        parameter["name"] for parameter in patch["parameters"]
    }
    for method in ("post",):
        names = {parameter["name"] for parameter in document["paths"][COLLECTION][method]["parameters"]}
        assert "fieldValidation" in names


def test_only_builtin_kinds_offer_strategic_merge() -> None:
    strategic = "application/strategic-merge-patch+json"
    for resource in RESOURCES:
        document = openapi_v3_document(resource.api_version, [resource])
        for _, method, operation in operations(document):
            if method == "patch":
                assert (strategic in operation["requestBody"]["content"]) is not resource.custom


def test_custom_components_keep_their_text_and_get_their_metadata() -> None:
    schemas = openapi_v3_document("nvidia.com/v1alpha1", RESOURCES)["components"]["schemas"]
    model = schemas[COMPONENT]
    assert model["description"] == "A model."
    assert model["x-kubernetes-group-version-kind"] == [
        {"group": "nvidia.com", "kind": "DynamoModel", "version": "v1alpha1"}
    ]
    metadata = model["properties"]["metadata"]["allOf"][0]["$ref"]
    assert metadata == "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    assert schemas[f"{COMPONENT}List"]["properties"]["items"]["items"]["$ref"].endswith(COMPONENT)
    assert SCHEMA["properties"]["metadata"] == {"type": "object"}  # the definition's own schema is untouched


def test_read_only_and_create_only_resources() -> None:
    document = openapi_v3_document("authorization.k8s.io/v1", RESOURCES)
    assert {method for _, method, _ in operations(document)} == {"post"}


def test_version_2() -> None:
    document = openapi_v2(RESOURCES)
    assert document["swagger"] == "2.0"
    assert all(reference.startswith("#/definitions/") for reference in references(document))
    assert {reference.removeprefix("#/definitions/") for reference in references(document)} <= set(
        document["definitions"]
    )
    spec = document["definitions"][COMPONENT]["properties"]["spec"]
    assert spec["properties"]["n"] == {"type": "string"}
    assert "x-kubernetes-validations" not in spec
    patch = document["paths"][f"{COLLECTION}/{{name}}"]["patch"]
    assert patch["parameters"][0]["in"] == "body"
    assert "application/merge-patch+json" in patch["consumes"]
    port = document["definitions"]["io.k8s.api.core.v1.HTTPGetAction"]["properties"]["port"]
    assert port["$ref"] == "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString"
    assert document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"] == "int-or-string"
