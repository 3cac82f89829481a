"""The simulated cluster: nodes in zones, the origin, and the controller that tells agents about each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from agent.peers.admission import Answer
from agent.peers.ranking import PeerId, PieceId, demote, rank
from agent.peers.tuning import SwarmTuning
from benchmarks.swarm.network import Link, Network
from benchmarks.swarm.node import Node, Request
from benchmarks.swarm.scenario import Scenario, fates
from controller.swarms import laggards


class View:
    """Who is there in one zone, at one time, as the controller sees it. Shared by all agents that know the same."""

    def __init__(
        self,
        world: World,
        zone: str,
        joined: Mapping[PeerId, int],
        complete: frozenset[PeerId],
        tiers: Mapping[PeerId, int],
    ) -> None:
        self.joined = joined
        """The members, with the order in which they came."""
        self.complete = complete
        self.tiers = tiers
        """1 for those who are slow."""
        self._world = world
        self._zone = zone
        self._ranked: dict[int, tuple[PeerId, ...]] = {}
        self._ranks: dict[int, dict[PeerId, int]] = {}

    def ranked(self, piece: int) -> tuple[PeerId, ...]:
        """The order of a piece: that of all who will ever be in the zone, without those who are not here."""
        ranked = self._ranked.get(piece)
        if ranked is None:
            everybody, joined = self._world.ranked(self._zone, piece), self.joined
            ranked = self._ranked[piece] = tuple(peer for peer in everybody if peer in joined)
        return ranked

    def rank_of(self, piece: int, peer: PeerId) -> int:
        """The rank of one peer, when the slow ones come last."""
        ranks = self._ranks.get(piece)
        if ranks is None:
            order = demote(self.ranked(piece), self.tiers)
            ranks = self._ranks[piece] = {peer: place for place, peer in enumerate(order)}
        return ranks[peer]

    def followed_by(
        self, joined: Mapping[PeerId, int], complete: frozenset[PeerId], tiers: Mapping[PeerId, int]
    ) -> View:
        """The view after this one; what it has worked out stays where it still holds."""
        if (joined, complete, tiers) == (self.joined, self.complete, self.tiers):
            return self
        new = View(self._world, self._zone, joined, complete, tiers)
        if joined.keys() == self.joined.keys() and tiers == self.tiers:
            new._ranked, new._ranks = self._ranked, self._ranks
        return new


class Finish(NamedTuple):
    """A living agent at the end; seconds from the beginning."""

    joined: float
    finished: float
    slow: bool


class World:
    """Runs one scenario: `run()`, then look at `finishes`, `origin_bytes` and `counts`."""

    def __init__(self, scenario: Scenario, tuning: SwarmTuning) -> None:
        self.scenario = scenario
        self.tuning = tuning
        self.network = Network()
        zones = [f"zone-{number}" for number in range(scenario.zones)]
        self.origins = {zone: Link(scenario.origin_rate) for zone in zones}
        self.count = scenario.pieces
        self.pieces = [PieceId("sha256:" + "0" * 64, number) for number in range(self.count)]
        self.sizes = [float(scenario.piece_bytes)] * self.count
        self.sizes[-1] = float(scenario.model_bytes - (self.count - 1) * scenario.piece_bytes)
        self.origin_bytes = dict.fromkeys(zones, 0.0)
        """What was read from the origin, by zone."""
        self.counts: Counter[str] = Counter()
        self.troubled = scenario.killed + scenario.dark + scenario.lying > 0
        self.uneven = scenario.slow > 0
        chosen = fates(scenario)
        self.nodes = {fate.name: Node(self, fate) for fate in chosen}
        self._everybody = {zone: [fate.name for fate in chosen if fate.zone == zone] for zone in zones}
        self._rankings: dict[tuple[str, int], tuple[PeerId, ...]] = {}
        self._joined: dict[str, dict[PeerId, int]] = {zone: {} for zone in zones}
        self._arrivals = 0
        self._complete: dict[str, set[PeerId]] = {zone: set() for zone in zones}
        self._views = {zone: View(self, zone, {}, frozenset(), {}) for zone in zones}
        self._newest: dict[PeerId, View] = {}
        self._slow: dict[str, frozenset[str]] = dict.fromkeys(zones, frozenset())
        self._left = len(self.nodes)
        for fate in chosen:
            self.network.after(fate.joins, self.nodes[fate.name].join, None)
            if fate.dies is not None:
                self.network.after(fate.dies, self.nodes[fate.name].die, None)
        if scenario.joins_seconds == 0.0:
            for zone, names in self._everybody.items():
                self._joined[zone] = dict.fromkeys(names, 1)
                self._views[zone] = self._views[zone].followed_by(dict(self._joined[zone]), frozenset(), {})
        self.network.after(scenario.update_seconds, self._update, None)
        if self.uneven:
            self.network.after(scenario.report_seconds, self._report, None)

    def run(self) -> bool:
        """Until all living agents are complete; False if that never happens."""
        return self.network.run(lambda: self._left == 0)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.network.now

    @property
    def finishes(self) -> list[Finish]:
        """The living agents, in the order in which they came."""
        return [
            Finish(node.joined, node.finished, node.slow)
            for node in self.nodes.values()
            if node.joined is not None and node.finished is not None
        ]

    # What the controller does

    def view(self, node: Node) -> View:
        """What `node` has been told."""
        return self._newest.get(node.name) or self._views[node.zone]

    def ranked(self, zone: str, piece: int) -> tuple[PeerId, ...]:
        """The order of all who are ever in the zone."""
        key = (zone, piece)
        if key not in self._rankings:
            self._rankings[key] = rank(self.pieces[piece], self._everybody[zone])
        return self._rankings[key]

    def arrived(self, node: Node) -> None:
        """An agent has connected: it is told at once who is there, the others with the next update."""
        joined = self._joined[node.zone]
        if node.name not in joined:
            self._arrivals += 1
            joined[node.name] = 1 + self._arrivals
            complete = frozenset(self._complete[node.zone])
            self._newest[node.name] = self._views[node.zone].followed_by(
                dict(joined), complete, self._views[node.zone].tiers
            )

    def died(self, node: Node) -> None:
        """The controller notices after a while."""
        self._left -= 1
        self.network.after(self.scenario.detect_seconds, self._miss, node)

    def finished(self, node: Node) -> None:
        """An agent is complete."""
        self._complete[node.zone].add(node.name)
        self._left -= 1

    def _miss(self, node: Node) -> None:
        del self._joined[node.zone][node.name]

    def _report(self, _: object) -> None:
        """All agents report how fast they are, and the controller compares them."""
        rates: dict[str, dict[str, float]] = {zone: {} for zone in self._views}
        for node in self.nodes.values():
            rate = node.meter.sample(self.now, node.bytes_done()) if node.is_downloading else 0
            if rate:
                rates[node.zone][node.name] = rate
        for zone, found in rates.items():
            self._slow[zone] = laggards(self._slow[zone], found)
        if self._left:
            self.network.after(self.scenario.report_seconds, self._report, None)

    def _update(self, _: object) -> None:
        for zone, view in self._views.items():
            tiers = dict.fromkeys(map(PeerId, self._slow[zone]), 1)
            self._views[zone] = view.followed_by(dict(self._joined[zone]), frozenset(self._complete[zone]), tiers)
        self._newest.clear()
        if self._left:
            self.network.after(self.scenario.update_seconds, self._update, None)

    # What the network does

    def send(self, request: Request, peer: Node) -> None:
        """A request on its way to `peer`. A dead one refuses the connection, a dark one lets it time out."""
        self.counts["requests to peers"] += 1
        if peer.dead:
            seconds = self.scenario.connect_seconds if peer.dark else 2 * self.scenario.latency
            self.network.after(seconds, request.fails, peer)
        else:
            self.network.after(self.scenario.latency, peer.asked, request)

    def reply(self, request: Request, peer: Node, answer: Answer | None) -> None:
        """An answer on its way back; None: it does not know the asker."""
        self.network.after(
            self.scenario.latency, lambda request: request.asker.answered(request, peer, answer), request
        )
