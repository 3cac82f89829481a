"""Builders for the objects and paths that these tests use most."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.api import Json

WIDGET_CRD: Json = yaml.safe_load((Path(__file__).parent / "widgets.yaml").read_text())
WIDGET_GROUP = "conformance.example.com"
WIDGET_VERSION = "v1alpha1"
WIDGET_API = f"{WIDGET_GROUP}/{WIDGET_VERSION}"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def configmap(name: str, data: dict[str, str] | None = None, **metadata: Any) -> Json:
    """A ConfigMap; keyword arguments go into its metadata."""
    found: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
    if data is not None:
        found["data"] = data
    return found


def widget(name: str, metadata: Json | None = None, **spec: Any) -> Json:
    """A valid Widget of size 1; keyword arguments go into its spec."""
    return {
        "apiVersion": WIDGET_API,
        "kind": "Widget",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {"size": 1, **spec},
    }


def node(name: str, **labels: str) -> Json:
    """A Node as a kubelet would register it."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def pod(name: str, *images: str, **spec: Any) -> Json:
    """A Pod with one container (`c0`, `c1`, ...) for each image."""
    containers = [{"name": f"c{index}", "image": image} for index, image in enumerate(images or ("busybox",))]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": containers, **spec},
    }


def crd(plural: str, kind: str, group: str, spec_schema: Json | None = None, **version: Any) -> Json:
    """A CustomResourceDefinition of one version v1 whose `spec` has the given schema."""
    properties = {"spec": spec_schema or {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
                    **version,
                }
            ],
        },
    }


def condition(found: Json, kind: str) -> str:
    """Status of the condition of type `kind`, or the empty string."""
    conditions = found.get("status", {}).get("conditions") or []  # null in a definition that is new
    return next((str(entry["status"]) for entry in conditions if entry["type"] == kind), "")


def names(found: Json) -> list[str]:
    """Names of the items of a list, in its order."""
    return [item["metadata"]["name"] for item in found["items"]]


def managers(found: Json) -> list[tuple[str, str]]:
    """(manager, operation) of every entry of `managedFields`, sorted."""
    return sorted((entry["manager"], entry["operation"]) for entry in found["metadata"]["managedFields"])
