"""Writing the status: only when it changed, never over somebody else's change, progress at a walking pace.

A write carries the resourceVersion of the object it was computed from, so a stale computation is refused by the API server
and done again. An object that still shows the version that our own last write was based on is known to be stale and is
not even tried: the informer will bring the newer one in a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from controller.endpoint_events import endpoint_events
from controller.events import Note, events
from controller.status import progress_only
from controller.tracked import Tracked
from modelcache.api.base import API_VERSION, KIND
from modelcache.api.model import DynamoModel
from modelcache.api.status import Status
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.events import EventRecorder
from modelcache.kube.objects import ObjectReference
from modelcache.kube.resources import DYNAMO_MODELS
from modelcache.logs import TRACE_ANNOTATION, trace_of

_log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 5.0
"""Seconds between two writes of one status that differ in progress alone."""


class StatusWriter:
    """Writes statuses and sends the events that go with their changes."""

    def __init__(
        self,
        client: KubeClient,
        recorder: EventRecorder,
        clock: Clock,
        on_completed: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`on_completed` is told how many seconds a model took until all wanted nodes had it for the first time."""
        self._on_completed = on_completed
        self._client = client
        self._recorder = recorder
        self._clock = clock

    def is_stale(self, model: DynamoModel, tracked: Tracked) -> bool:
        """Whether our own last write is newer than `model`."""
        return tracked.written_from == model.metadata.resource_version

    async def write(self, model: DynamoModel, tracked: Tracked, old: Status, new: Status) -> float | None:
        """Write `new` if it differs from `old`, the status in `model`. Raises KubeError, Conflict among them.

        Returns the seconds after which to come back because a write was put off, None when the status is up to date.
        """
        if new == old:
            return None
        now = self._clock.now()
        if progress_only(old, new):
            due = (tracked.progress_at or now - PROGRESS_INTERVAL) + PROGRESS_INTERVAL
            if now < due:
                return due - now
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": model.metadata.name,
                "namespace": model.metadata.namespace,
                "resourceVersion": model.metadata.resource_version,
                "uid": model.metadata.uid,
            },
            "spec": model.spec,
            "status": new,
        }
        stored = await self._client.replace(
            DYNAMO_MODELS, model.metadata.name, body, model.metadata.namespace, subresource="status"
        )
        self.wrote(model, tracked, stored.resource_version)
        tracked.progress_at = now
        if not progress_only(old, new):
            counts = (new.ready_endpoints, new.total_endpoints)
            _log.info("%s: Successfully reconciled DynamoModel: %d of %d endpoints ready", model.key, *counts)
        seconds = completed_in(old, new)
        if seconds is not None:
            self._on_completed(seconds)
        for note in [*events(old, new), *endpoint_events(old, new, model.spec)]:
            self.event(model, note)
        return None

    def wrote(self, model: DynamoModel, tracked: Tracked, version: str) -> None:
        """Remember that the object at hand is now older than the stored one."""
        if version != model.metadata.resource_version:
            tracked.written_from = model.metadata.resource_version

    def event(self, model: DynamoModel, note: Note) -> None:
        """Send one event. Never fails and never waits."""
        _log.info("%s: %s: %s", model.key, note.reason, note.message)
        about = ObjectReference(API_VERSION, KIND, model.metadata.name, model.metadata.namespace, model.metadata.uid)
        send = self._recorder.normal if note.type == "Normal" else self._recorder.warning
        trace = trace_of(model.metadata.uid, model.metadata.generation)
        send(about, note.reason, note.message, {TRACE_ANNOTATION: trace})


def completed_in(old: Status, new: Status) -> float | None:
    """The seconds from the first node that began to the last one that had it; None when `new` does not bring that news."""
    begun, complete = new.download_start_time, new.download_complete_time
    if begun is None or complete is None or complete == old.download_complete_time:
        return None
    return max(0.0, (datetime.fromisoformat(complete) - datetime.fromisoformat(begun)).total_seconds())
