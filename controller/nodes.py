"""Nodes of the cluster, and withdrawing the labels of those whose agent is gone.

An agent labels its own node. When it is gone for longer than the agent timeout nobody can say any more whether the files
are there, and new pods must not be sent to the node: then the controller takes our labels away. The agent sets them again
when it is back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from controller.placement import Presence
from controller.registry import Registry
from modelcache.api.labels import is_ours, ready_label, revision_label
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import NotFound
from modelcache.kube.informer import Informer
from modelcache.kube.resources import NODES, ObjectKey

_log = logging.getLogger(__name__)


class NodeMeta(msgspec.Struct, frozen=True):
    """The part of a Node's metadata that is read; nodes come by the thousand."""

    name: str
    labels: dict[str, str] | None = None


class Node(msgspec.Struct, frozen=True):
    """A Node."""

    metadata: NodeMeta

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.metadata.labels or {}


def relevant(old: Node | None, new: Node | None) -> bool:
    """Whether a change of a Node matters for placement: kubelets touch their Node often, its labels change rarely.

    Our own labels are left out: agents set them all the time, and no placement depends on them.
    """
    if old is None or new is None:
        return True
    return _foreign(old.labels) != _foreign(new.labels)


def _foreign(labels: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if not is_ours(key)}


def labelled_for(nodes: Informer[Node], key: ObjectKey) -> list[str]:
    """Names of the nodes that carry a label of this model."""
    ours = {ready_label(*key), revision_label(*key)}
    return [node.name for node in nodes.values() if not ours.isdisjoint(node.labels)]


class LabelWithdrawal:
    """Reconciles one Node: no agent for too long means none of our labels."""

    def __init__(
        self,
        client: KubeClient,
        nodes: Informer[Node],
        registry: Registry,
        on_withdrawn: Callable[[int], None] = lambda labels: None,
    ) -> None:
        """`on_withdrawn` is told how many labels were taken off a node whose agent is gone."""
        self._on_withdrawn = on_withdrawn
        self._client = client
        self._nodes = nodes
        self._registry = registry

    async def reconcile(self, name: str) -> float | None:
        """Withdraw the labels if the agent is gone. Raises KubeError."""
        node = self._nodes.get(ObjectKey("", name))
        if node is None or self._registry.presence(name) is not Presence.GONE:
            return None
        ours = sorted(filter(is_ours, node.labels))
        if not ours:
            return None
        try:
            await self._client.merge_patch(NODES, name, {"metadata": {"labels": dict.fromkeys(ours)}})
        except NotFound:
            return None
        self._on_withdrawn(len(ours))
        _log.warning("node %s: its agent is gone, %d labels withdrawn: %s", name, len(ours), ", ".join(ours[:10]))
        return None

    async def withdraw_model(self, name: str, key: ObjectKey) -> None:
        """Withdraw the labels of one model from a node that is known not to hold it. Raises KubeError."""
        labels = dict.fromkeys((ready_label(*key), revision_label(*key)))
        try:
            await self._client.merge_patch(NODES, name, {"metadata": {"labels": labels}})
        except NotFound:
            return
        _log.info("node %s: labels of %s withdrawn", name, key)
