"""The metrics of the controller: the leader's alone, measured handlers, and their size in a large cluster."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from controller.metrics import ControllerMetrics, ControllerState
from controller.writer import completed_in
from modelcache.api.status import NodeCounts, Status
from modelcache.kube.resources import ObjectKey


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"modelcache_{name}", labels)


def status(ready: int = 3, **more: object) -> Status:
    nodes = NodeCounts(wanted=4, ready=ready, downloading=1, failed=0, summary=f"{ready}/4")
    return Status(ready_endpoints=0, total_endpoints=0, phase="Downloading", nodes=nodes, **more)  # type: ignore[arg-type]


def test_only_the_leader_tells_of_models() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    key = ObjectKey("team", "llama")
    assert value(registry, "leader") == 0
    assert value(registry, "connected_agents") is None
    metrics.state = lambda: ControllerState(agents=2, lag=1.5, queues={"models": 7}, models={key: status()})
    assert value(registry, "leader") == 1
    assert value(registry, "connected_agents") == 2
    assert value(registry, "stream_lag_seconds") == 1.5
    assert value(registry, "queue_depth", queue="models") == 7
    assert value(registry, "model_nodes", model_namespace="team", model="llama", state="ready") == 3
    assert value(registry, "model_phase", model_namespace="team", model="llama", phase="Downloading") == 1
    metrics.state = None
    assert value(registry, "model_nodes", model_namespace="team", model="llama", state="ready") is None


async def test_a_measured_handler_returns_and_raises_as_before() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)

    async def handler(key: str) -> float | None:
        if key == "bad":
            raise ValueError(key)
        return 5.0

    measured = metrics.timed("models", handler)
    assert await measured("good") == 5.0
    with pytest.raises(ValueError, match="bad"):
        await measured("bad")
    assert value(registry, "reconcile_duration_seconds_count", queue="models", result="success") == 1
    assert value(registry, "reconcile_duration_seconds_count", queue="models", result="error") == 1


def test_a_failed_answer_of_a_source_is_counted_by_reason() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    metrics.resolved("hf", 0.2)
    metrics.resolved("hf", 0.4, "Unauthorized")
    assert value(registry, "resolve_duration_seconds_count", scheme="hf", result="success") == 1
    assert value(registry, "resolve_failures_total", reason="Unauthorized") == 1


def test_completion_is_news_only_once() -> None:
    before = status(download_start_time="2026-11-22T10:00:00Z")
    after = status(download_start_time="2026-11-22T10:00:00Z", download_complete_time="2026-11-22T11:30:00Z")
    assert completed_in(before, after) == 5400
    assert completed_in(after, after) is None
    assert completed_in(status(), before) is None


def test_two_hundred_models_take_some_thousand_lines() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    models = {ObjectKey("team", f"model-{number}"): status(model_size_bytes=1) for number in range(200)}
    metrics.state = lambda: ControllerState(agents=1000, models=models)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert 200 * 6 <= len(lines) < 200 * 6 + 150
