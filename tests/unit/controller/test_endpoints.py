"""Endpoints, their conditions and their events, from facts alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.adapter_reports import AdapterConfig, AdapterInPod, AdapterState, AdapterView, Unload
from controller.endpoint_events import endpoint_events, unload_events
from controller.facts import Facts, NodeView, Serving
from controller.placement import Presence
from controller.problems import AgentProblem
from controller.reports import NodeReport, Phase
from controller.request import Pinned, Problem, Request
from controller.status import EMPTY, build_status
from controller.workers import Worker
from modelcache.api.labels import base_model_hash
from modelcache.api.spec import Spec
from modelcache.api.status import Condition, Endpoint, Status
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestFile, Sha256

BASE = "Qwen/Qwen3-0.6B"
NOW, LATER = "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"
START = "containerd://1"


def spec(version: str | None = None, *, kind: str = "lora") -> Spec:
    source = {"uri": "hf://org/my-lora"}
    name = "my-custom-lora" if kind == "lora" else BASE
    values = {"modelName": name, "baseModelName": BASE, "modelType": kind, "version": version, "source": source}
    return msgspec.convert(values, Spec)


def request(version: str | None = None) -> Request:
    asked = Request.of(spec(version), "ns")
    assert asked is not None
    return asked


def pinned(revision: str = "1" * 40, *, complete: bool = True) -> Pinned:
    digest = Sha256("a" * 64) if complete else None
    file = ManifestFile(path="adapter_config.json", size=10, sha256=digest)
    return Pinned.of(Manifest.build("hf://org/my-lora", revision, [file]))


OLD, NEW = pinned("1" * 40), pinned("2" * 40)


def worker(index: int = 0, **fields: Any) -> Worker:
    values: dict[str, Any] = {
        "uid": f"u-{index}",
        "namespace": "ns",
        "name": f"worker-{index}",
        "node": f"node-{index}",
        "base_hash": base_model_hash(BASE),
        "ip": f"10.0.1.{5 + index}",
        "ready": True,
        "container_start": START,
        **fields,
    }
    return Worker(**values)


def loaded(of: Pinned = OLD, state: AdapterState = AdapterState.LOADED, **fields: Any) -> AdapterInPod:
    values: dict[str, Any] = {
        "manifest_digest": of.digest,
        "container_start": START,
        "uri": "file:///models/x",
        **fields,
    }
    return AdapterInPod(state, **values)


def node(*pods: tuple[int, AdapterInPod], of: Pinned = OLD, **adapter: Any) -> NodeView:
    view = AdapterView(pods={f"u-{index}": pod for index, pod in pods}, **adapter)
    report = NodeReport(of.digest, Phase.READY, revision=of.revision, adapter=view)
    return NodeView(Presence.CONNECTED, reported=True, report=report)


def facts(workers: Any = None, nodes: dict[str, NodeView] | None = None, **changes: Any) -> Facts:
    workers = (worker(0), worker(1)) if workers is None else workers
    nodes = {"node-0": node((0, loaded())), "node-1": node((1, loaded()))} if nodes is None else nodes
    values: dict[str, Any] = {
        "generation": 1,
        "now": NOW,
        "path": "",
        "request": request(),
        "pinned": OLD,
        "agents": 2,
        "matching": 2,
        "assigned": tuple(nodes),
        "nodes": nodes,
        "follows": BASE,
        "serving": Serving(base_model=BASE, lora="my-custom-lora", workers=workers, services=1),
        **changes,
    }
    return Facts(**values)


def condition(status: Status, kind: str = "EndpointsReady") -> Condition:
    return next(each for each in status.conditions if each.type == kind)


def ready(status: Status) -> list[str]:
    assert status.ready_endpoints == sum(endpoint.ready for endpoint in status.endpoints)
    assert status.total_endpoints == len(status.endpoints)
    return [endpoint.pod_name for endpoint in status.endpoints if endpoint.ready]


def reasons(status: Status) -> dict[str, str]:
    return {endpoint.pod_name: endpoint.reason for endpoint in status.endpoints}


def told(old: Status, new: Status, of: Spec | None = None) -> list[tuple[str, str, str]]:
    return [(note.type, note.reason, note.message) for note in endpoint_events(old, new, of or spec())]


def test_two_loaded_endpoints_look_as_in_the_user_guide() -> None:
    status = build_status(facts(), EMPTY)
    assert [msgspec.to_builtins(endpoint) for endpoint in status.endpoints] == [
        {"address": "http://10.0.1.5:9090", "podName": "worker-0", "ready": True},
        {"address": "http://10.0.1.6:9090", "podName": "worker-1", "ready": True},
    ]
    assert (status.total_endpoints, status.ready_endpoints) == (2, 2)
    assert (condition(status).status, condition(status).reason) == ("True", "EndpointsDiscovered")
    assert (condition(status, "ServicesFound").status, condition(status, "ServicesFound").reason) == (
        "True", "ServicesFound",
    )  # fmt: skip
    assert ("Normal", "EndpointsReady", f"Discovered 2 ready endpoints for base model {BASE}") in told(EMPTY, status)


def test_without_pods_it_says_so_in_the_words_of_the_user_guide() -> None:
    status = build_status(facts((), {}), EMPTY)
    found = condition(status)
    assert (found.status, found.reason) == ("False", "NoEndpoints")
    assert found.message == f"No endpoint slices found for base model {BASE}"
    assert (status.total_endpoints, status.ready_endpoints, status.endpoints) == (0, 0, ())
    assert told(EMPTY, status) == [("Warning", "NoEndpointsFound", found.message)]
    assert told(status, status) == []
    assert condition(status, "Ready").reason == "NoEndpoints"
    assert BASE in condition(status, "Ready").message


def test_some_or_none_ready_are_two_reasons_and_the_message_counts_and_explains() -> None:
    failed = AdapterInPod(AdapterState.FAILED, problem=AgentProblem("LoadFailed", "error 500: out of memory", LATER))
    one = build_status(facts(nodes={"node-0": node((0, loaded())), "node-1": node((1, failed))}), EMPTY)
    assert (condition(one).status, condition(one).reason) == ("False", "NotReady")
    assert condition(one).message.startswith(
        "Found 1 ready endpoint(s) out of 2 total. worker-1: LoadFailed: error 500"
    )
    assert ready(one) == ["worker-0"]
    none = build_status(facts(nodes={"node-0": node((0, failed)), "node-1": node((1, failed))}), EMPTY)
    assert (condition(none).status, condition(none).reason) == ("False", "NoReadyEndpoints")
    assert [reason for _, reason, _ in told(EMPTY, none)] == [
        "EndpointsDiscovered",
        "PartialEndpointFailure",
        "NotReady",
    ]
    failure = next(message for _, reason, message in told(EMPTY, one) if reason == "PartialEndpointFailure")
    assert failure == (
        f"Failed to load my-custom-lora into some endpoints: worker-1: error LoadFailed: error 500: out of memory "
        f"Next try at {LATER}."
    )
    assert told(one, one) == []
    healed = build_status(facts(), one)
    assert [reason for _, reason, _ in told(one, healed)] == ["EndpointsReady"]


@pytest.mark.parametrize(
    ("workers", "nodes", "reason"),
    [
        ((worker(ready=False),), None, "PodNotReady"),
        ((worker(),), {}, "NoAgent"),
        ((worker(),), {"node-0": NodeView(Presence.GONE)}, "NoAgent"),
        ((worker(),), {"node-0": NodeView(Presence.AWAITED)}, "AgentAwaited"),
        ((worker(),), {"node-0": NodeView(Presence.CONNECTED, reported=True)}, "Caching"),
        ((worker(),), {"node-0": node()}, "Loading"),
        ((worker(),), {"node-0": node((0, loaded(state=AdapterState.LOADING)))}, "Loading"),
        ((worker(),), {"node-0": node((0, loaded(state=AdapterState.UNLOADING)))}, "Unloading"),
        ((worker(),), {"node-0": node((0, loaded(state=AdapterState.UNCONFIRMED)))}, "Reloading"),
        ((worker(),), {"node-0": node((0, loaded(NEW)))}, "Reloading"),
        ((worker(container_start="containerd://2"),), {"node-0": node((0, loaded()))}, "Reloading"),
        ((worker(),), {"node-0": node(problem=AgentProblem("InvalidAdapter", "No weights."))}, "InvalidAdapter"),
    ],
)
def test_why_an_endpoint_is_not_ready(workers: Any, nodes: dict[str, NodeView] | None, reason: str) -> None:
    status = build_status(facts(workers, nodes), EMPTY)
    assert not ready(status)
    assert reasons(status) == {"worker-0": reason}
    assert status.endpoints[0].message


def test_from_the_change_of_the_spec_on_nothing_old_is_ready() -> None:
    before = build_status(facts(), EMPTY)
    assert ready(before) == ["worker-0", "worker-1"]
    resolving = build_status(facts(request=request("v2"), pinned=None), before)
    assert not ready(resolving), "the source is being asked, the pods still have the old one"
    assert reasons(resolving)["worker-0"] == "Resolving"
    stages = [
        {"node-0": node((0, loaded())), "node-1": node((1, loaded()))},
        {"node-0": node((0, loaded(state=AdapterState.UNLOADING))), "node-1": node((1, loaded()))},
        {"node-0": node((0, loaded(NEW, AdapterState.LOADING)), of=NEW), "node-1": node((1, loaded()))},
    ]
    last = resolving
    for nodes in stages:
        last = build_status(facts(nodes=nodes, request=request("v2"), pinned=NEW), last)
        assert not ready(last)
    half = {"node-0": node((0, loaded(NEW)), of=NEW), "node-1": node((1, loaded()))}
    last = build_status(facts(nodes=half, request=request("v2"), pinned=NEW), last)
    assert ready(last) == ["worker-0"]
    whole = {"node-0": node((0, loaded(NEW)), of=NEW), "node-1": node((1, loaded(NEW)), of=NEW)}
    last = build_status(facts(nodes=whole, request=request("v2"), pinned=NEW), last)
    assert ready(last) == ["worker-0", "worker-1"]


def test_a_source_that_refuses_is_the_reason_of_every_endpoint() -> None:
    refused = Problem("AccessDenied", "The bucket refuses.", LATER)
    status = build_status(facts(pinned=None, problem=refused), EMPTY)
    assert reasons(status) == {"worker-0": "AccessDenied", "worker-1": "AccessDenied"}
    assert "PartialEndpointFailure" in [reason for _, reason, _ in told(EMPTY, status)]


@pytest.mark.parametrize(
    "view",
    [
        NodeView(Presence.AWAITED),
        NodeView(Presence.CONNECTED),
        node((0, loaded(state=AdapterState.UNCONFIRMED))),
    ],
)
def test_restarts_of_controller_or_agent_do_not_cost_readiness(view: NodeView) -> None:
    only = (worker(),)
    before = build_status(facts(only, {"node-0": node((0, loaded()))}), EMPTY)
    assert ready(build_status(facts(only, {"node-0": view}), before)) == ["worker-0"]
    assert not ready(build_status(facts(only, {"node-0": view}), EMPTY)), "but what was not ready is not assumed to be"
    other_address = (worker(ip="10.9.9.9", container_start="containerd://9"),)
    assert not ready(build_status(facts(other_address, {"node-0": view}), before)), "another pod of the same name"


def test_a_manifest_that_is_being_completed_again_keeps_endpoints_ready() -> None:
    only = (worker(),)
    before = build_status(facts(only, {"node-0": node((0, loaded()))}), EMPTY)
    again = facts(only, {"node-0": node((0, loaded()))}, pinned=pinned(complete=False))
    assert ready(build_status(again, before)) == ["worker-0"]


def test_pods_of_a_base_model_are_ready_when_they_are_ready() -> None:
    serving = Serving(base_model=BASE, workers=(worker(0), worker(1, ready=False)), services=1)
    status = build_status(facts(serving=serving, follows=""), EMPTY)
    assert ready(status) == ["worker-0"]
    assert condition(status).reason == "NotReady"
    all_ready = Serving(base_model=BASE, workers=(worker(0),), services=1)
    status = build_status(facts(serving=all_ready, follows="", request=None, pinned=None), EMPTY)
    assert (condition(status).status, condition(status).reason) == ("True", "AllEndpointsReady")
    assert status.phase is None, "without a source only endpoints are tracked"


def test_a_base_model_without_pods_is_not_warned_of() -> None:
    serving = Serving(base_model=BASE, workers=(), services=1)
    status = build_status(facts(serving=serving, follows=""), EMPTY)
    assert told(EMPTY, status, spec(kind="base")) == []
    had_some = msgspec.structs.replace(EMPTY, total_endpoints=1)
    assert [reason for _, reason, _ in told(had_some, status, spec(kind="base"))] == ["NoEndpointsFound"]


def test_a_second_lora_of_the_same_name_gets_no_pods_and_says_why() -> None:
    serving = Serving(base_model=BASE, lora="my-custom-lora", workers=(worker(),), rival="first-lora", services=1)
    status = build_status(facts(serving=serving), EMPTY)
    assert reasons(status) == {"worker-0": "LoRANameConflict"}
    assert "first-lora" in status.endpoints[0].message


def test_pods_that_cannot_be_read_keep_the_last_known_endpoints() -> None:
    before = build_status(facts(), EMPTY)
    unknown = Serving(base_model=BASE, lora="my-custom-lora", workers=None, problem="pods is forbidden", services=1)
    status = build_status(facts(serving=unknown), before)
    assert status.endpoints == before.endpoints
    found = condition(status)
    assert (found.status, found.reason, found.message) == ("Unknown", "EndpointDiscoveryFailed", "pods is forbidden")
    assert told(before, status) == [("Warning", "EndpointDiscoveryFailed", "pods is forbidden")]
    starting = Serving(base_model=BASE, lora="my-custom-lora", workers=None)
    assert condition(build_status(facts(serving=starting), before)).status == "True", "not read yet is no failure"


def test_what_the_pod_loads_by_itself_is_shown_and_told() -> None:
    nodes = {"node-0": node((0, loaded(uri="hf://org/my-lora"))), "node-1": node((1, loaded()))}
    status = build_status(facts(nodes=nodes), EMPTY)
    assert ready(status) == ["worker-0", "worker-1"]
    assert [endpoint.loaded_from for endpoint in status.endpoints] == ["hf://org/my-lora", ""]
    (message,) = [text for _, reason, text in told(EMPTY, status) if reason == "CacheNotMounted"]
    assert message.startswith("worker-0 do")
    assert told(status, status) == []


def test_what_the_files_say_is_in_the_status_and_a_mismatch_is_warned_of() -> None:
    config = AdapterConfig(16, ("q_proj", "v_proj"), "other/base")
    warning = AgentProblem("BaseModelMismatch", "Trained for other/base.")
    nodes = {"node-0": node((0, loaded()), config=config, warning=warning)}
    status = build_status(facts((worker(),), nodes), EMPTY)
    assert status.adapter is not None
    assert (status.adapter.rank, status.adapter.target_modules) == (16, ("q_proj", "v_proj"))
    assert status.adapter.base_model == "other/base"
    assert ("Warning", "BaseModelMismatch", "Trained for other/base.") in told(EMPTY, status)
    assert told(status, status) == []
    silent = build_status(facts((worker(),), {"node-0": NodeView(Presence.AWAITED)}), status)
    assert silent.adapter == status.adapter


def test_a_service_that_cannot_be_made_is_a_condition() -> None:
    serving = Serving(base_model=BASE, lora="l", workers=(), services=0, service_problem="services is forbidden")
    found = condition(build_status(facts(serving=serving), EMPTY), "ServicesFound")
    assert (found.status, found.reason, found.message) == ("False", "NoServicesFound", "services is forbidden")


def test_while_it_is_being_deleted_no_endpoint_is_ready_and_no_event_is_sent() -> None:
    before = build_status(facts(), EMPTY)
    status = build_status(facts(deleting=True, request=None, pinned=None), before)
    assert not ready(status)
    assert condition(status).reason == "Deleting"
    assert told(before, status) == []


def test_what_became_of_the_adapter_in_its_pods_is_told_at_the_end() -> None:
    def unload(pod: str, problem: AgentProblem | None = None) -> tuple[str, Unload]:
        return "node", Unload(ObjectKey("ns", "m"), "uid", pod, pod, problem)

    notes = unload_events(
        "l", [unload("worker-0"), unload("worker-1", AgentProblem("Timeout", "No answer."))], ["worker-2"]
    )
    assert [(note.type, note.reason) for note in notes] == [("Warning", "LoRAUnloadFailed"), ("Normal", "LoRAUnloaded")]
    assert notes[0].message.endswith("worker-1: No answer.; worker-2: no agent runs on its node")
    assert notes[1].message == "Unloaded l from 1 endpoint(s)"
    assert unload_events("l", [], []) == []


def test_a_long_list_of_failures_is_one_bounded_event() -> None:
    failed = AdapterInPod(AdapterState.FAILED, problem=AgentProblem("LoadFailed", "x" * 2000))
    workers = tuple(worker(index, node="node-0") for index in range(40))
    status = build_status(facts(workers, {"node-0": node(*((index, failed) for index in range(40)))}), EMPTY)
    assert status.total_endpoints == 40
    assert max(len(endpoint.message) for endpoint in status.endpoints) < 500
    (message,) = [text for _, reason, text in told(EMPTY, status) if reason == "PartialEndpointFailure"]
    assert message.endswith("; and 35 more, see status.endpoints")
    assert isinstance(status.endpoints[0], Endpoint)
