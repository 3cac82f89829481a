"""The simulated cluster: nodes in zones, the origin, and the controller that tells agents about each other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from agent.peers.admission import Answer
from agent.peers.ranking import PeerId, PieceId, rank
from agent.peers.tuning import SwarmTuning
from benchmarks.swarm.network import Link, Network
from benchmarks.swarm.node import Node, Request


@dataclass(frozen=True)
class Scenario:
    """What is simulated. Rates in bytes/s, sizes in bytes, times in seconds, the other numbers are fractions of the agents."""

    agents: int
    zones: int
    model_bytes: int
    piece_bytes: int
    link_rate: float
    origin_rate: float
    joins_seconds: float
    failing: float
    slow: float
    slow_factor: float
    lying: float
    latency: float
    silence: float
    detect: float
    update: float
    seed: int


class View:
    """Who is there in one zone, at one time, as the controller sees it. Shared by all agents that know the same."""

    def __init__(self, world: World, members: frozenset[PeerId], complete: frozenset[PeerId], zone: str) -> None:
        self.members = members
        self.complete = complete
        self._world = world
        self._zone = zone
        self._ranked: dict[int, tuple[PeerId, ...]] = {}
        self._ranks: dict[int, dict[PeerId, int]] = {}

    def ranked(self, piece: int) -> tuple[PeerId, ...]:
        """The order of a piece: that of all who will ever be in the zone, without those who are not here."""
        ranked = self._ranked.get(piece)
        if ranked is None:
            everybody = self._world.ranked(self._zone, piece)
            members = self.members
            ranked = self._ranked[piece] = tuple(peer for peer in everybody if peer in members)
        return ranked

    def rank_of(self, piece: int, peer: PeerId) -> int:
        """The rank of one peer."""
        ranks = self._ranks.get(piece)
        if ranks is None:
            ranks = self._ranks[piece] = {peer: place for place, peer in enumerate(self.ranked(piece))}
        return ranks[peer]


class World:
    """Runs one scenario: `run()`, then look at `nodes`, `reads` and the counters."""

    def __init__(self, scenario: Scenario, tuning: SwarmTuning) -> None:
        self.scenario = scenario
        self.tuning = tuning
        self.network = Network()
        self.origin = Link(scenario.origin_rate)
        self.count = -(-scenario.model_bytes // scenario.piece_bytes)
        self.pieces = [PieceId("sha256:" + "0" * 64, number) for number in range(self.count)]
        self.sizes = [float(scenario.piece_bytes)] * self.count
        self.sizes[-1] = float(scenario.model_bytes - (self.count - 1) * scenario.piece_bytes)
        self.round_trip = 2 * scenario.latency
        self.silence = scenario.silence
        self.troubled = scenario.failing > 0 or scenario.lying > 0
        self.uneven = scenario.slow > 0
        self.asks = self.looks = self.waits = self.redirects = self.refused = self.held_out = self.lies = 0
        zones = [f"zone-{number}" for number in range(scenario.zones)]
        self.reads = dict.fromkeys(zones, 0)
        """Pieces read from the origin, by zone."""
        self.steps: list[tuple[float, int]] = []
        rng = random.Random(scenario.seed)
        self.nodes: dict[PeerId, Node] = {}
        for number in range(scenario.agents):
            name = PeerId(f"node-{scenario.seed}-{number:04}")
            slow = rng.random() < scenario.slow
            node = Node(
                self,
                name,
                zones[number % scenario.zones],
                scenario.link_rate * (scenario.slow_factor if slow else 1.0),
                lying=rng.random() < scenario.lying,
            )
            self.nodes[name] = node
        self._plan(rng)
        self._everybody = {zone: [node.name for node in self.nodes.values() if node.zone == zone] for zone in zones}
        self._rankings: dict[tuple[str, int], tuple[PeerId, ...]] = {}
        self._members: dict[str, set[PeerId]] = {zone: set() for zone in zones}
        self._complete: dict[str, set[PeerId]] = {zone: set() for zone in zones}
        self._views: dict[str, View] = {zone: View(self, frozenset(), frozenset(), zone) for zone in zones}
        self._newest: dict[PeerId, View] = {}
        self._left = len(self.nodes)

    def _plan(self, rng: random.Random) -> None:
        """Who joins when, and who dies."""
        scenario = self.scenario
        alone = scenario.model_bytes / scenario.link_rate
        joins = {name: rng.uniform(0.0, scenario.joins_seconds) for name in self.nodes}
        for name, node in sorted(self.nodes.items(), key=lambda item: joins[item[0]]):
            self.network.after(joins[name], node.join, None)
            if rng.random() < scenario.failing:
                self.network.after(joins[name] + rng.uniform(0.0, alone), node.die, None)
        self.network.after(scenario.update, self._update, None)

    def run(self) -> bool:
        """Until all living agents are complete; False if that never happens."""
        return self.network.run(lambda: self._left == 0)

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
        self._members[node.zone].add(node.name)
        current = self._views[node.zone]
        if self.network.now == 0.0 and self.scenario.joins_seconds == 0.0:
            members = frozenset(self._everybody[node.zone])
            if current.members != members:
                self._views[node.zone] = View(self, members, frozenset(), node.zone)
            return
        self._newest[node.name] = View(
            self, frozenset(self._members[node.zone]), frozenset(self._complete[node.zone]), node.zone
        )

    def died(self, node: Node) -> None:
        """The controller notices after a while that a stream is dead."""
        self._left -= 1
        self.network.after(self.scenario.detect, lambda _: self._members[node.zone].discard(node.name), None)

    def progressed(self, node: Node) -> None:
        """An agent has one more piece."""
        if node.missing == 0:
            node.finished = self.network.now
            self._complete[node.zone].add(node.name)
            self._left -= 1

    def _update(self, _: object) -> None:
        for zone, view in self._views.items():
            members, complete = frozenset(self._members[zone]), frozenset(self._complete[zone])
            if members != view.members or complete != view.complete:
                new = View(self, members, complete, zone)
                if members == view.members:
                    new._ranked, new._ranks = view._ranked, view._ranks
                self._views[zone] = new
        self._newest.clear()
        if self._left:
            self.network.after(self.scenario.update, self._update, None)

    # What the network does

    def send(self, request: Request, peer: Node) -> None:
        """A request on its way to `peer`; silence if it is dead."""
        if peer.dead:
            self.network.after(self.silence, lambda request: request.asker.failed(request, peer), request)
        else:
            self.network.after(self.scenario.latency, peer.asked, request)

    def reply(self, request: Request, peer: Node, answer: Answer) -> None:
        """An answer on its way back."""
        self.network.after(
            self.scenario.latency, lambda request: request.asker.answered(request, peer, answer), request
        )

    def totals(self) -> Mapping[str, int]:
        """Counters for the table."""
        return {
            "requests to peers": self.asks,
            "looks at bitmaps": self.looks,
            "redirects followed": self.redirects,
            "refused, queue full": self.refused,
            "held in vain": self.held_out,
            "waits": self.waits,
            "lies caught": self.lies,
        }
