"""Removing a model from all nodes: because the DynamoModel is being deleted, or because its source was taken away.

The agents are told by leaving the model out of what they should hold. Each removes its node's labels, then the files, and
then stops reporting the model. The finalizer goes when every connected agent has acknowledged a desired state without the
model *and* reports nothing of it: the report alone could be older than the order.

A node that does not exist any more, or whose agent is gone for longer than the agent timeout, is not waited for: a dead
machine must not keep a DynamoModel from being deleted. Its labels are withdrawn here, and when its agent comes back it is
told not to hold the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.nodes import LabelWithdrawal, Node, labelled_for
from controller.placement import Presence
from controller.registry import Registry
from controller.resolution import Resolution
from controller.tracked import Memory, Tracked
from controller.workers import Worker
from modelcache.api.labels import FINALIZER
from modelcache.api.model import DynamoModel
from modelcache.api.status import Status
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import NotFound
from modelcache.kube.informer import Informer
from modelcache.kube.objects import ObjectMeta
from modelcache.kube.resources import DYNAMO_MODELS


class Removal:
    """Takes models off the nodes, and keeps the finalizer while that goes on."""

    def __init__(
        self,
        client: KubeClient,
        nodes: Informer[Node],
        registry: Registry,
        memory: Memory,
        resolution: Resolution,
        labels: LabelWithdrawal,
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._registry = registry
        self._memory = memory
        self._resolution = resolution
        self._labels = labels

    async def step(self, tracked: Tracked, previous: Status) -> tuple[str, ...]:
        """Tell the agents; the nodes that are not done yet, sorted. Raises KubeError.

        When nobody is left to wait for, no node has a label of the model.
        """
        self._resolution.forget(tracked.uid)
        tracked.forget_request("")
        tracked.order, tracked.removing = None, True
        self._memory.assign(tracked, ())
        for session in self._registry.sessions():
            if tracked.key in session.listed:
                session.wake.set()
        labelled = labelled_for(self._nodes, tracked.key)
        waiting = self._waiting(tracked, previous, labelled)
        for node in labelled:
            if node not in waiting:
                await self._labels.withdraw_model(node, tracked.key)
        return tuple(sorted(waiting))

    def out_of_reach(self, workers: Iterable[Worker], previous: Status) -> list[str]:
        """Names of the pods that keep an adapter because there is no agent any more to take it out of them."""
        assigned = frozenset(previous.assigned_nodes)
        return [
            worker.name
            for worker in workers
            if not worker.ending and worker.node in assigned and self._registry.presence(worker.node) is Presence.GONE
        ]

    def _waiting(self, tracked: Tracked, previous: Status, labelled: list[str]) -> set[str]:
        existing = {node.name for node in self._nodes.values()}
        waiting = set(self._registry.waiting_for(tracked.key, existing))
        # After a restart of this controller: agents that have not come back yet, but may.
        involved = existing & {*previous.assigned_nodes, *previous.ready_nodes, *labelled}
        return waiting | {node for node in involved if self._registry.presence(node) is Presence.AWAITED}

    async def add_finalizer(self, model: DynamoModel) -> ObjectMeta:
        """Keep the DynamoModel until its files are gone. Raises KubeError."""
        return await self._set_finalizers(model, [*(model.metadata.finalizers or ()), FINALIZER])

    async def remove_finalizer(self, model: DynamoModel) -> ObjectMeta | None:
        """Let the DynamoModel go; None when it is gone already. Raises KubeError."""
        try:
            return await self._set_finalizers(
                model, [name for name in model.metadata.finalizers or () if name != FINALIZER]
            )
        except NotFound:
            return None

    async def _set_finalizers(self, model: DynamoModel, finalizers: list[str]) -> ObjectMeta:
        meta = model.metadata
        # With the resourceVersion: the list is replaced as a whole, and others keep finalizers in it too.
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": meta.resource_version, "uid": meta.uid}}
        return await self._client.merge_patch(DYNAMO_MODELS, meta.name, patch, meta.namespace)
