"""DynamoModels and worker pods: endpoints, the Service, adapters that follow pods, and their end, against a real API server."""

from __future__ import annotations

from typing import Any

from modelcache.api.labels import BASE_MODEL_HASH_LABEL, base_model_hash
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from tests.integration.controller.conftest import BRIEFLY, FOR_GOOD, World
from tests.support.cluster import Model
from tests.support.fake_agent import FakeAgent
from tests.support.worker_pods import WorkerPods

BASE = "Qwen/Qwen3-0.6B"
SERVICE = f"dynamo-model-{base_model_hash(BASE)}"


def lora(world: World, name: str = "my-lora", **spec: Any) -> Model:
    return world.model(name, **{"modelName": "my-custom-lora", "baseModelName": BASE, "modelType": "lora", **spec})


def workers(world: World) -> WorkerPods:
    return WorkerPods(world.api, world.namespace, BASE)


def tracking_only(world: World, name: str = "base") -> Model:
    model = Model(world.api, world.namespace, name)
    body = {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoModel",
        "metadata": {"name": name},
        "spec": {"modelName": BASE},
    }
    world.api.post(model.collection, body).expect(201)
    return model


def reasons(model: Model) -> dict[str, str]:
    return {event["reason"]: event["message"] for event in model.events()}


def service(world: World, name: str = SERVICE) -> dict[str, Any] | None:
    answer = world.api.get(f"/api/v1/namespaces/{world.namespace}/services/{name}")
    return None if answer.status == 404 else answer.expect(200)


def counts(model: Model) -> tuple[int, int]:
    status = model.status()
    return status.get("totalEndpoints", -1), status.get("readyEndpoints", -1)


async def holds(world: World, agent: FakeAgent, model: Model, *, held: bool = True) -> None:
    await agent.until(lambda: (world.key(model) in agent.desired) is held)


async def test_a_model_without_source_only_tracks_endpoints(world: World) -> None:
    pods, model = workers(world), tracking_only(world)
    await world.condition(model, "EndpointsReady", "False", "NoEndpoints")
    pods.add("worker-0", world.node())
    await world.condition(model, "EndpointsReady", "True", "AllEndpointsReady")
    pods.add("worker-1", world.node(), "10.0.1.6", ready=False)
    await world.condition(model, "EndpointsReady", "False", "NotReady")
    status = model.status()
    assert [(e["podName"], e["address"], e["ready"]) for e in status["endpoints"]] == [
        ("worker-0", "http://10.0.1.5:9090", True),
        ("worker-1", "http://10.0.1.6:9090", False),
    ]
    assert "phase" not in status
    assert not model.api.get(model.path).expect(200)["metadata"].get("finalizers"), "there is nothing to clean up"
    pods.remove("worker-0", "worker-1")
    await world.condition(model, "EndpointsReady", "False", "NoEndpoints")
    model.delete()
    await world.gone(model)


async def test_pods_of_other_namespaces_and_models_do_not_count(world: World) -> None:
    pods, model = workers(world), tracking_only(world)
    node = world.node()
    other = f"{world.namespace}-other"
    world.api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    WorkerPods(world.api, other, BASE).add("worker-0", node)
    WorkerPods(world.api, world.namespace, "another/model").add("worker-1", node)
    pods.add("worker-2", node)
    await world.condition(model, "EndpointsReady", "True")
    assert [endpoint["podName"] for endpoint in model.status()["endpoints"]] == ["worker-2"]
    world.api.delete(f"/api/v1/namespaces/{other}")


async def test_the_service_is_made_and_owned_by_all_who_need_it(world: World) -> None:
    first = tracking_only(world)
    await world.condition(first, "ServicesFound", "True", "ServicesFound")
    found = service(world)
    assert found is not None
    assert found["spec"]["clusterIP"] == "None"
    assert found["spec"]["selector"] == {BASE_MODEL_HASH_LABEL: base_model_hash(BASE)}
    assert [(port["name"], port["port"]) for port in found["spec"]["ports"]] == [("system", 9090)]
    second = lora(world)

    def owners() -> set[str]:
        found = service(world)
        assert found is not None
        return {owner["name"] for owner in found["metadata"].get("ownerReferences", [])}

    await world.until(lambda: owners() == {"base", "my-lora"}, "both own it")
    first.delete()
    await world.gone(first)
    assert service(world) is not None
    second.patch(baseModelName="another/model")
    await world.until(lambda: service(world) is None, "nobody needs it any more")
    await world.until(lambda: service(world, f"dynamo-model-{base_model_hash('another/model')}"), "the other is made")


