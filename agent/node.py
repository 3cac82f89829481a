"""The labels of this agent's own Node: what users schedule by.

`NodeLabels` is told which revisions the node should announce (the whole set, every time) and makes the Node agree, for
ever: an informer on that single object shows when somebody removes a label of ours or leaves a stale one, and a merge
patch of just our keys puts it right. While the API server is away the wish stays and is tried again with backoff.

Two facts are kept apart. *Actual* is the newest state of the Node that has been seen. *Confirmed* is what callers may rely
on: it follows actual once a patch has been answered or there was nothing to patch. So a label that was removed by hand and
comes back milliseconds later is never missing for them, while one that cannot be put back is; and a label that has to go
counts as gone only when the API server has said so, after the wish (files are deleted on the strength of it).

After a start the labels of the agent's former life are taken for granted until the API server has been heard, because
restarting must not cost a model its readiness.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

import msgspec

from agent.plan import UNLABELLED
from agent.wakeup import Wakeup
from modelcache.api.labels import READY, ZONE_LABEL, is_ours, model_labels, ready_label, revision_label
from modelcache.kube.backoff import Backoff
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.errors import KubeError, NotFound
from modelcache.kube.informer import Informer
from modelcache.kube.objects import ObjectMeta, is_older
from modelcache.kube.resources import NODES, ObjectKey

_log = logging.getLogger(__name__)

FIELD_MANAGER = "modelcache-agent"


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None


class Node(msgspec.Struct, frozen=True):
    """The part of a Node that is read here."""

    metadata: _Metadata


def wanted_labels(revisions: Mapping[ObjectKey, str]) -> dict[str, str]:
    """The labels of a node that announces these revisions: every key of ours that it should have."""
    labels: dict[str, str] = {}
    for key, revision in revisions.items():
        labels |= model_labels(key.namespace, key.name, revision)
    return labels


def label_patch(wanted: Mapping[str, str], actual: Mapping[str, str]) -> dict[str, str | None]:
    """What a merge patch of `metadata.labels` has to say: only keys of ours, None for one that has to go."""
    patch: dict[str, str | None] = {key: value for key, value in wanted.items() if actual.get(key) != value}
    patch |= {key: None for key in actual if is_ours(key) and key not in wanted}
    return patch


def shown_revision(labels: Mapping[str, str], key: ObjectKey) -> str:
    """The value of a model's revision label on a node that announces it as ready, else UNLABELLED."""
    if labels.get(ready_label(*key)) != READY:
        return UNLABELLED
    return labels.get(revision_label(*key), UNLABELLED)


