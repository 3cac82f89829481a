"""Schemas of the built-in kinds."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from local.kube import builtin_overlay as overlay
from local.kube.builtin_schemas import builtin_schema, component_name, component_schemas
from local.kube.resources import BUILTIN_RESOURCES, Resource
from local.kube.structural import apply_defaults, prune, validate

Schema = dict[str, Any]


def at(schema: Schema, *path: str) -> Schema:
    """The schema of a field; `*` stands for the items of a list or the values of a map."""
    for part in path:
        below: dict[str, Schema] = schema.get("properties", {})
        schema = below[part] if part != "*" else schema.get("items") or schema["additionalProperties"]
    return schema


@pytest.mark.parametrize("resource", BUILTIN_RESOURCES, ids=lambda resource: f"{resource.group}/{resource.kind}")
def test_every_served_kind_has_a_schema(resource: Resource) -> None:
    schema = builtin_schema(resource.group, resource.version, resource.kind)
    assert schema["type"] == "object"
    assert at(schema, "metadata", "labels")["additionalProperties"] == {"type": "string"}
    assert component_name(resource.group, resource.kind) in component_schemas()


def test_unknown_kinds() -> None:
    with pytest.raises(KeyError, match="Banana is not a built-in kind"):
        builtin_schema("", "v1", "Banana")
    with pytest.raises(KeyError):
        builtin_schema("apps", "v1beta1", "Deployment")


def test_lists_know_their_keys() -> None:
    pod = builtin_schema("", "v1", "Pod")
    ports = at(pod, "spec", "containers", "*", "ports")
    assert ports["x-kubernetes-list-map-keys"] == ["containerPort", "protocol"]
    assert (ports["x-kubernetes-patch-merge-key"], ports["x-kubernetes-patch-strategy"]) == ("containerPort", "merge")
    assert at(pod, "spec", "volumes")["x-kubernetes-patch-strategy"] == "merge,retainKeys"
    assert at(pod, "spec", "tolerations")["x-kubernetes-list-type"] == "atomic"
    assert at(pod, "metadata", "finalizers")["x-kubernetes-list-type"] == "set"
    node = builtin_schema("", "v1", "Node")
    assert at(node, "status", "conditions")["x-kubernetes-list-map-keys"] == ["type"]


def test_keys_of_map_lists_are_fields_of_their_items() -> None:
    seen = set()  # the schema of schemas contains itself

    def lists(schema: Schema) -> Iterator[Schema]:
        if id(schema) in seen:
            return
        seen.add(id(schema))
        if schema.get("x-kubernetes-list-type") == "map":
            yield schema
        for child in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
            if isinstance(child, dict):
                yield from lists(child)

    found = 0
    for resource in BUILTIN_RESOURCES:
        for schema in lists(builtin_schema(resource.group, resource.version, resource.kind)):
            found += 1
            assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["properties"])
    assert found > 30


def test_the_overlay_speaks_of_fields_that_exist() -> None:
    from local.kube import builtin_schemas

    components = component_schemas()
    known = set()
    for model, component in builtin_schemas._owners().items():
        fields = components.get(component, {}).get("properties", {})
        known |= {f"{model.removeprefix('V1')}.{field}" for field in fields}
    tables: list[Any] = [
        overlay.MAP_LISTS,
        overlay.UNIQUE,
        overlay.SET_LISTS,
        overlay.RETAIN_KEYS,
        overlay.ATOMIC_MAPS,
        overlay.QUANTITIES,
        overlay.DEFAULTS,
        overlay.ENUMS,
        overlay.REQUIRED,
    ]
    assert [key for table in tables for key in table if key not in known] == []


def test_types() -> None:
    pod = builtin_schema("", "v1", "Pod")
    assert at(pod, "spec", "containers", "*", "livenessProbe", "httpGet", "port")["x-kubernetes-int-or-string"]
    limits = at(pod, "spec", "containers", "*", "resources", "limits")
    assert limits["additionalProperties"] == {"x-kubernetes-int-or-string": True}
    secret = builtin_schema("", "v1", "Secret")
    assert at(secret, "data")["additionalProperties"].items() >= {"type": "string", "format": "byte"}.items()
    crd = builtin_schema("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    schema = at(crd, "spec", "versions", "*", "schema", "openAPIV3Schema")
    inner = at(schema, "properties", "*")
    assert at(inner, "items", "properties", "*", "not", "allOf", "*") is inner
    assert at(pod, "status", "startTime")["format"] == "date-time"


def pod(**container: Any) -> Schema:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", **container}]},
    }


def test_defaults_of_the_server() -> None:
    obj = pod(ports=[{"containerPort": 80}], readinessProbe={"httpGet": {"port": "http"}})
    schema = builtin_schema("", "v1", "Pod")
    assert prune(schema, obj) == []
    apply_defaults(schema, obj)
    container = obj["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["readinessProbe"]["periodSeconds"] == 10
    assert container["readinessProbe"]["httpGet"] == {"port": "http", "path": "/", "scheme": "HTTP"}
    assert obj["spec"]["restartPolicy"] == "Always"
    assert validate(schema, obj, None) == []


def test_fields_that_go_always_writes_get_their_zero_value() -> None:
    obj = {**pod(), "status": {"containerStatuses": [{"name": "c"}]}}
    schema = builtin_schema("", "v1", "Pod")
    assert validate(schema, obj, None) == []
    apply_defaults(schema, obj)
    assert obj["status"]["containerStatuses"] == [
        {"name": "c", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    ]


@pytest.mark.parametrize(
    ("obj", "faults"),
    [
        (pod(ports=[{"protocol": "TCP"}]), ["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            pod(imagePullPolicy="Sometimes"),
            [
                'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
                '"IfNotPresent", "Never"'
            ],
        ),
        (pod(env=[{"name": "A"}, {"name": "A"}]), []),
        (
            pod(volumeMounts=[{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a"}]),
            ['spec.containers[0].volumeMounts[1].mountPath: Duplicate value: "/a"'],
        ),
        (
            pod(args="x"),
            [
                'spec.containers[0].args: Invalid value: "string": '
                'spec.containers[0].args in body must be of type array: "string"'
            ],
        ),
    ],
)
def test_refusals(obj: Schema, faults: list[str]) -> None:
    assert [str(cause) for cause in validate(builtin_schema("", "v1", "Pod"), obj, None)] == faults


def test_schemas_inside_definitions_are_checked() -> None:
    schema = builtin_schema("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    written: Schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "minLenght": 3,
                "properties": {"items": {"type": "array", "items": {"typ": "x", "type": ["string"]}}},
                "additionalProperties": 5,
            },
            "status": {"type": "object", "additionalProperties": True, "default": {"any": [{"thing": None}]}},
        },
    }
    obj = {"spec": {"versions": [{"schema": {"openAPIV3Schema": written}}]}}
    path = "spec.versions[0].schema.openAPIV3Schema.properties"
    assert prune(schema, obj) == [f"{path}.spec.minLenght", f"{path}.spec.properties.items.items.typ"]
    found = [cause.field for cause in validate(schema, obj, None) if cause.field.startswith(path)]
    assert sorted(set(found)) == [
        "spec.versions[0].schema.openAPIV3Schema.properties.spec.additionalProperties",
        "spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.items.items.type",
    ]
    assert written["properties"]["status"]["default"] == {"any": [{"thing": None}]}


def test_published_components_are_complete() -> None:
    components = component_schemas()
    missing = set()

    def follow(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if key == "$ref" and isinstance(item, str):
                    name = item.removeprefix("#/components/schemas/")
                    if name not in components:
                        missing.add(name)
                else:
                    follow(item)
        elif isinstance(value, list):
            for item in value:
                follow(item)

    follow(components)
    assert missing == set()
    container = components["io.k8s.api.core.v1.Container"]
    assert "name" in container["required"]
    assert "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector" in components
    assert "io.k8s.api.rbac.v1.Subject" in components


def test_descriptions_are_short() -> None:
    for name, component in component_schemas().items():
        assert component["description"], name
        assert all(len(field.get("description", "")) < 120 for field in component.get("properties", {}).values()), name


def test_the_client_is_not_imported_before_it_is_needed() -> None:
    # Its import takes a good part of a second, which the start of a server must not wait for.
    code = "import sys, local.kube.openapi, local.kube.table, local.kube.structural, local.kube.crd; "
    code += "sys.exit(any(name in sys.modules for name in ('kubernetes', 'celpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
