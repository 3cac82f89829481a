"""Owners of the headless Service: entered together, by whoever finds itself missing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from controller.services import HeadlessServices, matters, service_name
from modelcache.api.labels import base_model_hash
from modelcache.api.model import DynamoModel
from modelcache.api.spec import Spec
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Conflict
from modelcache.kube.informer import Informer
from modelcache.kube.objects import ObjectMeta, OwnerReference, PartialObject
from modelcache.kube.resources import ResourceType

BASE = "Qwen/Qwen3-0.6B"
SERVICE = PartialObject(
    ObjectMeta(
        name=service_name(BASE),
        namespace="ns",
        uid="service",
        resource_version="1",
        labels={
            "nvidia.com/dynamo-base-model-hash": base_model_hash(BASE),
            "app.kubernetes.io/managed-by": "modelcache-controller",
        },
    )
)


def model(name: str, deleting: bool = False) -> DynamoModel:
    meta = ObjectMeta(name=name, namespace="ns", uid=f"uid-{name}", deletion_timestamp="now" if deleting else None)
    return DynamoModel(metadata=meta, spec=Spec(model_name=name, base_model_name=BASE))


def owned(service: PartialObject, *names: str, version: str = "1") -> PartialObject:
    owners = [OwnerReference(api_version="v", kind="K", name=name, uid=f"uid-{name}") for name in names]
    meta = msgspec.structs.replace(service.metadata, owner_references=owners, resource_version=version)
    return PartialObject(meta)


class ApiServer:
    """Keeps one Service, and refuses what is based on an old version of it. The informer sees it when told to."""

    def __init__(self) -> None:
        self.service = SERVICE
        self.shown = SERVICE
        self.patches = 0
        self.synced = asyncio.Event()
        self.synced.set()

    def lookup(self, index: str, value: str) -> list[PartialObject]:
        return [self.shown]

    async def merge_patch(self, kind: ResourceType, name: str, body: dict[str, Any], namespace: str) -> ObjectMeta:
        await asyncio.sleep(0)
        asked = body["metadata"]
        before = self.service.metadata
        if asked["resourceVersion"] != before.resource_version:
            raise Conflict(f"Service {name}: the object has been modified")
        self.patches += 1
        names = [owner["name"] for owner in asked["ownerReferences"]]
        self.service = owned(self.service, *names, version=str(int(before.resource_version) + 1))
        return self.service.metadata

    @property
    def owners(self) -> list[str]:
        return [owner.name for owner in self.service.metadata.owner_references or []]

    def services(self) -> HeadlessServices:
        return HeadlessServices(cast(KubeClient, self), cast(Informer[PartialObject], self))


async def test_a_hundred_adapters_at_once_are_one_write() -> None:
    server, models = ApiServer(), [model(f"lora-{number}") for number in range(100)]
    services = server.services()
    problems = await asyncio.gather(*(services.ensure(each, BASE, models) for each in models))
    assert set(problems) == {""}
    assert server.owners == [each.metadata.name for each in models]
    assert server.patches == 1


async def test_what_was_written_counts_before_the_informer_has_seen_it() -> None:
    server, services = (made := ApiServer()), made.services()
    assert await services.ensure(model("a"), BASE) == ""
    assert await services.ensure(model("b"), BASE) == "", "based on what the first write was answered with"
    assert server.owners == ["a", "b"]
    server.shown = server.service
    assert await services.ensure(model("a"), BASE) == ""
    assert server.patches == 2


async def test_one_that_is_being_deleted_is_not_entered_for_others() -> None:
    server = ApiServer()
    await server.services().ensure(model("a"), BASE, [model("a"), model("b", deleting=True)])
    assert server.owners == ["a"]


async def test_somebody_elses_write_is_waited_for() -> None:
    server = ApiServer()
    server.service = owned(SERVICE, "stranger", version="7")
    services = server.services()
    assert "cannot be made yet" in await services.ensure(model("a"), BASE)
    server.shown = server.service
    assert await services.ensure(model("a"), BASE) == ""
    assert server.owners == ["stranger", "a"]


def test_nobody_looks_again_because_of_another_owner() -> None:
    assert matters(None, SERVICE)
    assert matters(SERVICE, None)
    assert not matters(owned(SERVICE, "a"), owned(SERVICE, "a", "b"))
    assert matters(owned(SERVICE, "a", "b"), owned(SERVICE, "b")), "a has to enter itself again"
    unlabelled = msgspec.structs.replace(SERVICE.metadata, labels={})
    assert matters(SERVICE, PartialObject(unlabelled))
