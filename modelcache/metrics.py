"""What the metrics of both daemons have in common: the registry, buckets, bounded labels, requests to the API server.

Conventions (https://prometheus.io/docs/practices/naming/): prefix `modelcache_`, base units in the name, `_total` for
counters. There is no global registry: whoever starts a process makes one and passes it on, so that two daemons in one test
do not count for each other.

**Cardinality.** A cluster may have 1,000 nodes and 200 models, and 200,000 series for one metric is what takes a
Prometheus down. So no metric of an agent has a label for the model, and no metric of the controller one for the node; what
is asked about one model on one node is in the status of the DynamoModel and in the log. Values of the remaining labels come
from this program (reasons, phases, verbs), never from a request; where they come through a third party, `Bounded` ends the
list.
"""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from modelcache.kube.session import Call

MOMENTS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: buckets of what should be over in a moment (a reconcile, a request)."""
HOURS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0)
"""Seconds: buckets of what takes as long as a model is large. 700 GB at 100 MB/s are two hours."""
OTHER = "other"
"""Stands for all values of a label beyond its bound."""


class Bounded:
    """Lets the first `limit` different values of a label through; every later one becomes `other`. From any thread."""

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        """`value`, or `other`."""
        with self._lock:
            if value in self._seen:
                return value
            if len(self._seen) >= self._limit:
                return OTHER
            self._seen.add(value)
            return value


def new_registry(component: str, version: str) -> CollectorRegistry:
    """A registry with what every process tells: its version, memory, CPU time and open files."""
    # The library's only switch for it is one for the whole process. `_created` doubles the series and tells nothing.
    disable_created_metrics()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    info = Gauge(
        "modelcache_build_info", "Always 1; the labels say what runs.", ["component", "version"], registry=registry
    )
    info.labels(component, version).set(1)
    return registry


class ApiRequests:
    """Requests to the Kubernetes API, by verb, resource and answer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "modelcache_api_requests_total",
            "Requests to the Kubernetes API by verb, resource and HTTP status; `unreachable` when there was no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "modelcache_api_request_duration_seconds",
            "Time until the Kubernetes API began to answer.",
            ["verb"],
            buckets=MOMENTS,
            registry=registry,
        )
        self._verb, self._resource, self._code = Bounded(16), Bounded(), Bounded()

    def observe(self, call: Call, code: str, seconds: float) -> None:
        """Count one request; an `Observe`."""
        verb = self._verb(call.verb)
        self._count.labels(verb, self._resource(resource_of(call.path)), self._code(code)).inc()
        self._seconds.labels(verb).observe(seconds)


def resource_of(path: str) -> str:
    """`nodes`, `dynamomodels/status`: the resource that a path of the API is about, without any name of an object."""
    parts = path.strip("/").split("/")
    # api/v1/..., apis/<group>/<version>/...
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    if not rest:
        return "discovery"
    return f"{rest[0]}/{rest[2]}" if len(rest) > 2 else rest[0]
