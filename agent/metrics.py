"""What an agent tells Prometheus: counters that the parts of the agent feed, and gauges that are read when asked.

Counters and histograms are methods here, named for what happened, so that whoever feeds them needs no word of Prometheus
and no other import. Gauges are a snapshot, `AgentState`, taken at the moment of the scrape: a gauge that had to be kept up
to date at every change would sooner or later be wrong.

Nothing has a label for the model (see `modelcache.metrics` for why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from modelcache.metrics import HOURS, Bounded

PHASES = ("pending", "downloading", "verified", "ready", "failed", "removing")
CONDITIONS = ("sound", "doubtful", "damaged")


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """How things are at this moment. Sizes are in bytes, times in Unix seconds; None: not known, or there is none.

    `limit_bytes` is what the cache may take, `reserved_bytes` what downloads under way have reserved and not yet written.
    `models` counts by phase (see PHASES), `revisions` published revisions by condition (see CONDITIONS), `in_use` those
    that a pod uses. `scrub_ratio` is how far the present round of reading everything again is, `scrubbed_at` when the last
    one was complete. `certificate_expires_at` is the end of the agent's certificate.
    """

    cached_bytes: int = 0
    limit_bytes: int | None = None
    filesystem_bytes: int = 0
    free_bytes: int = 0
    reserved_bytes: int = 0
    models: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)
    in_use: int | None = None
    connected: bool = False
    heard_at: float | None = None
    labels_stuck: bool = False
    downloads: int = 0
    downloads_waiting: int = 0
    scrub_ratio: float | None = None
    scrubbed_at: float | None = None
    adapters: int | None = None
    certificate_expires_at: float | None = None


class AgentMetrics:
    """The metrics of one agent. Methods may be called from any thread; `state` is called in the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"modelcache_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"modelcache_{name}", text, labels, buckets=HOURS, registry=registry)

        self.state: Callable[[], AgentState] = AgentState
        """Set by whoever puts the agent together."""
        self._reason, self._scheme = Bounded(48), Bounded(16)
        self._wanted = counter(
            "model_requests_total",
            "Revisions that the controller asked for, by whether they were on the node already (hit) or not (miss).",
            "result",
        )
        self._fetched = counter(
            "fetched_bytes_total",
            "Bytes received, by where from (origin, peer) and scheme of the source.",
            "via",
            "scheme",
        )
        self._served = counter("peer_served_bytes_total", "Bytes sent to other agents.")
        self._dropped = counter(
            "peers_dropped_total", "Agents that have sent wrong content, and are not asked for that model any more."
        )
        self._download = histogram(
            "download_duration_seconds",
            "Time from the first byte of a revision to the last one verified, by result.",
            "result",
        )
        self._verify = histogram(
            "verify_duration_seconds",
            "Time spent on reading and hashing a revision: the rest after its last byte came (download), again (scrub, mend).",
            "occasion",
        )
        self._ready = histogram(
            "time_to_ready_seconds", "Time from when a new revision was wanted until the node was labelled for it."
        )
        self._retries = counter(
            "retries_total", "Failures after which the agent tries again by itself, by reason.", "reason"
        )
        self._errors = counter("errors_total", "Failures that somebody has to do something about, by reason.", "reason")
        self._evictions = counter("evictions_total", "Revisions removed to make room, by cause.", "cause")
        self._evicted = counter("evicted_bytes_total", "Bytes freed by removing revisions to make room.")
        self._scrubbed = counter("scrubbed_bytes_total", "Published bytes that were read again and compared.")
        self._findings = counter(
            "scrub_findings_total", "Published files that were not as they were published, by kind.", "kind"
        )
        self._rebuilds = counter(
            "index_rebuilds_total",
            "Starts at which the index of the cache was lost or damaged, and built anew from the disk.",
        )
        self._repairs = counter("repairs_total", "Attempts to put published files right, by result.", "result")
        self._adapters = counter(
            "lora_operations_total", "Adapters loaded into and unloaded from workers, by operation and result.",
            "operation", "result",
        )  # fmt: skip
        # Known values exist from the start: a rate over a counter that appears with its first increment misses it.
        for result in ("hit", "miss"):
            self._wanted.labels(result)
        for result in ("success", "failure"):
            self._download.labels(result)
            self._repairs.labels(result)
            for operation in ("load", "unload"):
                self._adapters.labels(operation, result)
        registry.register(_StateCollector(self))

    def wanted(self, *, hit: bool) -> None:
        """A revision is wanted that was not wanted before; `hit`: it is published here already."""
        self._wanted.labels("hit" if hit else "miss").inc()

    def fetched(self, origin_bytes: int, peer_bytes: int, scheme: str) -> None:
        """So many more bytes have arrived for a model whose source has this scheme."""
        scheme = self._scheme(scheme)
        if origin_bytes > 0:
            self._fetched.labels("origin", scheme).inc(origin_bytes)
        if peer_bytes > 0:
            self._fetched.labels("peer", scheme).inc(peer_bytes)

    def served(self, count: int) -> None:
        """So many bytes went to another agent."""
        self._served.inc(count)

    def dropped_peers(self, count: int) -> None:
        """So many more agents have been caught sending wrong content."""
        self._dropped.inc(count)

    def downloaded(self, seconds: float, *, success: bool) -> None:
        """A download ended."""
        self._download.labels("success" if success else "failure").observe(seconds)

    def verified(self, seconds: float, occasion: str) -> None:
        """Content was hashed; `occasion` is `download`, `mend` or `scrub`."""
        self._verify.labels(occasion).observe(seconds)

    def became_ready(self, seconds: float) -> None:
        """The node is labelled for a new revision, so long after it was wanted."""
        self._ready.observe(seconds)

    def failed(self, reason: str, *, permanent: bool) -> None:
        """Something did not succeed; `reason` is that of a Problem, `permanent` as in `agent.failures.Failure`."""
        (self._errors if permanent else self._retries).labels(self._reason(reason)).inc()

    def evicted(self, count: int, cause: str) -> None:
        """A revision was removed to make room, which freed `count` bytes; `cause` is a word, such as `space`."""
        self._evictions.labels(cause).inc()
        self._evicted.inc(count)

    def scrubbed(self, count: int) -> None:
        """So many published bytes were read again."""
        self._scrubbed.inc(count)

    def found(self, kind: str) -> None:
        """A published file is not as it was published; `kind` is a word, such as `content` or `missing`."""
        self._findings.labels(kind).inc()

    def rebuilt(self) -> None:
        """The index of the cache was built anew from the disk."""
        self._rebuilds.inc()

    def repaired(self, *, success: bool) -> None:
        """Published files were to be put right."""
        self._repairs.labels("success" if success else "failure").inc()

    def adapter(self, operation: str, success: bool) -> None:
        """An adapter was to be loaded into a worker (`load`), or taken out of it (`unload`)."""
        self._adapters.labels(operation, "success" if success else "failure").inc()


