"""Events for people: what `kubectl describe` shows under an object.

Written as core/v1 Events, which every kubectl shows (an events.k8s.io/v1 object is the same thing in storage, but only its
core/v1 form has the count that describe prints as `x5 over 10m`). RBAC: `create` and `patch` on `events` in the core group.

Saying something never fails and never waits: it goes into a bounded queue, one task sends it, and what the API server
does not want, or does not take for too long, is logged and dropped. Repetitions are counted instead of written again,
see correlator.py. Whatever matters beyond a person's attention belongs into a status.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec

from modelcache.kube.backoff import full_jitter
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock, LoopClock
from modelcache.kube.correlator import Correlator, Occurrence, Record
from modelcache.kube.errors import (
    AlreadyExists,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from modelcache.kube.objects import ObjectReference
from modelcache.kube.resources import EVENTS

_log = logging.getLogger(__name__)

CAPACITY = 1000
"""Occurrences that wait to be sent; client-go's broadcaster queue."""
MAX_TRIES = 12
"""Attempts for one event, as in client-go. With the waits between them about a minute."""
FLUSH_SECONDS = 5.0
"""How long closing may take to send what is left."""
CLUSTER_NAMESPACE = "default"
"""Where Events about cluster-scoped objects live; the API server accepts no other for them."""


@dataclass(frozen=True, slots=True)
class _Queued:
    occurrence: Occurrence
    at: float


class EventRecorder:
    """Records under the name of `component`. Use as `async with EventRecorder(client, "modelcache-agent") as events`.

    `instance` tells several processes of one component apart (a node or pod name).
    """

    def __init__(
        self,
        client: KubeClient,
        component: str,
        *,
        instance: str = "",
        correlator: Correlator | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        wall: Callable[[], float] = time.time,
        capacity: int = CAPACITY,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance or component
        self._correlator = correlator or Correlator()
        self._clock = clock or LoopClock()
        self._rng = rng or Random()  # noqa: S311  # jitter, not cryptography
        self._wall = wall
        self._capacity = capacity
        self._flush_seconds = flush_seconds
        self._queue: deque[_Queued] = deque()
        self._arrived = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._sender: asyncio.Task[None] | None = None
        self.dropped = 0
        """Occurrences given up: the queue was full, or the server refused the event."""

    async def __aenter__(self) -> Self:
        self._sender = asyncio.create_task(self._send_for_ever(), name=f"events of {self._component}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sender is not None
        try:
            async with asyncio.timeout(self._flush_seconds):
                await self._emptied.wait()
        except TimeoutError:
            _log.warning("closing without having sent %d event(s)", len(self._queue))
        finally:
            self._sender.cancel()
            await asyncio.wait({self._sender})

    @property
    def depth(self) -> int:
        """Occurrences that are not sent yet."""
        return len(self._queue)

    def normal(
        self, regarding: ObjectReference, reason: str, message: str, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Something went as it should. `reason` is one UpperCamelCase word, `message` a sentence (cut at 1024 bytes)."""
        self._record(Occurrence(regarding, "Normal", reason, message, annotations or {}))

    def warning(
        self, regarding: ObjectReference, reason: str, message: str, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Something needs attention. As `normal`."""
        self._record(Occurrence(regarding, "Warning", reason, message, annotations or {}))

    def _record(self, occurrence: Occurrence) -> None:
        if len(self._queue) >= self._capacity:
            self._drop(occurrence, "too many events are waiting for the API server")
            return
        self._queue.append(_Queued(occurrence, self._wall()))
        self._emptied.clear()
        self._arrived.set()

    def _drop(self, occurrence: Occurrence, why: object) -> None:
        self.dropped += 1
        _log.warning(
            "event %s about %s %s/%s dropped: %s",
            occurrence.reason,
            occurrence.regarding.kind,
            occurrence.regarding.namespace,
            occurrence.regarding.name,
            why,
        )

    async def _send_for_ever(self) -> None:
        while True:
            while self._queue:
                queued = self._queue[0]
                try:
                    record = self._correlator.observe(queued.occurrence, queued.at)
                    if record is not None:
                        await self._send(record)
                except Exception as error:  # noqa: BLE001  # an event is never worth more than the sender
                    self._drop(queued.occurrence, error)
                self._queue.popleft()
            self._emptied.set()
            self._arrived.clear()
            await self._arrived.wait()

    async def _send(self, record: Record) -> None:
        """Create or update the Event; raises KubeError when that is hopeless."""
        for attempt in range(MAX_TRIES):
            try:
                if record.count > 1:
                    try:
                        await self._update(record)
                        return
                    except NotFound:
                        record = self._correlator.renamed(record, self._wall())
                await self._create(record)
                return
            except AlreadyExists:
                return  # created by an attempt whose answer was lost
            except (Unreachable, ServerError, TooManyRequests, Unauthorized) as error:
                if attempt + 1 == MAX_TRIES:
                    raise
                delay = full_jitter(attempt, base=1.0, cap=10.0, rng=self._rng)
                await self._clock.sleep(max(delay, error.retry_after or 0.0))

    async def _create(self, record: Record) -> None:
        regarding = msgspec.to_builtins(record.occurrence.regarding)
        namespace = _namespace(record)
        metadata: dict[str, Any] = {"name": record.name, "namespace": namespace}
        if record.occurrence.annotations:
            metadata["annotations"] = dict(record.occurrence.annotations)
        body: dict[str, Any] = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": metadata,
            "involvedObject": {field: value for field, value in regarding.items() if value},
            "type": record.occurrence.type,
            "reason": record.occurrence.reason,
            "message": record.occurrence.message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": _time(record.first),
            "lastTimestamp": _time(record.last),
            "count": record.count,
        }
        await self._client.create(EVENTS, body, namespace, name=record.name)

    async def _update(self, record: Record) -> None:
        changes = {
            "count": record.count,
            "lastTimestamp": _time(record.last),
            "message": record.occurrence.message,
        }
        await self._client.merge_patch(EVENTS, record.name, changes, _namespace(record))


def _namespace(record: Record) -> str:
    return record.occurrence.regarding.namespace or CLUSTER_NAMESPACE


def _time(seconds: float) -> str:
    """`metav1.Time`: RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
