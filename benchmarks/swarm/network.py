"""Links, transfers and time of the simulated cluster: a discrete-event model at the level of whole pieces.

Every node has two links, one for each direction, and the origin has one that all who read it share. A transfer takes what
both of its links can give it: links share their rate fairly among their transfers, and what one transfer cannot use, because
its other link gives less, goes to the others (max-min fairness, as TCP flows roughly arrange it). Shares are worked out
anew at the two links where a transfer begins or ends and next to them, not through the whole network, so that a million
transfers take minutes; a link is never given out beyond its rate, so the simplification can only make the swarm slower than
it would be.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

SLACK = 0.98
"""A link that gives out less than this part of its rate could give more."""
_NEVER = float("inf")

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
        source.flows[flow] = target
        target.flows[flow] = source
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

    def schedule(self, flow: Flow) -> None:
        """Puts the end of `flow` into the queue, unless an event before it is there (which then looks again)."""
        if flow.finish < flow.event:
            flow.event = flow.finish
            heappush(self._queue, (flow.finish, next(self._number), self._end, flow))

    def _share(self, source: Link, target: Link) -> None:
        """Divides two links anew, and those beyond them that could now give more."""
        again = [*source.share(self), *target.share(self)]
        for link in dict.fromkeys(again):
            if link is not source and link is not target and link.used < SLACK * link.rate:
                link.share(self)

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
        self.flows: dict[Flow, Link] = {}
        """The transfers, with the other link of each."""

    def share(self, network: Network) -> list[Link]:
        """Divides the rate among the transfers anew; the other links of those that are held up there without need."""
        flows = self.flows
        if not flows:
            self.level = self.rate
            return []
        self.level = level = self._level([link.level for link in flows.values()])
        again = []
        for flow, beyond in flows.items():
            other = beyond.level
            offer = level if level < other else other
            if flow.source is self:
                if flow.given != offer:
                    flow.given = offer
                    flow.settle(network)
            elif flow.taken != offer:
                flow.taken = offer
                flow.settle(network)
            if flow.rate < offer and beyond.used < SLACK * beyond.rate:
                again.append(beyond)
        return again

    def _level(self, others: list[float]) -> float:
        """The largest share of one transfer, when those whose other link gives less leave the rest to the others."""
        fair = self.rate / len(others)
        if min(others) >= fair:
            return fair
        left, number = self.rate, len(others)
        for other in sorted(others):
            level = left / number
            if other >= level:
                return level
            left -= other
            number -= 1
        return left + max(others)  # all of them are held up elsewhere


class Flow:
    """A transfer under way."""

    __slots__ = (
        "done", "ended", "event", "finish", "given", "left", "rate", "since", "source", "started", "taken", "target",
    )  # fmt: skip

    def __init__(self, size: float, source: Link, target: Link, done: Callable[[Flow], None], now: float) -> None:
        self.left = size
        self.source = source
        self.target = target
        self.done = done
        self.started = self.since = now
        self.rate = 0.0
        self.given = self.taken = 0.0
        """What its two links have for it."""
        self.finish = self.event = _NEVER
        self.ended = False

    def settle(self, network: Network) -> None:
        """Goes on at the rate that both links have for it."""
        rate = self.given if self.given < self.taken else self.taken
        change = rate - self.rate
        if change == 0.0:
            return
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