async def test_a_service_of_the_operator_is_used_and_left_alone(world: World) -> None:
    label = {BASE_MODEL_HASH_LABEL: base_model_hash(BASE)}
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "made-by-operator", "labels": label},
        "spec": {"clusterIP": "None", "selector": label, "ports": [{"name": "system", "port": 9090}]},
    }
    world.api.post(f"/api/v1/namespaces/{world.namespace}/services", body).expect(201)
    model = tracking_only(world)
    await world.condition(model, "ServicesFound", "True")
    found = service(world, "made-by-operator")
    assert found is not None
    assert not found["metadata"].get("ownerReferences")
    assert service(world) is None


async def test_a_lora_is_on_exactly_the_nodes_of_its_pods_and_loaded_into_them(world: World) -> None:
    agents = [await world.agent() for _ in range(3)]
    pods = workers(world)
    pods.add("worker-0", agents[0].node)
    pods.add("worker-1", agents[1].node, "10.0.1.6")
    model = lora(world)
    await world.condition(model, "EndpointsReady", "True", "EndpointsDiscovered")
    status = model.status()
    assert status["assignedNodes"] == [agents[0].node, agents[1].node]
    assert [(e["podName"], e["ready"]) for e in status["endpoints"]] == [("worker-0", True), ("worker-1", True)]
    assert world.key(model) not in agents[2].desired
    adapter = agents[0].desired[world.key(model)].adapter
    assert (adapter.lora_name, adapter.base_model_name) == ("my-custom-lora", BASE)
    assert adapter.source_uri == "hf://org/name"
    (told,) = agents[0].states[-1].workers
    assert list(adapter.pod_uids) == [told.uid]
    assert (told.name, told.ip, told.port, told.ready, told.container_start.split()[0]) == (
        "worker-0", "10.0.1.5", 9090, True, "containerd://1",
    )  # fmt: skip
    await world.until(lambda: "EndpointsReady" in reasons(model), "the event")
    assert reasons(model)["EndpointsReady"] == f"Discovered 2 ready endpoints for base model {BASE}"

    pods.add("worker-2", agents[2].node, "10.0.1.7")
    await world.until(lambda: counts(model) == (3, 3), "it follows a new pod to its node")
    pods.remove("worker-0")
    await holds(world, agents[0], model, held=False)
    await world.until(lambda: counts(model) == (2, 2), "it leaves with the last pod of a node")


async def test_node_local_placement_is_added_to_the_nodes_of_the_pods(world: World) -> None:
    with_pod, chosen, neither = await world.agent(), await world.agent(world.node(pool="lora")), await world.agent()
    workers(world).add("worker-0", with_pod.node)
    model = lora(world, storage={"nodeLocal": {"nodeSelector": {"pool": "lora"}}})
    status = await world.ready(model)
    assert status["assignedNodes"] == sorted([with_pod.node, chosen.node])
    assert world.key(model) not in neither.desired
    assert list(chosen.desired[world.key(model)].adapter.pod_uids) == []


async def test_a_restarted_container_is_not_ready_until_it_has_loaded_again(world: World) -> None:
    agent = await world.agent()
    pods = workers(world)
    pods.add("worker-0", agent.node)
    model = lora(world)
    await world.condition(model, "EndpointsReady", "True")
    agent.obeys = False
    pods.set("worker-0", start=2)
    found = await world.condition(model, "EndpointsReady", "False", "NoReadyEndpoints")
    assert "Reloading" in found["message"]
    await agent.until(lambda: agent.states[-1].workers[0].container_start.startswith("containerd://2"))
    agent.obeys = True
    pods.set("worker-0", start=3)
    await world.condition(model, "EndpointsReady", "True")


async def test_a_new_version_is_never_ready_before_it_is_loaded(world: World) -> None:
    agent = await world.agent()
    workers(world).add("worker-0", agent.node)
    model = lora(world)
    await world.condition(model, "EndpointsReady", "True")
    before = agent.desired[world.key(model)].manifest_digest
    agent.obeys = False
    world.hub.hub.repositories["org/name"].commit({"adapter.safetensors": b"2"}, branch="v2")
    model.patch(version="v2")
    await agent.until(lambda: agent.desired[world.key(model)].manifest_digest not in ("", before))
    await agent.report()
    await world.condition(model, "EndpointsReady", "False", "NoReadyEndpoints")
    assert agent.desired[world.key(model)].adapter.source_uri == "hf://org/name@v2"
    agent.obeys = True
    await agent.restart()
    await world.condition(model, "EndpointsReady", "True")


