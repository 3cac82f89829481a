"""Says to an API server what the kubelets of the workers' nodes would say, and hears when a Pod is deleted.

One task for each pod brings the server up to date with the container, and tries again for as long as the server is away. A
Pod that somebody deletes takes its container with it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from local.workers import pods
from local.workers.container import Container
from modelcache.kube.backoff import Backoff
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import AlreadyExists, KubeError, NotFound
from modelcache.kube.informer import Informer
from modelcache.kube.objects import ObjectMeta, PartialObject
from modelcache.kube.resources import PODS

_log = logging.getLogger(__name__)

FIELD_MANAGER = "modelcache-workers"


@dataclass
class _Kept:
    """A Pod that is kept up to date."""

    uid: str
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Kubelet:
    """The Pods of one process's workers. Run `run()` in a task; it ends only by cancellation.

    `deleted` is called with the name of a Pod that somebody else has deleted.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        *,
        deleted: Callable[[str], None],
        annotate_engine: bool = False,
    ) -> None:
        self._client = client
        self._annotate = annotate_engine
        self._on_deleted = deleted
        self._backoff = Backoff(Random(), base=0.2, cap=5.0)  # noqa: S311  # jitter, not cryptography
        self._kept: dict[str, _Kept] = {}
        self._informer: Informer[PartialObject] = Informer(
            client, PODS, PartialObject, namespace=namespace, label_selector=f"{pods.MANAGED_BY}={pods.MANAGER}"
        )
        self._informer.on_change(self._seen)

    async def run(self) -> None:
        """Follow the Pods until cancelled."""
        await self._informer.run()

    def changed(self, name: str) -> None:
        """The container of a pod differs."""
        if name in self._kept:
            self._kept[name].changed.set()

    async def register(self, container: Container) -> None:
        """Create the Pod, instead of one that is left of an earlier life, and keep its status. Raises KubeError."""
        spec = container.spec
        kept = _Kept((await self._create(container)).uid)
        kept.changed.set()
        kept.task = asyncio.create_task(self._keep(kept, container), name=f"status of {spec.name}")
        self._kept[spec.name] = kept

    async def unregister(self, container: Container) -> None:
        """Delete the Pod. Raises KubeError."""
        await self.abandon(container.spec.name)
        await self._remove(container.spec.name, container.spec.namespace)

    async def abandon(self, name: str) -> None:
        """Say nothing more about a Pod; it stays as it is."""
        kept = self._kept.pop(name, None)
        if kept is not None and kept.task is not None:
            kept.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await kept.task

    async def _create(self, container: Container) -> ObjectMeta:
        spec = container.spec
        body = pods.pod(spec, annotate_engine=self._annotate)
        while True:
            try:
                return await self._client.create(
                    PODS, body, spec.namespace, name=spec.name, field_manager=FIELD_MANAGER
                )
            except AlreadyExists:
                await self._remove(spec.name, spec.namespace)

    def _seen(self, old: PartialObject | None, new: PartialObject | None) -> None:
        subject = new or old
        if subject is None or (new is not None and new.metadata.deletion_timestamp is None):
            return
        kept = self._kept.get(subject.metadata.name)
        if kept is not None and kept.uid == subject.metadata.uid:
            self._on_deleted(subject.metadata.name)

    async def _keep(self, kept: _Kept, container: Container) -> None:
        spec = container.spec
        while True:
            await kept.changed.wait()
            kept.changed.clear()
            body = {"metadata": {"uid": kept.uid}, **pods.status(spec, container.state, time.time())}
            try:
                await self._client.merge_patch(
                    PODS, spec.name, body, spec.namespace, subresource="status", field_manager=FIELD_MANAGER
                )
            except NotFound:
                self._on_deleted(spec.name)
                return
            except KubeError as error:
                _log.warning("the status of pod %s/%s could not be written: %s", spec.namespace, spec.name, error)
                kept.changed.set()
                await asyncio.sleep(self._backoff.fail(time.monotonic()))

    async def _remove(self, name: str, namespace: str) -> None:
        """As the kubelet does it when the containers have ended: at once."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        with contextlib.suppress(NotFound):
            await self._client.request("DELETE", PODS.path(name, namespace), body=options, subject=f"pod {name}")
