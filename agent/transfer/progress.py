"""What a download tells while it runs: counters and what it waits for. Rates and ETAs are computed by whoever shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from agent.transfer.clock import Clock

INTERVAL_SECONDS = 0.25
"""The callback is not called more often than this while bytes flow."""


class Waiting(NamedTuple):
    """Nothing is being read: why, and when it goes on. `reason` is that of the SourceError; `until` is in Unix seconds."""

    reason: str
    message: str
    until: float


class Progress(NamedTuple):
    """Bytes and files of one model. All but `fetched_bytes` count what was there before the download as well.

    `received_bytes` are on this node (also pieces of an earlier run and blobs of other models), `verified_bytes` were read
    for their digest, `fetched_bytes` came over the network during this call (more than the model when something was fetched
    twice), `peer_bytes` of them from other agents. `received_bytes` may go down when pieces turn out to be bad.
    """

    total_bytes: int
    received_bytes: int
    verified_bytes: int
    fetched_bytes: int
    total_files: int
    done_files: int
    waiting: Waiting | None
    peer_bytes: int = 0


class Meter:
    """Collects the progress of one download from its threads, and tells about it."""

    def __init__(
        self, total_bytes: int, total_files: int, clock: Clock, callback: Callable[[Progress], None] | None
    ) -> None:
        self._clock = clock
        self._callback = callback
        # Reentrant: a callback may ask for the progress again.
        self._lock = threading.RLock()
        self._total_bytes, self._total_files = total_bytes, total_files
        self._received_bytes = self._verified_bytes = self._fetched_bytes = self._done_files = 0
        self._waiting: Waiting | None = None
        self._told_at = clock.monotonic()
        self._busy = 0
        self._waits: dict[object, Waiting] = {}

    def received(self, count: int, *, fetched: bool = True) -> None:
        """Bytes arrived; negative: bytes were thrown away."""
        with self._lock:
            self._received_bytes += count
            if fetched and count > 0:
                self._fetched_bytes += count
            self._tell(now=False)

    def compared(self, count: int) -> None:
        """Bytes arrived only to be compared with what is here."""
        with self._lock:
            self._fetched_bytes += count
            self._tell(now=False)

    def verified(self, count: int) -> None:
        """Bytes were read for their digest; negative: they have to be read again."""
        with self._lock:
            self._verified_bytes += count
            self._tell(now=False)

    def done(self) -> None:
        """A file is a verified blob."""
        with self._lock:
            self._done_files += 1
            self._tell(now=self._done_files == self._total_files)

    def working(self, change: int) -> None:
        """A worker began (+1) or ended (-1) work on a piece."""
        with self._lock:
            self._busy += change
            self._show_waiting()

    def waits(self, worker: object, waiting: Waiting | None) -> None:
        """A worker waits for the time of its next try, or does not any more."""
        with self._lock:
            if waiting is None:
                self._waits.pop(worker, None)
            else:
                self._waits[worker] = waiting
            self._show_waiting()

    def progress(self) -> Progress:
        """How things are."""
        with self._lock:
            return Progress(
                self._total_bytes,
                self._received_bytes,
                self._verified_bytes,
                self._fetched_bytes,
                self._total_files,
                self._done_files,
                self._waiting,
            )

    def _show_waiting(self) -> None:
        # As long as one worker gets bytes, the download is not waiting.
        stuck = bool(self._waits) and len(self._waits) >= self._busy
        waiting = min(self._waits.values(), key=lambda wait: wait.until) if stuck else None
        if waiting != self._waiting:
            self._waiting = waiting
            self._tell(now=True)

    def _tell(self, *, now: bool) -> None:
        moment = self._clock.monotonic()
        if self._callback is not None and (now or moment - self._told_at >= INTERVAL_SECONDS):
            self._told_at = moment
            self._callback(self.progress())