class NodeLabels:
    """Keeps the labels of one Node. Run `run()` in a task; everything else is called in the same event loop."""

    def __init__(
        self,
        client: KubeClient,
        node: str,
        *,
        revisions: Mapping[ObjectKey, str],
        clock: Clock,
        rng: Random,
        on_change: Callable[[], None],
    ) -> None:
        """`revisions` are those to announce from the start on. `on_change` is called when `shown` or `zone` may differ."""
        self._client = client
        self._node = node
        self._clock = clock
        self._on_change = on_change
        self._backoff = Backoff(rng, base=0.5, cap=10.0)
        self._drift = Backoff(rng, base=0.2, cap=5.0)
        self._changed = Wakeup(clock)

        self._wanted = wanted_labels(revisions)
        self._actual: dict[str, str] | None = None
        self._version = ""
        self._exists = True
        self._confirmed = dict(self._wanted)
        self._unconfirmed: set[str] = set()
        """Keys of ours whose wished value has changed since the API server last answered about them."""

        self._moves: Counter[str] = Counter()

        self._problem = ""
        self.next_try: float | None = None
        """Monotonic time of the next try while there is a problem."""

        self.informer: Informer[Node] = Informer(
            client, NODES, Node, field_selector=f"metadata.name={node}", clock=clock, rng=rng
        )
        self.informer.on_change(self._seen)

    @property
    def zone(self) -> str:
        """The node's topology zone; empty when it has none or is not known yet."""
        return (self._actual or {}).get(ZONE_LABEL, "")

    @property
    def problem(self) -> str:
        """Why the labels may not be as they should be, and what to do about it; empty when they are."""
        if self._actual is None and self.informer.health.last_error:
            return f"Cannot read this node: {self.informer.health.last_error}"
        return self._problem

    @property
    def settled(self) -> bool:
        """Whether the Node has been seen, and carries just the labels that it should."""
        return self._actual is not None and not self._due_patch()

    @property
    def clear(self) -> bool:
        """Whether the API server has confirmed that the node carries no label of ours."""
        return self._actual is not None and not self._unconfirmed and not any(map(is_ours, self._confirmed))

    def want(self, revisions: Mapping[ObjectKey, str]) -> None:
        """Announce exactly these revisions from now on."""
        wanted = wanted_labels(revisions)
        differing = {key for key in {*wanted, *self._wanted} if wanted.get(key) != self._wanted.get(key)}
        if differing:
            self._wanted = wanted
            self._unconfirmed |= differing
            self._moves.update(differing)
            self._changed.set()

    def shown(self, key: ObjectKey) -> str | None:
        """The revision label that is confirmed for a model, UNLABELLED for none, None while neither is known."""
        if {ready_label(*key), revision_label(*key)} & self._unconfirmed:
            return None
        shown = shown_revision(self._confirmed, key)
        return None if shown == UNLABELLED and self._actual is None else shown

    def moves(self, key: ObjectKey) -> int:
        """How often the labels of a model were wished or seen to be another: they stood still while this stays the same."""
        return self._moves[ready_label(*key)] + self._moves[revision_label(*key)]

    async def run(self) -> None:
        """Make the Node agree with the wishes until cancelled. `informer.run()` has to run beside it."""
        await self.informer.wait_synced()
        while True:
            self._changed.clear()
            wait = await self._mend()
            self._on_change()
            await self._changed.wait(wait)

    def _seen(self, old: Node | None, new: Node | None) -> None:
        subject = new or old
        if subject is None or subject.metadata.name != self._node:
            return
        if new is not None and is_older(new.metadata.resource_version, self._version):
            # The answer to our own patch was quicker than the events before it.
            return
        self._take(new.metadata if new is not None else None)
        self._changed.set()

    def _take(self, metadata: _Metadata | ObjectMeta | None) -> None:
        """The newest state of the Node; None: there is none."""
        zone, before = self.zone, self._actual or {}
        self._exists = metadata is not None
        self._version = metadata.resource_version if metadata is not None else ""
        self._actual = now = dict(metadata.labels or {}) if metadata is not None else {}
        self._moves.update(key for key in {*before, *now} if is_ours(key) and before.get(key) != now.get(key))
        if zone != self.zone:
            self._on_change()

    async def _mend(self) -> float | None:
        """One look at the labels; in how many seconds to look again, None for "when something changes"."""
        if self._actual is None or not self._exists:
            node = self.informer.get(ObjectKey("", self._node))
            if node is None:
                return self._missing()
            self._take(node.metadata)
        patch = self._due_patch()
        if patch and not self._unconfirmed:
            # Nobody here has changed his mind, so somebody else has changed our labels. Should he go on doing so, the
            # two of us must not keep the API server busy.
            await self._clock.sleep(self._drift.fail(self._clock.now()))
            patch = self._due_patch()
        if not patch:
            self._settle()
            return None
        try:
            stored = await self._client.merge_patch(
                NODES, self._node, {"metadata": {"labels": patch}}, field_manager=FIELD_MANAGER
            )
        except NotFound:
            return self._missing()
        except KubeError as error:
            # What cannot be mended is how it is.
            self._confirmed = dict(self._actual or {})
            return self._failed(f"Cannot label this node: {error}", error.retry_after)
        _log.info("labels changed: %s", _described(patch), extra={"node": self._node})
        self._take(stored)
        self._unconfirmed -= {key for key in patch if patch[key] == self._wanted.get(key)}
        self._settle()
        return None

    def _due_patch(self) -> dict[str, str | None]:
        """What to send now. Wishes that were never answered are repeated even where nothing seems to differ."""
        return label_patch(self._wanted, self._actual or {}) | {key: self._wanted.get(key) for key in self._unconfirmed}

    def _settle(self) -> None:
        self._confirmed = dict(self._actual or {})
        self._problem, self.next_try = "", None

    def _missing(self) -> float:
        """There is no Node. It has no labels then: nothing has to wait for their removal."""
        self._take(None)
        self._confirmed, self._unconfirmed = {}, set()
        return self._failed(
            f"There is no Node {self._node!r} in the cluster at {self._client.server}: start the agent with the name of its "
            f"own Node (--node, in a pod spec.nodeName), or let the node join the cluster."
        )

    def _failed(self, problem: str, retry_after: float | None = None) -> float:
        now = self._clock.now()
        delay = self._backoff.fail(now, retry_after)
        if problem != self._problem:
            _log.warning("next try in %.1f s: %s", delay, problem, extra={"node": self._node})
        self._problem, self.next_try = problem, now + delay
        return delay


def _described(patch: Mapping[str, str | None]) -> str:
    return ", ".join(
        f"{key}={value}" if value is not None else f"{key} removed" for key, value in sorted(patch.items())
    )
