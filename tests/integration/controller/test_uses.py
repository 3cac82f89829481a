"""Who uses what, from the pods of the cluster to the agents; and what a deletion waits for, from the agents to the user."""

from __future__ import annotations

from typing import Any

from modelcache.api.labels import PIN_ANNOTATION, USES_ANNOTATION
from modelcache.rpc import modelcache_pb2 as pb
from tests.integration.controller.conftest import World
from tests.support.fake_agent import FakeAgent

ROOT = "/nowhere"
"""The cache directory of the agents in these tests."""


def add_pod(world: World, name: str, node: str, path: str, **annotations: str) -> str:
    """A pod that mounts a directory of the host; its path at the API server."""
    mount = {"name": "models", "mountPath": "/models"}
    pods = f"/api/v1/namespaces/{world.namespace}/pods"
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "engine", "volumeMounts": [mount]}],
            "volumes": [{"name": "models", "hostPath": {"path": path}}],
        },
    }
    world.api.post(pods, body).expect(201)
    return f"{pods}/{name}"


def used(agent: FakeAgent) -> set[tuple[str, str]]:
    """What the agent was told last: (pod, model)."""
    return {(use.pod_name, use.model.name) for use in agent.states[-1].uses}


async def test_agents_are_told_which_pods_of_their_node_use_what(world: World) -> None:
    one, two = await world.agent(), await world.agent()
    directory = f"{ROOT}/models/{world.namespace}"
    mounts = add_pod(world, "mounts", one.node, f"{directory}/m")
    add_pod(world, "annotated", one.node, directory, **{USES_ANNOTATION: "a, b"})
    add_pod(world, "elsewhere", two.node, directory)
    add_pod(world, "stranger", two.node, "/var/log")
    await one.until(lambda: used(one) == {("mounts", "m"), ("annotated", "a"), ("annotated", "b")})
    await two.until(lambda: used(two) == {("elsewhere", "")})
    assert one.states[-1].uses_known
    world.api.patch(f"{mounts}/status", {"status": {"phase": "Succeeded"}}).expect(200)
    await one.until(lambda: used(one) == {("annotated", "a"), ("annotated", "b")})
    newcomer = await world.agent(two.node)
    await newcomer.until(lambda: used(newcomer) == {("elsewhere", "")})


async def test_retain_and_pin_reach_the_agents(world: World) -> None:
    agent = await world.agent()
    model = world.model(storage={"nodeLocal": {"reclaimPolicy": "Retain"}})
    await world.ready(model)
    assert agent.desired[world.key(model)].retain
    assert not agent.desired[world.key(model)].pinned
    world.api.patch(model.path, {"metadata": {"annotations": {PIN_ANNOTATION: "true"}}}).expect(200)
    await agent.until(lambda: agent.desired[world.key(model)].pinned)


async def test_a_deletion_says_which_pods_it_waits_for(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    await world.ready(model)
    agent.clings = True
    model.delete()
    await agent.until(lambda: world.key(model) not in agent.desired)
    message = "The files are in use by pod team/web-0; they go when the pods are gone."
    agent.held[world.key(model)].problem.CopyFrom(pb.Problem(reason="InUse", message=message))
    await agent.report()

    def told() -> bool:
        conditions = {each["type"]: each for each in model.status().get("conditions", [])}
        return "pod team/web-0" in conditions["Ready"]["message"]

    await world.until(told, "the condition names the pod")
    assert [problem["reason"] for problem in model.status()["nodeProblems"]] == ["InUse"]
    await world.until(
        lambda: any(e["reason"] == "RemovalWaits" and "web-0" in e["message"] for e in model.events()), "an event"
    )
    agent.held.clear()
    await agent.report()
    await world.gone(model)
