"""The stream: who may speak, what he is told, and that nobody is told to delete for want of knowledge."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc import aio

from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceStub
from tests.integration.controller.conftest import AGENTS_SERVED, BRIEFLY, FOR_GOOD, HEALTH_WATCH, World
from tests.support.fake_agent import FakeAgent


async def test_an_agent_on_an_unknown_node_is_sent_away(world: World) -> None:
    agent = await world.agent("no-such-node")
    code, details = await agent.ended()
    assert code is grpc.StatusCode.NOT_FOUND, details
    assert "no-such-node" in details


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (pb.SyncRequest(report=pb.Report()), "Hello"),
        (pb.SyncRequest(), "Hello"),
        (pb.SyncRequest(hello=pb.Hello(node="../x", instance="1")), "'../x'"),
        (pb.SyncRequest(hello=pb.Hello(node="a" * 300, instance="1")), "name of a Node"),
        (pb.SyncRequest(hello=pb.Hello(node="a")), "instance"),
    ],
)
async def test_a_bad_beginning_is_refused(world: World, first: pb.SyncRequest, said: str) -> None:
    async with aio.insecure_channel(world.address) as channel:
        call = ModelCacheServiceStub(channel).Sync()
        await call.write(first)
        with pytest.raises(aio.AioRpcError, match=said) as caught:
            await anext(aiter(call))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_newer_instance_takes_over(world: World) -> None:
    first = await world.agent()
    await first.until(lambda: bool(first.states))
    second = FakeAgent(world.address, first.node, instance="2")
    world.agents.append(second)
    await second.start()
    code, details = await first.ended()
    assert code is grpc.StatusCode.ABORTED
    assert first.node in details
    model = world.model()
    await world.ready(model)
    assert world.key(model) in second.held


async def test_manifests_are_given_to_those_who_should_hold_them(world: World) -> None:
    assigned = await world.agent(world.node(gpu="h100"))
    other = await world.agent()
    model = world.model(storage={"nodeLocal": {"nodeSelector": {"gpu": "h100"}}})
    await world.ready(model)
    digest = assigned.desired[world.key(model)].manifest_digest
    assert (await assigned.manifest(world.key(model), digest)).complete
    for agent, key, wanted in (
        (other, world.key(model), digest),
        (assigned, world.key(model), "f" * 64),
        (assigned, ObjectKey(world.namespace, "other"), digest),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await agent.manifest(key, wanted)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    async with aio.insecure_channel(world.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stranger = ModelCacheServiceStub(channel)
        request = pb.GetManifestRequest(model=pb.ModelKey(namespace=model.namespace, name=model.name), digest=digest)
        with pytest.raises(aio.AioRpcError) as caught:
            await anext(aiter(stranger.GetManifest(request)))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_reports_about_unknown_models_and_nonsense_are_survived(world: World) -> None:
    agent = await world.agent(behave=lambda agent: setattr(agent, "obeys", False))
    agent.held[ObjectKey("no", "such")] = pb.ModelReport(
        model=pb.ModelKey(namespace="no", name="such"), phase=pb.PHASE_READY, bytes_done=2**63, manifest_digest="x"
    )
    agent.held[ObjectKey("", "")] = pb.ModelReport()
    model = world.model()
    await agent.until(lambda: bool(agent.desired.get(world.key(model), pb.DesiredModel()).manifest_digest))
    agent.obeys = True
    await agent.restart()
    await world.ready(model)
    await agent.until(lambda: ObjectKey("no", "such") not in agent.held)


async def test_a_returning_agent_is_never_told_less_than_is_known(world: World) -> None:
    """Every desired state of every stream lists the model, while controllers come and go."""
    agent = await world.agent()
    model = world.model()
    await world.ready(model)
    for number in range(5):
        await world.stop()
        await world.start()
        await agent.restart(instance=str(number))
        await agent.until(lambda: bool(agent.desired.get(world.key(model), pb.DesiredModel()).manifest_digest))
        assert all(
            world.key(model) in {ObjectKey(m.model.namespace, m.model.name) for m in state.models}
            for state in agent.states
        )
        assert world.key(model) in agent.held


async def test_streams_are_ended_in_good_order(world: World) -> None:
    agent = await world.agent()
    await agent.until(lambda: bool(agent.states))
    await world.stop()
    code, details = await agent.ended()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "no longer leads" in details


async def test_replicas_stay_where_they_are(world: World) -> None:
    agents = [await world.agent() for _ in range(4)]
    model = world.model(storage={"nodeLocal": {"replicas": 2}})
    first = (await world.ready(model))["assignedNodes"]
    assert len(first) == 2
    model.patch(storage={"nodeLocal": {"replicas": 3}})
    second = (await world.ready(model))["assignedNodes"]
    assert set(first) < set(second)
    lost = next(agent for agent in agents if agent.node == first[0])
    await lost.stop()
    world.clock.advance(BRIEFLY)
    for agent in agents:
        if agent is not lost:
            await world.hears(agent)
    assert model.status()["assignedNodes"] == second, "briefly away"
    world.clock.advance(FOR_GOOD)
    replaced = await world.until(
        lambda: nodes if lost.node not in (nodes := model.status()["assignedNodes"]) else None, "it is replaced"
    )
    assert len(replaced) == 3
    assert set(second) - {lost.node} < set(replaced)
    await world.ready(model)
    await lost.start()
    await lost.until(lambda: bool(lost.states) and world.key(model) not in lost.held)
    assert model.status()["assignedNodes"] == replaced


async def test_the_selector_follows_the_labels_of_nodes(world: World) -> None:
    agent = await world.agent()
    model = world.model(storage={"nodeLocal": {"nodeSelector": {"gpu": "h100"}}})
    lacking = await world.condition(model, "Ready", "False", "NoNodes")
    assert "gpu=h100" in lacking["message"]
    world.set_labels(agent.node, {"gpu": "h100"})
    await world.ready(model)
    world.set_labels(agent.node, {"gpu": None})
    await world.condition(model, "Ready", "False", "NoNodes")
    await agent.until(lambda: world.key(model) not in agent.held)


async def test_models_are_spread_over_the_nodes(world: World) -> None:
    for _ in range(3):
        await world.agent()
    models = [world.model(f"m-{number}", storage={"nodeLocal": {"replicas": 1}}) for number in range(9)]
    nodes = [(await world.ready(model))["assignedNodes"][0] for model in models]
    assert sorted(nodes.count(node) for node in world.nodes) == [3, 3, 3]


async def test_health_is_told_in_the_usual_way(world: World) -> None:
    async with aio.insecure_channel(world.address) as channel:
        check: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        assert await check(AGENTS_SERVED) == b"\x08\x01"
        with pytest.raises(aio.AioRpcError) as caught:
            await check(b"\x0a\x05other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        method: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(HEALTH_WATCH)
        watch = method(AGENTS_SERVED)
        assert await watch.read() == b"\x08\x01"
        stopping = asyncio.create_task(world.stop())
        assert await watch.read() == b"\x08\x02"
        watch.cancel()
        await stopping
