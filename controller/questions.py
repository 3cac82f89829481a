"""What pods use *now*: the answers to agents that are about to take files away.

An informer shows a past state of the API server, usually milliseconds old, and seconds or minutes old when the watch hangs.
That is good enough for keeping files, and not for deleting them: the scheduler may have sent a pod to a node in the moment
before the node's label went. So an agent asks when its label is gone (`Report.uses_question`), and its question is answered
by a list of the node's pods at the API server, of the most recent state (no resourceVersion: a quorum read). Whatever the label
has led to the node is in it. Pods that the scheduler binds afterwards, because its own copy of the Node is old, are turned
away by the kubelet, which checks the node affinity once more (`NodeAffinity`).

The list does not take the place of what the informer shows, it adds to it: pods that the informer has not shown yet, or not
as they are, count with what the list says until the informer has come as far as the list was. The same goes for the claims by
which they see the cache (`controller.claims`).

What this costs is bounded: nobody asks unless something is to be removed; one list at a time for each node, at most one a
second however often its agent asks (the questions in between share the next one); AT_ONCE for the whole cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

import msgspec

from controller.claims import NodePods
from controller.pods import Pod, pods_selector, read_pod
from controller.registry import Session
from controller.uses import uses_of
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.errors import KubeError, ServerError, printable
from modelcache.kube.objects import is_older
from modelcache.kube.queue import Handler, WorkQueue
from modelcache.kube.resources import PODS

_log = logging.getLogger(__name__)

PAUSE = 1.0
"""Least seconds between two lists for one node, unless the first has failed."""
AT_ONCE = 4
"""Lists under way at the same time, for all nodes."""
LONGEST_RETRY = 10.0
"""Seconds between two tries of a list that fails, at most."""
CATCHING_UP = 5.0
"""Seconds between two looks whether the informer has come as far as a list that showed more."""
_QUOTED = 300


class Answer(NamedTuple):
    """The highest question of a stream that was answered, 0 for none, and why the next one is not, empty for no reason."""

    number: int = 0
    problem: str = ""


NO_ANSWER = Answer()


@dataclass(eq=False)
class _Inquiry:
    """What the agent of one stream asks. `more`: pods as the last list, of `version`, has shown and the informer has not."""

    session: Session
    asked: int = 0
    answer: Answer = NO_ANSWER
    more: tuple[Pod, ...] = ()
    version: str = ""
    pending: bool = False
    """Whether a list is due, or under way."""


class Questions:
    """All questions of one term of leadership. Called in the event loop."""

    def __init__(self, client: KubeClient, pods: NodePods, clock: Clock, rng: Random) -> None:
        self._client = client
        self._pods = pods
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue("uses", cap=LONGEST_RETRY, clock=clock, rng=rng)
        self._inquiries: dict[str, _Inquiry] = {}
        self._listed_at: dict[str, float] = {}

    @property
    def depth(self) -> int:
        """How many nodes wait for a list that could begin now."""
        return self._queue.depth

    def take(self, session: Session, number: int) -> None:
        """The last report of a stream asks this; 0: nothing."""
        if not session.connected:
            return
        inquiry = self._of(session)
        if inquiry is None:
            if not number:
                return
            inquiry = self._inquiries[session.node] = _Inquiry(session)
        inquiry.asked = number
        if number > inquiry.answer.number and not inquiry.pending:
            inquiry.pending = True
            self._queue.add_after(session.node, self._pause(session.node))

    def leave(self, session: Session) -> None:
        """The stream is over: nobody waits for an answer on it."""
        if self._of(session) is not None:
            del self._inquiries[session.node]

    def answer(self, session: Session) -> Answer:
        """What `pods_of` answers."""
        inquiry = self._of(session)
        return inquiry.answer if inquiry is not None else NO_ANSWER

    def pods_of(self, session: Session) -> list[Pod]:
        """The active pods on the node of a stream; one that has changed a moment ago may be there as it was and as it is."""
        inquiry = self._of(session)
        more = filter(partial(self._is_news, inquiry), inquiry.more) if inquiry is not None else ()
        return [*self._pods.on(session.node), *more]

    async def run(self, timed: Callable[[Handler[str]], Handler[str]]) -> None:
        """Answer until `close`. `timed` measures each look."""
        await self._queue.run(timed(self._look), AT_ONCE)

    def close(self) -> None:
        """This controller no longer leads."""
        self._queue.shutdown()

    async def _look(self, node: str) -> float | None:
        """Raises KubeError: to be tried again."""
        inquiry = self._inquiries.get(node)
        if inquiry is None:
            return None
        news = tuple(filter(partial(self._is_news, inquiry), inquiry.more))
        if news != inquiry.more:
            inquiry.more = news
            inquiry.session.wake.set()
        if inquiry.asked > inquiry.answer.number:
            await self._answer(inquiry, inquiry.asked)
        inquiry.pending = inquiry.asked > inquiry.answer.number
        if inquiry.pending:
            # Asked again while the list was under way: perhaps after it began.
            return self._pause(node)
        return CATCHING_UP if inquiry.more else None

    async def _answer(self, inquiry: _Inquiry, number: int) -> None:
        session = inquiry.session
        self._note_list(session.node)
        try:
            found, version = await self._list(session.node)
        except KubeError as error:
            problem = f"the pods of node {session.node} cannot be listed: {error}"
            inquiry.answer = inquiry.answer._replace(problem=printable(problem, _QUOTED))
            session.wake.set()
            raise
        inquiry.version = version
        inquiry.more = tuple(filter(partial(self._is_news, inquiry), found))
        inquiry.answer = Answer(number)
        session.wake.set()
        more = len(inquiry.more)
        _log.debug("node %s: question %d answered, %d pods, %d of them news", session.node, number, len(found), more)

    async def _list(self, node: str) -> tuple[list[Pod], str]:
        """The pods of a node that have not ended, and the version of the list. Raises KubeError."""
        found: list[Pod] = []
        version = ""
        # In one piece, which cannot expire half-way: a node runs some hundred pods at most.
        pages = self._client.list_pages(PODS, into=msgspec.Raw, field_selector=pods_selector(node), limit=0)
        async for page in pages:
            version = page.metadata.resource_version
            try:
                found += [await self._pods.as_listed(read_pod(each)) for each in page.objects]
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ServerError(f"a pod cannot be read: {error}", verb="list", subject=f"pods of {node}") from error
        return found, version

    def _is_news(self, inquiry: _Inquiry, pod: Pod) -> bool:
        """Whether the informers have not shown yet what the list has: of all pods, and then of the claims of this one."""
        uses = set(uses_of(pod, inquiry.session.cache_root))
        known = self._pods.get(pod.namespace, pod.name)
        if not uses or pod == known:
            return False
        if not self._pods.reached or is_older(self._pods.reached, inquiry.version):
            return True
        same = pod.claims and known is not None and known.uid == pod.uid
        return bool(same) and known is not None and not uses <= set(uses_of(known, inquiry.session.cache_root))

    def _of(self, session: Session) -> _Inquiry | None:
        inquiry = self._inquiries.get(session.node)
        return inquiry if inquiry is not None and inquiry.session is session else None

    def _pause(self, node: str) -> float:
        """Seconds until the node may be listed again."""
        return max(0.0, self._listed_at.get(node, float("-inf")) + PAUSE - self._clock.now())

    def _note_list(self, node: str) -> None:
        now = self._clock.now()
        self._listed_at = {each: at for each, at in self._listed_at.items() if now - at < PAUSE} | {node: now}
