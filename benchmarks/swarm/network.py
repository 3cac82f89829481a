"""Links, transfers and time of the simulated cluster: a discrete-event model at the level of whole pieces.

Every node has two links, one for each direction, and the origin has one that all who read it share. A transfer takes what
both of its links can give it: links share their rate fairly among their transfers, and what one transfer cannot use, because
its other link gives less, goes to the others (max-min fairness, as TCP flows roughly arrange it). Shares are worked out
anew at the two links where a transfer begins or ends, not through the whole network, so that a million transfers take
seconds; a link is never given out beyond its rate, so the simplification can only make the swarm slower than it would be.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

Action = Callable[[Any], None]


class Network:
    """The clock (`now`, seconds) and what is going to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Action, object]] = []
        self._number = count()

    def after(self, seconds: float, action: Action, argument: object) -> None:
        """Calls `action(argument)` in `seconds`."""
        heappush(self._queue, (self.now + seconds, next(self._number), action, argument))

    def run(self, until: Callable[[], bool]) -> bool:
        """Goes through the events until `until()` is true; False when there are no more events before."""
        queue = self._queue
        while not until():
            if not queue:
                return False
            self.now, _, action, argument = heappop(queue)
            action(argument)
        return True

    def transfer(self, size: float, source: Link, target: Link, done: Callable[[Flow], None]) -> Flow:
        """Begins to send `size` bytes; calls `done(flow)` when they have arrived."""
        flow = Flow(size, source, target, done, self.now)
        source.flows[flow] = None
        target.flows[flow] = None
        self._share(source, target)
        return flow

    def cut(self, flow: Flow) -> None:
        """Ends a transfer before its time; `done` is not called."""
        flow.ended = True
        del flow.source.flows[flow]
        del flow.target.flows[flow]
        flow.source.used -= flow.rate
        flow.target.used -= flow.rate
        self._share(flow.source, flow.target)

    def _share(self, source: Link, target: Link) -> None:
        """Divides two links anew, and those beyond them that could now give more."""
        again: dict[Link, None] = {}
        source.share(self, again)
        target.share(self, again)
        again.pop(source, None)
        again.pop(target, None)
        for link in again:
            if link.used < SLACK * link.rate:
                link.share(self, {})

    def schedule(self, flow: Flow) -> None:
        """Puts the end of `flow` into the queue, unless an event before it is there (which then looks again)."""
        if flow.finish < flow.event:
            flow.event = flow.finish
            heappush(self._queue, (flow.finish, next(self._number), self._end, flow))

    def _end(self, flow: Flow) -> None:
        if flow.ended or flow.event != self.now:
            return
        if flow.finish > self.now:
            flow.event = _NEVER
            self.schedule(flow)
            return
        self.cut(flow)
        flow.done(flow)


class Link:
    """One direction of a node's connection, or the way out of the origin. `rate` is in bytes per second."""

    __slots__ = ("flows", "level", "rate", "used")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.used = 0.0
        self.level = rate
        """What it gives at most to one transfer."""
        self.flows: dict[Flow, None] = {}

    def share(self, network: Network, again: dict[Link, None]) -> None:
        """Divides the rate among the transfers anew. Links that hold up a transfer without need go into `again`."""
        flows = self.flows
        if not flows:
            self.level = self.rate
            return
        fair = self.rate / len(flows)
        others = [(flow.target if flow.source is self else flow.source).level for flow in flows]
        if min(others) < fair:
            left, level = self.rate, fair
            for number, other in enumerate(sorted(others)):
                level = left / (len(others) - number)
                if other >= level:
                    break
                left -= other
            else:
                level = left + max(others)  # all of them are held up elsewhere
            self.level = level
        else:
            self.level = level = fair
        for flow, other in zip(flows, others, strict=True):
            if level < other:
                flow.give(self, level, network)
            else:
                flow.give(self, other, network)
            beyond = flow.target if flow.source is self else flow.source
            if flow.rate < other and flow.rate < level and beyond.used < SLACK * beyond.rate:
                again[beyond] = None


_NEVER = float("inf")
SLACK = 0.98


class Flow:
    """A transfer under way."""

    __slots__ = ("done", "ended", "event", "finish", "given", "left", "rate", "since", "source", "started", "taken", "target")

    def __init__(self, size: float, source: Link, target: Link, done: Callable[[Flow], None], now: float) -> None:
        self.left = size
        self.source = source
        self.target = target
        self.done = done
        self.started = self.since = now
        self.rate = 0.0
        self.given = self.taken = 0.0
        self.finish = self.event = _NEVER
        self.ended = False

    def give(self, link: Link, rate: float, network: Network) -> None:
        """`link` has `rate` for this transfer from now on."""
        if link is self.source:
            self.given = rate
        else:
            self.taken = rate
        rate = min(self.given, self.taken)
        if rate == self.rate:
            return
        change = rate - self.rate
        self.source.used += change
        self.target.used += change
        now = network.now
        self.left -= self.rate * (now - self.since)
        self.since = now
        self.rate = rate
        self.finish = now + max(0.0, self.left) / rate if rate > 0 else _NEVER
        network.schedule(self)

    def left_at(self, now: float) -> float:
        """Bytes that have not arrived."""
        return self.left - self.rate * (now - self.since)
