"""What is simulated: how large the cluster is, and what goes wrong in it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.peers.client import CONNECT_SECONDS, STALL_SECONDS
from agent.peers.ranking import PeerId
from agent.report import MIN_PROGRESS_SECONDS
from controller.swarms import peers_interval

MIB = 1 << 20


@dataclass(frozen=True)
class Scenario:
    """Rates in bytes/s, sizes in bytes, times in seconds; `killed`, `dark`, `slow` and `lying` are fractions of the agents."""

    agents: int
    zones: int = 1
    model_bytes: int = 16 << 30
    piece_bytes: int = 16 * MIB
    link_rate: float = 1.25e9
    """Of each node, in each direction: 10 Gbit/s."""
    origin_rate: float = 1.25e9
    """What the origin has for each zone."""
    joins_seconds: float = 0.0
    """The agents come at random moments within this time; 0: all at once."""
    killed: float = 0.0
    """Processes that end in the middle: connections to them break at once."""
    dark: float = 0.0
    """Nodes that fall silent in the middle: nothing tells those who wait for them."""
    slow: float = 0.0
    slow_factor: float = 0.2
    """Rate of a slow link, compared with the others."""
    lying: float = 0.0
    """Agents of which every piece is other bytes than announced."""
    latency: float = 0.0005
    report_seconds: float = MIN_PROGRESS_SECONDS
    """Agents tell the controller of their progress so often."""
    detect_seconds: float = 10.0
    """After this time the controller knows that an agent is gone."""
    connect_seconds: float = CONNECT_SECONDS
    stall_seconds: float = STALL_SECONDS
    seed: int = 1

    @property
    def update_seconds(self) -> float:
        """The controller tells an agent of its peers at most so often."""
        return max(0.05, peers_interval(self.agents // self.zones))

    @property
    def pieces(self) -> int:
        """Of the model."""
        return -(-self.model_bytes // self.piece_bytes)

    def rough(self, *, joins_seconds: float, killed: float, dark: float, slow: float, lying: float) -> Scenario:
        """The same with all that can go wrong."""
        return replace(self, joins_seconds=joins_seconds, killed=killed, dark=dark, slow=slow, lying=lying)

    def alone(self) -> Scenario:
        """One of these agents, with nobody else there and nothing going wrong."""
        return replace(self, agents=1, zones=1, joins_seconds=0.0, killed=0.0, dark=0.0, slow=0.0, lying=0.0)


class Fate(NamedTuple):
    """What happens to one agent. Times are seconds from the beginning; `dies` None: it does not."""

    name: PeerId
    zone: str
    joins: float
    dies: float | None
    dark: bool
    slow: bool
    lying: bool


def fates(scenario: Scenario) -> list[Fate]:
    """The agents of a scenario, in the order in which they come. The same seed gives the same ones."""
    rng = random.Random(scenario.seed)
    alone = scenario.model_bytes / scenario.link_rate
    chosen = []
    for number in range(scenario.agents):
        draw, joins = rng.random(), rng.uniform(0.0, scenario.joins_seconds)
        dark, killed = draw < scenario.dark, scenario.dark <= draw < scenario.dark + scenario.killed
        chosen.append(
            Fate(
                name=PeerId(f"node-{number:04}"),
                zone=f"zone-{number % scenario.zones}",
                joins=joins,
                dies=joins + rng.uniform(0.0, alone) if dark or killed else None,
                dark=dark,
                slow=rng.random() < scenario.slow,
                lying=rng.random() < scenario.lying,
            )
        )
    return sorted(chosen, key=lambda fate: fate.joins)
