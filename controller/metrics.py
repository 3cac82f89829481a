"""What the controller tells Prometheus: counters that its parts feed, and gauges that are read when asked.

The gauges come from `ControllerState`, taken at the moment of the scrape, and only from the process that leads: the others
know nothing, and a sum over all replicas must not count a model twice. Models have labels here, nodes do not (see
`modelcache.metrics` for why).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from modelcache.api.status import Status
from modelcache.kube.resources import ObjectKey
from modelcache.metrics import HOURS, MOMENTS, Bounded

K = TypeVar("K", bound=Hashable)

NODE_STATES = ("wanted", "ready", "downloading", "failed")


@dataclass(frozen=True, kw_only=True)
class ControllerState:
    """How things are at this moment, in the eyes of the one that leads.

    `lag` is for how many seconds the slowest agent has not confirmed what it was told; `queues` is the number of keys that
    could be worked on now, by the name of the queue.
    """

    agents: int = 0
    lag: float = 0.0
    queues: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[ObjectKey, Status] = field(default_factory=dict)


class ControllerMetrics:
    """The metrics of one controller process. `state` is None while it does not lead."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"modelcache_{name}", text, labels, registry=registry)

        self.state: Callable[[], ControllerState] | None = None
        """Set for the time of a term."""
        self._reason, self._scheme = Bounded(48), Bounded(16)
        self._reconciles = Histogram(
            "modelcache_reconcile_duration_seconds", "One look at one object, by queue and result.", ["queue", "result"],
            buckets=MOMENTS, registry=registry,
        )  # fmt: skip
        self._resolves = Histogram(
            "modelcache_resolve_duration_seconds", "Asking a source for its files, by scheme and result.",
            ["scheme", "result"], buckets=(*MOMENTS, 60.0, 300.0), registry=registry,
        )  # fmt: skip
        self._commands = counter(
            "commands_total", "Commands of administrators, by command and the gRPC code that they ended with.",
            "command", "code",
        )  # fmt: skip
        self._resolve_failures = counter("resolve_failures_total", "Sources that did not answer, by reason.", "reason")
        self._lags = Histogram(
            "modelcache_stream_acknowledgement_seconds",
            "Time from sending a desired state until the agent reports to have taken it over.",
            buckets=MOMENTS, registry=registry,
        )  # fmt: skip
        self._completions = Histogram(
            "modelcache_model_time_to_ready_seconds",
            "Time from the first node that began until all wanted nodes had a revision.",
            buckets=HOURS, registry=registry,
        )  # fmt: skip
        self._withdrawn = counter("labels_withdrawn_total", "Node labels withdrawn because the agent was gone.")
        self._refused = counter(
            "agent_refusals_total", "Agents and requests of agents that were refused, by reason.", "reason"
        )
        self._silent = counter(
            "silent_connections_total",
            "Connections that were refused in the handshake, or said nothing, by port.",
            "port",
        )
        self._certificates = counter("certificates_total", "Certificates that agents asked for, by result.", "result")
        self._terms = counter("leader_terms_total", "How often this process became the leader.")
        self._authority = Gauge(
            "modelcache_authority_expiry_timestamp_seconds", "End of the certificate authority; 0 until it is known.",
            registry=registry,
        )  # fmt: skip
        for result in ("issued", "refused"):
            self._certificates.labels(result)
        for port in ("agents", "enrolment"):
            self._silent.labels(port)
        registry.register(_StateCollector(self))

    def timed(
        self, queue: str, handler: Callable[[K], Awaitable[float | None]]
    ) -> Callable[[K], Awaitable[float | None]]:
        """`handler` of a work queue, with each call measured. `queue` is the name of the queue."""
        good, bad = self._reconciles.labels(queue, "success"), self._reconciles.labels(queue, "error")

        async def measured(key: K) -> float | None:
            began = time.perf_counter()
            outcome = bad
            try:
                again = await handler(key)
                outcome = good
                return again
            finally:
                outcome.observe(time.perf_counter() - began)

        return measured

    def resolved(self, scheme: str, seconds: float, failure: str = "") -> None:
        """A source was asked; `failure` is the reason why it did not answer."""
        self._resolves.labels(self._scheme(scheme), "failure" if failure else "success").observe(seconds)
        if failure:
            self._resolve_failures.labels(self._reason(failure)).inc()

    def acknowledged(self, seconds: float) -> None:
        """An agent has taken over what it was told so long ago."""
        self._lags.observe(seconds)

    def completed(self, seconds: float) -> None:
        """All wanted nodes have a revision, so long after the first began."""
        self._completions.observe(seconds)

    def commanded(self, command: str, code: str) -> None:
        """An administrator's command has ended with a gRPC code."""
        self._commands.labels(command, code).inc()

    def withdrew(self, labels: int) -> None:
        """So many labels were taken off a node without an agent."""
        self._withdrawn.inc(labels)

    def refused(self, reason: str) -> None:
        """An agent, or a request of one, was refused; `reason` is a word, such as `unauthenticated`."""
        self._refused.labels(self._reason(reason)).inc()

    def silent(self, port: str, count: int) -> None:
        """So many connections to a port were refused in the handshake, or said nothing."""
        self._silent.labels(port).inc(count)

    def certificate_asked(self, refusal: str) -> None:
        """An agent asked for a certificate; `refusal` is why it got none, empty when it got one."""
        self._certificates.labels("refused" if refusal else "issued").inc()
        if refusal:
            self.refused(refusal)

    def authority_expires(self, at: float) -> None:
        """The certificate authority ends at this time, in Unix seconds."""
        self._authority.set(at)

    def term_began(self) -> None:
        """This process leads from now on."""
        self._terms.inc()