async def test_restarts_of_controller_and_agent_cost_no_readiness_and_no_events(world: World) -> None:
    agent = await world.agent()
    workers(world).add("worker-0", agent.node)
    model = lora(world)
    await world.condition(model, "EndpointsReady", "True")
    await world.until(lambda: "EndpointsReady" in reasons(model), "the event")
    await world.ready(model)
    await world.until(lambda: "Ready" in reasons(model), "the last event")
    transition = model.condition("EndpointsReady")["lastTransitionTime"]
    told = [(event["reason"], event.get("count")) for event in model.events()]
    await world.stop()
    await agent.stop()
    await world.start()
    await agent.start()
    assert await agent.is_served()
    await world.hears(agent)
    probe = tracking_only(world, "probe")
    await world.condition(probe, "EndpointsReady", "True")
    assert counts(model) == (1, 1)
    assert model.condition("EndpointsReady")["lastTransitionTime"] == transition
    assert [(event["reason"], event.get("count")) for event in model.events()] == told


async def test_a_deleted_lora_waits_for_the_agents_and_tells_what_became_of_it(world: World) -> None:
    agent = await world.agent()
    workers(world).add("worker-0", agent.node)
    model = lora(world)
    await world.condition(model, "EndpointsReady", "True")
    uid = agent.desired[world.key(model)].adapter.model_uid
    agent.clings = True
    model.delete()
    await holds(world, agent, model, held=False)
    await world.condition(model, "Ready", "False", "Deleting")
    assert counts(model) == (1, 0)
    assert not model.gone()
    assert [worker.name for worker in agent.states[-1].workers] == ["worker-0"], "the agent still has to talk to it"
    key = pb.ModelKey(namespace=world.namespace, name="my-lora")
    agent.unloads = [
        pb.AdapterUnload(model=key, model_uid=uid, lora_name="my-custom-lora", pod_uid="1", pod_name="worker-0"),
        pb.AdapterUnload(
            model=key, model_uid=uid, lora_name="my-custom-lora", pod_uid="2", pod_name="worker-1",
            problem=pb.Problem(reason="Timeout", message="No answer in 30 s."),
        ),
    ]  # fmt: skip
    agent.held.clear()
    await agent.report()
    await world.gone(model)
    await world.until(
        lambda: {"LoRAUnloaded", "LoRAUnloadFailed", "Deleted"} <= set(reasons(model)), "events of the end"
    )
    assert reasons(model)["LoRAUnloaded"] == "Unloaded my-custom-lora from 1 endpoint(s)"
    assert "worker-1: No answer in 30 s." in reasons(model)["LoRAUnloadFailed"]


async def test_a_dead_node_does_not_keep_a_lora_from_being_deleted(world: World) -> None:
    agent = await world.agent()
    workers(world).add("worker-0", agent.node)
    model = lora(world)
    await world.condition(model, "EndpointsReady", "True")
    await agent.stop()
    model.delete()
    await world.condition(model, "Ready", "False", "Deleting")
    world.clock.advance(BRIEFLY)
    world.clock.advance(FOR_GOOD)
    await world.gone(model)
    await world.until(lambda: "LoRAUnloadFailed" in reasons(model), "what cannot be unloaded is told")
    assert "worker-0: no agent runs on its node" in reasons(model)["LoRAUnloadFailed"]


async def test_of_two_loras_of_one_name_the_first_is_loaded_until_it_is_gone(world: World) -> None:
    agent = await world.agent()
    workers(world).add("worker-0", agent.node)
    first = lora(world, "a-first")
    await world.condition(first, "EndpointsReady", "True")
    second = lora(world, "b-second")
    found = await world.condition(second, "EndpointsReady", "False", "NoReadyEndpoints")
    assert "LoRANameConflict" in found["message"]
    assert "a-first" in found["message"]
    key = ObjectKey(world.namespace, "b-second")
    await agent.until(lambda: key in agent.desired and not agent.desired[key].adapter.pod_uids)
    first.delete()
    await world.gone(first)
    await world.condition(second, "EndpointsReady", "True")
