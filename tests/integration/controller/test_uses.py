"""Who uses what, from the pods of the cluster to the agents; and what a deletion waits for, from the agents to the user."""

from __future__ import annotations

from typing import Any

from modelcache.api.labels import BASE_MODEL_HASH_LABEL, PIN_ANNOTATION, USES_ANNOTATION, base_model_hash
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


def add_claimant(world: World, name: str, node: str, claim: str, *, sub_path: str = "") -> None:
    """A pod that mounts a claim at /models."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {BASE_MODEL_HASH_LABEL: base_model_hash("base")}},
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "main",
                    "image": "engine",
                    "volumeMounts": [{"name": "models", "mountPath": "/models", "subPath": sub_path}],
                }
            ],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
    world.api.post(f"/api/v1/namespaces/{world.namespace}/pods", body).expect(201)


def add_claim(world: World, name: str, volume: str) -> None:
    spec: dict[str, Any] = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "volumeName": volume,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
    world.api.post(f"/api/v1/namespaces/{world.namespace}/persistentvolumeclaims", body).expect(201)


def add_volume(world: World, name: str, path: str, claim: str) -> str:
    """A volume for a claim; its path at the API server."""
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": path},
            "claimRef": {"namespace": world.namespace, "name": claim},
        },
    }
    world.api.post("/api/v1/persistentvolumes", body).expect(201)
    return f"/api/v1/persistentvolumes/{name}"


def shown(agent: FakeAgent) -> dict[str, str]:
    """Which directory of the host each worker of the node sees at /models, as the agent was told last."""
    return {worker.name: worker.mounts[0].host_path for worker in agent.states[-1].workers}


async def test_a_mount_of_a_claim_is_one_of_the_directory_of_its_volume(world: World) -> None:
    agent = await world.agent()
    directory, volume = f"{ROOT}/models/{world.namespace}", f"{world.namespace}-cache"
    add_claimant(world, "whole", agent.node, "cache")
    add_claimant(world, "part", agent.node, "cache", sub_path="m")
    add_claimant(world, "foreign", agent.node, "taken")
    add_claim(world, "taken", volume)
    await agent.until(lambda: shown(agent) == {"whole": "", "part": "", "foreign": ""})
    assert used(agent) == set(), "nobody knows what is behind the claims"
    # Bound after the pods have come; another claim that names the same volume gets nothing by that.
    path = add_volume(world, volume, directory, "cache")
    add_claim(world, "cache", volume)
    await agent.until(lambda: used(agent) == {("whole", ""), ("part", "m")})
    assert shown(agent) == {"whole": directory, "part": f"{directory}/m", "foreign": ""}
    newcomer = await world.agent()
    add_claimant(world, "later", newcomer.node, "cache")
    await newcomer.until(lambda: used(newcomer) == {("later", "")})
    world.api.delete(path).expect(200)
    await agent.until(lambda: used(agent) == set())
