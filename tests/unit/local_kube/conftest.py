"""A cluster without HTTP and without disk, on a clock that stands still until it is moved."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.kube.cluster import Cluster
from local.kube.deletes import DeleteOptions
from local.kube.documents import STRICT, Body
from local.kube.journal import NoJournal
from local.kube.resources import Resource
from local.kube.writes import Target, WriteOptions

WIDGETS: dict[str, Any] = {
    "metadata": {"name": "widgets.unit.example.com"},
    "spec": {
        "group": "unit.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "default": 1},
                                    "color": {"type": "string"},
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                    "map": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "whole": {
                                        "type": "object",
                                        "x-kubernetes-map-type": "atomic",
                                        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                                    },
                                    "atoms": {"type": "array", "items": {"type": "string"}},
                                    "tags": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "set",
                                        "items": {"type": "string"},
                                    },
                                    "ports": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["port", "protocol"],
                                        "items": {
                                            "type": "object",
                                            "required": ["port"],
                                            "properties": {
                                                "port": {"type": "integer"},
                                                "protocol": {"type": "string", "default": "TCP"},
                                                "name": {"type": "string"},
                                            },
                                        },
                                    },
                                },
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


class Clock:
    """The present, moved by hand."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Api:
    """The cluster's verbs with plain data in and out."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster = Cluster(NoJournal(), self.clock)

    def resource(self, plural: str) -> Resource:
        found = [resource for resource in self.cluster.registry if resource.plural == plural]
        return found[0]

    def target(self, plural: str, name: str = "", subresource: str = "") -> Target:
        resource = self.resource(plural)
        return Target(resource, "default" if resource.namespaced else "", name, subresource)

    def create(self, plural: str, obj: Any, manager: str = "test", **options: Any) -> dict[str, Any]:
        resource = self.resource(plural)
        document = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        body = Body(json.dumps(document).encode())
        return self.cluster.writer.create(self.target(plural), body, WriteOptions(manager, **options)).object

    def apply(self, plural: str, obj: Any, manager: str = "test", **options: Any) -> dict[str, Any]:
        resource = self.resource(plural)
        subresource = options.pop("subresource", "")
        document = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        target = self.target(plural, obj["metadata"]["name"], subresource)
        options = {"validation": STRICT} | options
        body = Body(json.dumps(document).encode(), is_yaml=True)
        return self.cluster.writer.apply(target, body, WriteOptions(manager, **options)).object

    def patch(self, plural: str, name: str, patch: Any, manager: str = "test", subresource: str = "") -> dict[str, Any]:
        target = self.target(plural, name, subresource)
        media_type = "application/merge-patch+json"
        body = Body(json.dumps(patch).encode())
        return self.cluster.writer.patch(target, media_type, body, WriteOptions(manager)).object

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        target = self.target(plural, name)
        stored = self.cluster.store.get(target.resource.storage_key, target.namespace, name)
        return stored.object if stored else None

    def delete(self, plural: str, name: str, **options: Any) -> dict[str, Any]:
        return self.cluster.deleter.delete(self.target(plural, name), DeleteOptions(**options))

    async def settle(self) -> None:
        """Let the controllers do what they have noted, until they note nothing more."""
        version = -1
        while version != self.cluster.store.version:
            version = self.cluster.store.version
            for _ in range(5):  # a controller's work may give another one work in the next round
                await asyncio.sleep(0)


@pytest.fixture
async def kube() -> AsyncIterator[Api]:
    api = Api()
    yield api
    api.cluster.close()


@pytest.fixture
async def widgets(kube: Api) -> Api:
    """The cluster with the Widget definition installed."""
    kube.create("customresourcedefinitions", WIDGETS)
    await kube.settle()
    return kube