class _StateCollector(Collector):
    """Gauges from `ControllerState`."""

    def __init__(self, metrics: ControllerMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[GaugeMetricFamily]:
        """The same families without asking for the state: for the registry's check of names."""
        return list(_families(ControllerState()))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One look at the state."""
        state = self._metrics.state
        if state is None:
            yield _leader(0)
        else:
            yield from _families(state())


def _leader(value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily("modelcache_leader", "1 for the process that leads, 0 for the others.", value=value)


def _families(state: ControllerState) -> Iterator[GaugeMetricFamily]:
    yield _leader(1)
    yield GaugeMetricFamily("modelcache_connected_agents", "Agents with a stream.", value=state.agents)
    yield GaugeMetricFamily(
        "modelcache_stream_lag_seconds",
        "For how long the slowest connected agent has not confirmed what it was told; 0 when all have.",
        value=state.lag,
    )
    depth = GaugeMetricFamily("modelcache_queue_depth", "Objects that wait for a look, by queue.", labels=["queue"])
    for queue, count in state.queues.items():
        depth.add_metric([queue], count)
    yield depth
    label = ["model_namespace", "model"]
    nodes = GaugeMetricFamily("modelcache_model_nodes", "Nodes of each model by state.", labels=[*label, "state"])
    phases = GaugeMetricFamily(
        "modelcache_model_phase", "1 for the phase that a model is in.", labels=[*label, "phase"]
    )
    sizes = GaugeMetricFamily("modelcache_model_size_bytes", "Size of the resolved revision of a model.", labels=label)
    for key, status in state.models.items():
        name = [key.namespace, key.name]
        counts = status.nodes
        if counts is not None:
            for each, value in zip(
                NODE_STATES, (counts.wanted, counts.ready, counts.downloading, counts.failed), strict=True
            ):
                nodes.add_metric([*name, each], value)
        if status.phase is not None:
            phases.add_metric([*name, status.phase], 1)
        if status.model_size_bytes is not None:
            sizes.add_metric(name, status.model_size_bytes)
    yield nodes
    yield phases
    yield sizes
