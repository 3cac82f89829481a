"""The metrics of an agent: what is counted, and that it does not grow with the number of models."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.counting import DownloadCount
from agent.metrics import AgentMetrics, AgentState
from agent.transfer.progress import Progress, Waiting
from modelcache.metrics import ApiRequests, new_registry
from tests.support.fake_clock import FakeClock


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"modelcache_{name}", labels)


def progress(received: int, *, fetched: int | None = None, waiting: Waiting | None = None) -> Progress:
    return Progress(100, received, received, received if fetched is None else fetched, 1, 0, waiting)


def test_gauges_show_the_state_of_the_moment() -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    states = [AgentState(cached_bytes=1), AgentState(cached_bytes=2, limit_bytes=5, models={"ready": 3})]
    metrics.state = lambda: states[0]
    assert value(registry, "cache_bytes") == 1
    assert value(registry, "cache_limit_bytes") is None
    states.pop(0)
    assert value(registry, "cache_bytes") == 2
    assert value(registry, "cache_limit_bytes") == 5
    assert value(registry, "models", phase="ready") == 3
    assert value(registry, "models", phase="failed") == 0


def test_a_download_is_counted_as_it_goes_on() -> None:
    registry, clock = CollectorRegistry(), FakeClock()
    count = DownloadCount(AgentMetrics(registry), "hf://org/name", clock)
    count.look(None, 0)
    count.look(progress(40, fetched=30), 0)
    count.look(progress(40, fetched=30), 0)
    assert value(registry, "fetched_bytes_total", via="origin", scheme="hf") == 30
    clock.advance(7)
    count.look(progress(100, fetched=90), 0)
    clock.advance(3)
    count.end(progress(100, fetched=90), 0, success=True)
    assert value(registry, "fetched_bytes_total", via="origin", scheme="hf") == 90
    assert value(registry, "download_duration_seconds_sum", result="success") == 10
    assert value(registry, "verify_duration_seconds_sum", occasion="download") == 3


def test_every_peer_that_is_dropped_counts_once() -> None:
    registry, clock = CollectorRegistry(), FakeClock()
    count = DownloadCount(AgentMetrics(registry), "hf://org/name", clock)
    assert value(registry, "peers_dropped_total") == 0
    for dropped in (1, 1, 2):
        count.look(progress(10), dropped)
    count.end(progress(100), 2, success=True)
    assert value(registry, "peers_dropped_total") == 2


def test_every_wait_of_a_download_counts_once() -> None:
    registry, clock = CollectorRegistry(), FakeClock()
    count = DownloadCount(AgentMetrics(registry), "s3://bucket", clock)
    for until in (5.0, 5.0, 9.0):
        count.look(progress(10, waiting=Waiting("Unreachable", "no answer", until)), 0)
    assert value(registry, "retries_total", reason="Unreachable") == 2
    assert value(registry, "errors_total", reason="Unreachable") is None


def test_bad_pieces_begin_the_check_anew() -> None:
    registry, clock = CollectorRegistry(), FakeClock()
    count = DownloadCount(AgentMetrics(registry), "hf://org/name", clock)
    count.look(progress(100), 0)
    clock.advance(50)
    count.look(progress(84), 0)
    clock.advance(5)
    count.look(progress(100), 0)
    clock.advance(2)
    count.end(progress(100), 0, success=True)
    assert value(registry, "verify_duration_seconds_sum", occasion="download") == 2


def test_the_number_of_series_is_bounded() -> None:
    registry = new_registry("agent", "1")
    metrics, requests = AgentMetrics(registry), ApiRequests(registry)
    metrics.state = lambda: AgentState(models={"ready": 200}, revisions={"sound": 400}, limit_bytes=1, in_use=3)

    def series() -> int:
        families = text_string_to_metric_families(generate_latest(registry).decode())
        return sum(len(family.samples) for family in families)

    for number in range(1000):
        metrics.failed(f"Reason{number}", permanent=number % 2 == 0)
        metrics.fetched(1, 1, f"scheme{number}")
        metrics.wanted(hit=True)
        metrics.became_ready(number)
    once = series()
    for number in range(1000, 2000):
        metrics.failed(f"Reason{number}", permanent=number % 2 == 0)
        metrics.fetched(1, 1, f"scheme{number}")
    assert series() == once < 400
    assert requests is not None
