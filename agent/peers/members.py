"""The other agents of one model: where they are, and what this agent has come to think of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.peers.ranking import Peer, PeerId, neighbours
from agent.peers.standing import Standing, lagged, lied, longest, rate_of, shunned, slow, succeeded, unreachable
from agent.peers.tuning import SwarmTuning
from agent.transfer.clock import Clock


class PeerAddress(NamedTuple):
    """Another agent, as the controller names it. `address` is host:port.

    `later`: when it began with the model, in a count of arrivals: below 0 before this agent, 0 with it, above 0 after it.
    `tier`: 1 for one that is slow where this agent is not, -1 the other way round, otherwise 0 (see `ranking.demote`).
    `earlier`: those with the same number, other than 0, have published the same other revision of the model.
    """

    node: str
    zone: str
    address: str
    complete: bool
    later: int = 0
    tier: int = 0
    earlier: int = 0


class PeerProblem(NamedTuple):
    """Why a peer is not asked any more. `reason` is CamelCase, `message` a sentence."""

    node: str
    reason: str
    message: str


class View(NamedTuple):
    """The members at one moment. `generation` changes whenever pieces get other owners: somebody comes, goes, or is slow."""

    generation: int
    addresses: Mapping[PeerId, str]
    joined: Mapping[PeerId, int]
    tiers: Mapping[PeerId, int]
    earlier: Mapping[PeerId, int]
    complete: frozenset[PeerId]
    shunned: frozenset[PeerId]
    slow: frozenset[PeerId]


class Members:
    """Thread-safe. Those in other zones are left out: nothing crosses zones."""

    def __init__(self, zone: str, clock: Clock, tuning: SwarmTuning) -> None:
        self._zone = zone
        self._clock = clock
        self._tuning = tuning
        self._lock = threading.Lock()
        self._generation = 0
        self._peers: dict[PeerId, PeerAddress] = {}
        self._standings: dict[PeerId, Standing] = {}
        self._problems: dict[str, PeerProblem] = {}

    def update(self, peers: Iterable[PeerAddress]) -> None:
        """These are the others now."""
        known = {PeerId(peer.node): peer for peer in peers}
        near = neighbours([Peer(node, peer.zone, peer.complete) for node, peer in known.items()], self._zone)
        with self._lock:
            before, self._peers = self._peers, {peer.node: known[peer.node] for peer in near}
            if _tiers(before) != _tiers(self._peers) or before.keys() != self._peers.keys():
                self._generation += 1
            for node, peer in self._peers.items():
                old = before.get(node)
                if old is not None and old.address != peer.address and node in self._standings:
                    # Started again somewhere else: that it could not be reached says nothing any more.
                    was = self._standings[node]
                    self._standings[node] = Standing(lied=was.lied)

    def view(self) -> View:
        """How things are."""
        now = self._clock.monotonic()
        with self._lock:
            return View(
                generation=self._generation,
                addresses={node: peer.address for node, peer in self._peers.items()},
                joined={node: peer.later for node, peer in self._peers.items()},
                tiers=_tiers(self._peers),
                earlier={node: peer.earlier for node, peer in self._peers.items() if peer.earlier},
                complete=frozenset(node for node, peer in self._peers.items() if peer.complete),
                shunned=shunned(self._standings, now),
                slow=slow(self._standings, now),
            )

    def tiers(self) -> Mapping[PeerId, int]:
        """Who is slow, and is not as slow as this agent; see `ranking.demote`."""
        with self._lock:
            return _tiers(self._peers)

    def named(self, address: str) -> PeerId | None:
        """The peer at this address."""
        with self._lock:
            return next((node for node, peer in self._peers.items() if peer.address == address), None)

    def liars(self) -> frozenset[str]:
        """Those that have lied."""
        with self._lock:
            return frozenset(node for node, one in self._standings.items() if one.lied is not None)

    def problems(self) -> tuple[PeerProblem, ...]:
        """What there is to report about them."""
        with self._lock:
            return tuple(self._problems.values())

    def has_succeeded(self, peer: PeerId, rate: float | None) -> None:
        """It has sent something; `rate` as in `standing.succeeded`."""
        with self._lock:
            self._standings[peer] = succeeded(self._standings.get(peer, Standing()), rate, self._clock.monotonic())

    def lags(self, peer: PeerId, count: int, seconds: float) -> None:
        """It has sent `count` bytes of a piece in so many seconds, and was given up."""
        with self._lock:
            known = self._standings.get(peer, Standing())
            self._standings[peer] = lagged(known, rate_of(count, seconds), self._clock.monotonic())

    def longest(self, count: int) -> float:
        """Seconds that a peer may take for `count` bytes; see `standing.longest`."""
        with self._lock:
            return longest(self._standings, count, self._tuning)

    def is_away(self, peer: PeerId) -> None:
        """It could not be reached, or broke off."""
        with self._lock:
            standing = self._standings.get(peer, Standing())
            self._standings[peer] = unreachable(standing, self._clock.monotonic(), self._tuning)

    def has_lied(self, peer: PeerId, message: str) -> None:
        """It has sent something wrong: it is dropped, and reported."""
        with self._lock:
            self._standings[peer] = lied(self._standings.get(peer, Standing()), message)
            self._problems.setdefault(peer, PeerProblem(peer, "WrongContent", message))


def _tiers(peers: Mapping[PeerId, PeerAddress]) -> dict[PeerId, int]:
    return {node: peer.tier for node, peer in peers.items() if peer.tier}
