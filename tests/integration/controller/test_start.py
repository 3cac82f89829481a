"""Who may lead, and in which clusters the controller refuses to run."""

from __future__ import annotations

import asyncio
import copy

import grpc
import pytest

from controller.crdcheck import CRDError
from controller.main import run
from modelcache.api.crd import custom_resource_definition
from modelcache.rpc.address import Address
from tests.integration.controller.conftest import World
from tests.support.cluster import Model
from tests.support.fake_agent import FakeAgent
from tests.support.waiting import PATIENCE

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dynamomodels.nvidia.com"


async def test_only_the_leader_serves_and_the_next_one_takes_over(world: World) -> None:
    await world.stop()
    await world.start(leader_elect=True, namespace="leases")
    agent = await world.agent()
    await agent.until(lambda: bool(agent.states))
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = world.settings(listen="127.0.0.1:0", leader_elect=True, namespace="leases")
    second = asyncio.create_task(run(settings, stop, on_listening=lambda agents, _: listening.set_result(agents)))
    try:
        address: Address = await listening
        waiting = FakeAgent(str(address), agent.node)
        world.agents.append(waiting)
        await waiting.start()
        code, details = await waiting.ended()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "not the leader" in details
        await world.stop()
        lease = world.api.get("/apis/coordination.k8s.io/v1/namespaces/leases/leases/modelcache-controller").expect(200)
        assert lease["spec"].get("holderIdentity", "") == "" or lease["spec"]["leaseTransitions"] > 0, (
            "it was given back"
        )

        async def served() -> None:
            while True:
                await waiting.restart()
                await waiting.until(lambda: bool(waiting.states) or waiting.ending is not None)
                if waiting.states:
                    return

        await asyncio.wait_for(served(), PATIENCE)
    finally:
        stop.set()
        await second


@pytest.mark.parametrize("kind", ["absent", "foreign"])
async def test_a_cluster_without_our_crd_is_refused(world: World, kind: str) -> None:
    await world.stop()
    try:
        if kind == "absent":
            world.api.delete(CRD).expect(200)
            await world.until(lambda: world.api.get(CRD).status == 404, "the CRD is gone")
        else:
            install(world, foreign())
        with pytest.raises(CRDError, match="manifests/crd") as caught:
            await run(world.settings(), asyncio.Event())
        assert ("not installed" if kind == "absent" else "spec.version") in str(caught.value)
    finally:
        install(world, custom_resource_definition())
        await world.until(lambda: world.api.get("/apis/nvidia.com/v1alpha1/dynamomodels").status == 200, "it is served")


async def test_an_object_that_cannot_be_read_is_told_and_can_be_deleted(world: World) -> None:
    await world.stop()
    install(world, foreign())
    model = Model(world.api, world.namespace, "odd")
    body = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel", "metadata": {"name": "odd"}}
    body["metadata"]["finalizers"] = ["modelcache.nvidia.com/cache"]  # type: ignore[index]  # a dict in a dict
    spec = {"modelName": "m", "storage": {"nodeLocal": {"replicas": "two"}}}
    world.api.post(model.collection, {**body, "spec": spec}).expect(201)
    install(world, custom_resource_definition())
    await world.start()
    agent = await world.agent()
    good = world.model("good")
    await world.ready(good)
    ready = await world.condition(model, "Ready", "False", "InvalidSpec", generation=False)
    assert "replicas" in ready["message"]
    assert agent.desired[world.key(model)].manifest_digest == "", "keep what you have"
    model.delete()
    await world.gone(model)


async def test_an_object_that_no_rule_can_judge_goes_when_it_is_put_right(world: World) -> None:
    """Where a CEL rule meets a value of another type, the API server refuses every change, also of status and finalizers."""
    await world.stop()
    install(world, foreign())
    model = Model(world.api, world.namespace, "odd")
    body = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel",
            "metadata": {"name": "odd", "finalizers": ["modelcache.nvidia.com/cache"]},
            "spec": {"modelName": "m", "source": {"uri": ["not", "a", "text"]}}}  # fmt: skip
    world.api.post(model.collection, body).expect(201)
    install(world, custom_resource_definition())
    model.delete()
    refused = world.api.patch(model.path, {"metadata": {"finalizers": None}}).expect(422)
    assert "spec.source.uri: Invalid value: " in refused["message"]
    await world.start()
    good = world.model("good")
    await world.agent()
    await world.ready(good)
    world.api.patch(model.path, {"spec": {"source": None}}).expect(200)
    await world.gone(model)


def foreign() -> dict[str, object]:
    """A CRD of the same name that is not ours: with other fields, and free in what it accepts."""
    definition = copy.deepcopy(custom_resource_definition())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return definition


def install(world: World, definition: dict[str, object]) -> None:
    """Put a definition in the place of the one that is there."""
    found = world.api.get(CRD)
    if found.status == 404:
        world.api.post(CRD.rpartition("/")[0], definition).expect(201)
        return
    metadata = {"name": "dynamomodels.nvidia.com", "resourceVersion": found.json()["metadata"]["resourceVersion"]}
    world.api.put(CRD, {**definition, "metadata": metadata}).expect(200)