class _StateCollector(Collector):
    """Gauges from `AgentState`."""

    def __init__(self, metrics: AgentMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[GaugeMetricFamily]:
        """The same families without asking for the state: for the registry's check of names."""
        return list(_families(AgentState(), everything=True))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One look at the state."""
        return _families(self._metrics.state())


def _families(state: AgentState, *, everything: bool = False) -> Iterator[GaugeMetricFamily]:
    plain: tuple[tuple[str, str, float | None], ...] = (
        ("cache_bytes", "Bytes of everything published; shared content counts once.", state.cached_bytes),
        ("cache_limit_bytes", "What the cache may take; absent when only the disk limits it.", state.limit_bytes),
        ("cache_reserved_bytes", "Reserved by downloads and not written yet.", state.reserved_bytes),
        ("cache_filesystem_bytes", "Size of the file system of the cache.", state.filesystem_bytes),
        ("cache_filesystem_free_bytes", "Free on the file system of the cache.", state.free_bytes),
        ("revisions_in_use", "Published revisions that a pod uses.", state.in_use),
        ("downloads_running", "Downloads that have a place.", state.downloads),
        ("downloads_waiting", "Downloads that wait for a place.", state.downloads_waiting),
        ("controller_connected", "1 while there is a stream to the controller.", float(state.connected)),
        ("controller_heard_timestamp_seconds", "When the last desired state came.", state.heard_at),
        (
            "node_labels_stuck",
            "1 while the labels of the node cannot be set as they should be.",
            float(state.labels_stuck),
        ),
        ("scrub_progress_ratio", "How much of the cache the present round has read again.", state.scrub_ratio),
        ("scrub_completed_timestamp_seconds", "When everything had last been read again.", state.scrubbed_at),
        ("lora_adapters_loaded", "Adapters in the workers of this node.", state.adapters),
        ("certificate_expiry_timestamp_seconds", "End of this agent's certificate.", state.certificate_expires_at),
    )
    for name, text, value in plain:
        if value is not None or everything:
            yield GaugeMetricFamily(f"modelcache_{name}", text, value=value or 0.0)
    models = GaugeMetricFamily("modelcache_models", "Models of this node by phase.", labels=["phase"])
    for phase in PHASES:
        models.add_metric([phase], state.models.get(phase, 0))
    yield models
    revisions = GaugeMetricFamily(
        "modelcache_revisions", "Published revisions by what is known about their files.", labels=["condition"]
    )
    for condition in CONDITIONS:
        revisions.add_metric([condition], state.revisions.get(condition, 0))
    yield revisions
