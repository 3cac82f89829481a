"""Deleting: labels, files, finalizer, in that order; and nobody waits for the dead."""

from __future__ import annotations

import pytest

from local.hub.faults import Status
from modelcache.api.labels import model_labels
from tests.integration.controller.conftest import BRIEFLY, FOR_GOOD, World
from tests.support.cluster import Model


async def deleting(world: World, model: Model) -> str:
    """Wait until the model says that it waits; what it says."""
    found = await world.condition(model, "Ready", "False", "Deleting", generation=False)
    return str(found["message"])


async def test_the_object_goes_when_every_node_is_clear(world: World) -> None:
    agents = [await world.agent() for _ in range(2)]
    model = world.model()
    await world.ready(model)
    agents[1].clings = True
    model.delete()
    assert agents[1].node in await deleting(world, model)
    await agents[0].until(lambda: world.key(model) not in agents[0].held)
    await agents[1].until(lambda: world.key(model) not in agents[1].desired)
    assert not model.gone()
    agents[1].held.clear()
    await agents[1].report()
    await world.gone(model)
    await world.until(lambda: world.config_maps() == [], "the manifests are collected with their owner")
    await world.until(lambda: "Deleted" in [event["reason"] for event in model.events()], "it is told")


@pytest.mark.parametrize("uri", ["hf://org/absent", "hf://org", "hf://org/name"])
async def test_a_model_that_was_never_resolved_can_be_deleted(world: World, uri: str) -> None:
    await world.agent()
    world.hub.hub.faults.add(Status(status=503))
    model = world.model(uri=uri)
    await world.condition(model, "Resolved", "False")
    model.delete()
    await world.gone(model)


async def test_a_model_can_be_deleted_while_it_is_resolved(world: World) -> None:
    await world.agent()
    world.hub.hub.limits.latency = 3600
    model = world.model()
    await world.condition(model, "Resolved", "Unknown", "Resolving")
    model.delete()
    await world.gone(model)
    world.hub.hub.limits.latency = 0
    again = world.model()
    await world.ready(again)


async def test_without_any_agent_nothing_holds_it(world: World) -> None:
    world.node()
    model = world.model()
    await world.condition(model, "Resolved", "True")
    model.delete()
    await world.gone(model)


async def test_a_node_that_does_not_exist_any_more_is_not_waited_for(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    await world.ready(model)
    agent.clings = True
    model.delete()
    await deleting(world, model)
    world.api.delete(f"/api/v1/nodes/{agent.node}").expect(200)
    await world.gone(model)
    await agent.ended()
    assert world.key(model) in agent.held, "an agent on a deleted node is sent away, not told to remove anything more"


async def test_an_agent_that_is_gone_is_not_waited_for_and_loses_its_labels(world: World) -> None:
    agents = [await world.agent() for _ in range(2)]
    model = world.model()
    revision = (await world.ready(model))["resolvedVersion"]
    lost = agents[1]
    ours = model_labels(world.namespace, model.name, revision)
    world.set_labels(lost.node, dict(ours))
    await lost.stop()
    model.delete()
    assert lost.node in await deleting(world, model), "it may be back in a moment"
    world.clock.advance(BRIEFLY)
    await world.hears(agents[0])
    assert not model.gone()
    world.clock.advance(FOR_GOOD)
    await world.gone(model)
    assert not ours.keys() & world.labels(lost.node).keys()
    assert world.labels(lost.node)["test"] == world.namespace, "other labels are left alone"
    await lost.start()
    await lost.until(lambda: bool(lost.states) and world.key(model) not in lost.held)


async def test_a_restarted_controller_goes_on_waiting(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    await world.ready(model)
    agent.clings = True
    model.delete()
    await deleting(world, model)
    await world.stop()
    await agent.stop()
    await world.start()
    other = world.model("other", storage={"nodeLocal": {"replicas": 0}})
    await world.ready(other)
    assert not model.gone(), "the agent has not come back yet, but may"
    agent.clings = False
    await agent.start()
    await world.gone(model)


async def test_a_label_that_nobody_withdraws_is_withdrawn(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    revision = (await world.ready(model))["resolvedVersion"]
    ours = model_labels(world.namespace, model.name, revision)
    world.set_labels(agent.node, dict(ours))
    model.delete()
    await world.gone(model)
    await world.until(lambda: not ours.keys() & world.labels(agent.node).keys(), "an agent without labels left one")


async def test_labels_are_withdrawn_when_an_agent_is_gone_and_the_rest_stays_ready(world: World) -> None:
    agents = [await world.agent() for _ in range(2)]
    model = world.model()
    revision = (await world.ready(model))["resolvedVersion"]
    ours = model_labels(world.namespace, model.name, revision)
    for agent in agents:
        world.set_labels(agent.node, dict(ours))
    await agents[1].stop()
    world.clock.advance(BRIEFLY)
    await world.hears(agents[0])
    await world.until(lambda: world.labels(agents[1].node).keys() >= ours.keys(), "briefly away")
    world.clock.advance(FOR_GOOD)
    await world.until(lambda: not ours.keys() & world.labels(agents[1].node).keys(), "gone")
    assert world.labels(agents[0].node).keys() >= ours.keys()
    status = await world.until(lambda: s if (s := model.status())["nodes"]["wanted"] == 1 else None, "one node is left")
    assert status["phase"] == "Ready"
    assert status["readyNodes"] == [agents[0].node]


async def test_a_foreign_finalizer_is_respected(world: World) -> None:
    await world.agent()
    model = world.model()
    await world.ready(model)
    world.api.patch(
        model.path, {"metadata": {"finalizers": ["modelcache.nvidia.com/cache", "example.com/other"]}}
    ).expect(200)
    model.delete()
    await world.until(
        lambda: world.api.get(model.path).expect(200)["metadata"]["finalizers"] == ["example.com/other"], "ours is gone"
    )
    world.api.patch(model.path, {"metadata": {"finalizers": None}}).expect(200)
    await world.gone(model)
