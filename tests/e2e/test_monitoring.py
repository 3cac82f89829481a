"""A real Prometheus scrapes the two daemons while they bring a model to a node."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from local.ports import free_port
from tests.support.cluster import CacheCluster, HubProcess, Model, write_repository
from tests.support.manifests import find, render
from tests.support.prometheus import Prometheus
from tests.support.rbac import allowed
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.e2e

SIZE = 3_000_000


def test_prometheus_sees_a_model_arrive(
    repositories: Path,
    hub: HubProcess,
    cluster: CacheCluster,
    model: Callable[[str], Model],
    namespace: str,
    tmp_path: Path,
) -> None:
    write_repository(repositories, "acme/tiny", {"model.safetensors": b"x" * SIZE, "config.json": b"{}"})
    hub.restart()
    agent, controller = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    cluster.start_controller("--metrics-listen", controller)
    cluster.start_agent(cluster.nodes[0], "--metrics-listen", agent)
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(find(render("monitoring"), "PrometheusRule", "modelcache")["spec"]))
    prometheus = Prometheus(
        tmp_path, free_port(), {"modelcache-agent": agent, "modelcache-controller": controller}, rules
    )
    try:
        tiny = model("tiny")
        tiny.create(
            "hf://acme/tiny", storage={"nodeLocal": {"nodeSelector": {"kubernetes.io/hostname": cluster.nodes[0]}}}
        )
        tiny.wait_ready()
        # One scrape that does not come in time makes all series of a daemon stale, so each one is waited for.
        for expression, side in (
            (
                f'modelcache_model_nodes{{model_namespace="{namespace}", model="tiny", state="ready"}} == 1',
                "controller",
            ),
            ("modelcache_leader == 1", "controller"),
            ("modelcache_time_to_ready_seconds_count == 1", "agent"),
            ('modelcache_models{phase="ready"} == 1', "agent"),
            (
                "sum by (job) (modelcache_api_requests_total{resource='dynamomodels/status', code='200'}) > 0",
                "controller",
            ),
            (f'modelcache_fetched_bytes_total{{via="origin", scheme="hf"}} >= {SIZE}', "agent"),
            (f"modelcache_cache_bytes == {SIZE + 2}", "agent"),
            ('modelcache_model_requests_total{result="miss"} == 1', "agent"),
            ("modelcache_controller_connected == 1", "agent"),
        ):
            ((labels, _),) = prometheus.wait_for(expression)
            assert labels["job"] == f"modelcache-{side}", expression
        # What the daemons really ask of the API server is what their roles allow.
        for side in ("agent", "controller"):
            of_side = f'modelcache_api_requests_total{{job="modelcache-{side}"}}'
            prometheus.wait_for(of_side.replace("}", ', verb="watch", resource="nodes"}'))
            asked = prometheus.wait_for(of_side)
            assert {(labels["verb"], labels["resource"]) for labels, _ in asked} <= allowed(render(), side)
        # From an Event of the object to the line of the agent that brought it there.
        ready_event = wait_until(lambda: next((event for event in tiny.events() if event["reason"] == "Ready"), None))
        trace = ready_event["metadata"]["annotations"]["modelcache.nvidia.com/trace"]

        def logged(*words: str) -> bool:
            lines = cluster.all_logs().splitlines()
            return any(all(word in line for word in (f"trace={trace}", *words)) for line in lines)

        wait_until(lambda: logged("agent.worker", "download"))
        wait_until(lambda: logged("controller."))
        assert {rule["health"] for rule in prometheus.rules()} <= {"ok", "unknown"}
    finally:
        prometheus.close()
    host, _, port = agent.partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as probe:
        probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b" 200 " in probe.recv(4096)
