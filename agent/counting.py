"""What one download adds to the metrics: read from its progress, so that the transfer engine knows nothing of metrics."""

from __future__ import annotations

from agent.metrics import AgentMetrics
from agent.transfer.progress import Progress
from modelcache.kube.clock import Clock


class DownloadCount:
    """Look at the progress now and then, and say when the download has ended by itself."""

    def __init__(self, metrics: AgentMetrics, source: str, clock: Clock) -> None:
        """`source` is the URI in the manifest."""
        self._metrics = metrics
        self._scheme = source.partition(":")[0]
        self._clock = clock
        self._began = clock.now()
        self._counted = (0, 0)
        """Bytes from the origin and from peers."""
        self._complete_at: float | None = None
        self._waits_until = 0.0
        self._dropped = 0

    def look(self, progress: Progress | None, dropped: int) -> None:
        """Count what has come since the last look; `dropped` peers have sent wrong content so far."""
        self._metrics.dropped_peers(dropped - self._dropped)
        self._dropped = dropped
        if progress is None:
            return
        now = (progress.fetched_bytes - progress.peer_bytes, progress.peer_bytes)
        self._metrics.fetched(now[0] - self._counted[0], now[1] - self._counted[1], self._scheme)
        self._counted = (max(now[0], self._counted[0]), max(now[1], self._counted[1]))
        if progress.received_bytes < progress.total_bytes:
            # Also when pieces turn out to be bad after all had come.
            self._complete_at = None
        elif self._complete_at is None:
            self._complete_at = self._clock.now()
        waiting = progress.waiting
        if waiting is not None and waiting.until != self._waits_until:
            # The engine tries again by itself, and nobody else would hear of it.
            self._waits_until = waiting.until
            self._metrics.failed(waiting.reason, permanent=False)

    def end(self, progress: Progress | None, dropped: int, *, success: bool) -> None:
        """The download has succeeded or failed. (One that was called off is neither.)"""
        self.look(progress, dropped)
        now = self._clock.now()
        self._metrics.downloaded(now - self._began, success=success)
        if success and self._complete_at is not None:
            self._metrics.verified(now - self._complete_at, "download")
