"""What each agent is told about the other agents of its models: where they serve, and in which order they came.

Agents exchange content within a zone only, so an agent hears of those in its own zone, and may read from and be read by
nobody else. The order matters to agents that change owners in the middle of a download (see `agent.peers.ranking`): who has
come before whom says where a piece may already be. It is counted here, per model, from the moment when the first agent is
told of a manifest; all that were there by then count as one. A new controller counts anew. At worst agents then overlook
that somebody has a piece, and read it from the origin a second time.

Two more things that only the controller sees are passed on: who is far slower than the others, and who has published which
other revision, of which a good part may be the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from controller.placement import Presence
from controller.registry import Registry, Session
from controller.reports import NOTHING_SERVED, Phase
from controller.tracked import Joined, Memory, Tracked
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

LONGEST_PEERS_INTERVAL = 2.0
PEERS_INTERVAL_EACH = 0.008
"""Seconds. 250 peers are named every two seconds."""
COMPARE_SECONDS = 1.0
LAGGARDS_AMONG = 4
"""Fewer are no measure."""
LAGGING, RECOVERED = 0.4, 0.8
"""Parts of the median rate: below the one a node is slow, above the other it is not any more."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """An agent that others may be told about. `has` is the manifest that it reports as verified, empty for none.

    `revision` is what it has published, whatever it is working on; empty for nothing.
    """

    node: str
    zone: str
    address: str
    has: str
    joined: int = 0
    slow: bool = False
    revision: str = ""


class Company(NamedTuple):
    """What one agent is told about the others of one model. `keep`: there may be more, of whom is not known."""

    peers: tuple[pb.Peer, ...] = ()
    keep: bool = False
    joined: int = 0
    slow: bool = False


def peers_interval(peers: int) -> float:
    """Seconds between two messages to one agent that only tell it about its peers, of whom it has `peers`.

    In a large rollout somebody always comes, and a message names all of them. In a small one it costs nothing to be quick,
    and agents that do not know each other yet cannot help each other.
    """
    return min(LONGEST_PEERS_INTERVAL, PEERS_INTERVAL_EACH * peers)


def peers_of(node: str, digest: str, zone: Sequence[PeerFacts]) -> tuple[pb.Peer, ...]:
    """The peers of `node` for the manifest `digest`, out of the agents of its `zone`, in the order of their names."""
    others = sorted({peer.revision for peer in zone if peer.revision and peer.has != digest})
    numbers = {revision: number for number, revision in enumerate(others, 1)}
    return tuple(
        pb.Peer(
            node=peer.node,
            zone=peer.zone,
            address=peer.address,
            complete=peer.has == digest,
            joined=peer.joined,
            slow=peer.slow,
            earlier=numbers.get(peer.revision, 0) if peer.has != digest else 0,
        )
        for peer in zone
        if peer.node != node
    )


def laggards(before: Set[str], rates: Mapping[str, float]) -> frozenset[str]:
    """The nodes that are far slower than the others of their zone; `before`: those that were until now.

    `rates`: bytes/s of those that are downloading and have been measured. Agents put the slow ones last (see
    `agent.peers.ranking.demote`). Only the controller sees everybody; in a large zone two agents exchange a few pieces at
    most, too few to tell a slow link from a busy one. Coming back takes more than not being taken for one, because every
    change gives pieces other owners.
    """
    if len(rates) < LAGGARDS_AMONG:
        return frozenset(before)
    usual = statistics.median(rates.values())
    slow = {node for node, rate in rates.items() if rate < usual * (RECOVERED if node in before else LAGGING)}
    return frozenset(slow | (before - rates.keys()))


def count_joined(before: Mapping[str, Joined], present: Mapping[str, int]) -> dict[str, Joined]:
    """Numbers for agents by node; `present` are the numbers of their streams.

    Who has a number keeps it while the stream is the same. All others get the next one, together.
    """
    following = max((one.number for one in before.values()), default=0) + 1
    return {
        node: known
        if (known := before.get(node)) is not None and known.arrival == arrival
        else Joined(arrival, following)
        for node, arrival in present.items()
    }


class _Known(NamedTuple):
    """What was worked out for a model, after what it was worked out from."""

    uid: str
    assigned: tuple[str, ...] | None
    digest: str
    changes: tuple[int, int]
    slow: frozenset[str]
    zones: Mapping[str, list[PeerFacts]]
    awaited: bool


class Swarms:
    """Works the facts out once for each change, not once for each agent: with 1,000 agents that is a difference."""

    def __init__(self, registry: Registry, memory: Memory) -> None:
        self._registry = registry
        self._memory = memory
        self._known: dict[ObjectKey, _Known] = {}

    def company(self, key: ObjectKey, digest: str, session: Session) -> Company:
        """What the agent of `session` is told about the others that should hold manifest `digest` of a model."""
        tracked = self._memory.get(key)
        if tracked is None or tracked.assigned is None:
            return Company(keep=True)
        known = self._of(key, tracked)
        if not digest:
            return Company(keep=known.awaited)
        mine = tracked.joined.get(session.node)
        peers = peers_of(session.node, digest, known.zones.get(session.zone, ()))
        joined = mine.number if mine is not None else 0
        return Company(peers, known.awaited, joined, slow=session.node in tracked.slow)

    def _of(self, key: ObjectKey, tracked: Tracked) -> _Known:
        known, changes = self._known.get(key), self._registry.changes_of(key)
        digest = tracked.order.digest if tracked.order is not None else ""
        basis = (tracked.uid, tracked.assigned, digest, changes, tracked.slow)
        if known is None or known[:5] != basis:
            self._known[key] = known = _Known(*basis, self._zones(key, tracked), self._awaits_agents(tracked))
        return known

    def _awaits_agents(self, tracked: Tracked) -> bool:
        """Whether an agent that should hold this model may be there without having been heard of."""
        return any(self._registry.presence(node) is Presence.AWAITED for node in tracked.assigned or ())

    def _zones(self, key: ObjectKey, tracked: Tracked) -> dict[str, list[PeerFacts]]:
        """The serving agents of a model by zone, each list in the order of names."""
        # One whose stream broke a moment ago still serves, as far as anybody knows.
        sessions = {
            node: session
            for node in tracked.assigned or ()
            if (session := self._registry.last_session_of(node)) is not None and session.serves_at
        }
        if tracked.order is not None and tracked.order.digest:
            tracked.joined = count_joined(tracked.joined, {node: one.arrival for node, one in sessions.items()})
        zones: dict[str, list[PeerFacts]] = {}
        for node, session in sorted(sessions.items()):
            report = session.reports.get(key)
            has, revision = report.served if report is not None else NOTHING_SERVED
            number = tracked.joined[node].number if node in tracked.joined else 0
            zones.setdefault(session.zone, []).append(
                PeerFacts(
                    node=node,
                    zone=session.zone,
                    address=session.serves_at,
                    has=has,
                    joined=number,
                    slow=node in tracked.slow,
                    revision=revision,
                )
            )
        return zones


def compare(key: ObjectKey, tracked: Tracked, registry: Registry, now: float) -> bool:
    """Finds out anew which nodes of a model are slow, at most once in COMPARE_SECONDS; whether they are others than before.

    `now` is in monotonic seconds.
    """
    if tracked.compared_at is not None and now - tracked.compared_at < COMPARE_SECONDS:
        return False
    tracked.compared_at = now
    rates: dict[str, dict[str, float]] = {}
    for node in tracked.assigned or ():
        session = registry.session_of(node)
        report = session.reports.get(key) if session is not None else None
        if session is not None and report is not None:
            zone = rates.setdefault(session.zone, {})
            if report.phase is Phase.DOWNLOADING and report.bytes_per_second:
                zone[node] = report.bytes_per_second
    assigned = set(tracked.assigned or ())
    slow = frozenset(tracked.slow & assigned)
    for found in rates.values():
        slow = slow - found.keys() | laggards(slow & found.keys(), found)
    before, tracked.slow = tracked.slow, slow
    return slow != before
