"""What each agent is told about the other agents of its models: where they serve, and in which order they came.

Agents exchange content within a zone only, so an agent hears of those in its own zone, and may read from and be read by
nobody else. The order matters to agents that change owners in the middle of a download (see `agent.peers.ranking`): who has
come before whom says where a piece may already be. It is counted here, per model, from the moment when the first agent is
told of a manifest; all that were there by then count as one. A new controller counts anew. At worst agents then overlook
that somebody has a piece, and read it from the origin a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from controller.placement import Presence
from controller.registry import Registry, Session
from controller.reports import Phase
from controller.tracked import Joined, Memory, Tracked
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

LONGEST_PEERS_INTERVAL = 2.0
PEERS_INTERVAL_EACH = 0.008
"""Seconds. 250 peers are named every two seconds."""
_COMPLETE = (Phase.VERIFIED, Phase.READY)


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """An agent that others may be told about. `has` is the manifest that it reports as verified, empty for none."""

    node: str
    zone: str
    address: str
    has: str
    joined: int = 0


class Company(NamedTuple):
    """What one agent is told about the others of one model. `keep`: there may be more, of whom is not known."""

    peers: tuple[pb.Peer, ...] = ()
    keep: bool = False
    joined: int = 0


def peers_interval(peers: int) -> float:
    """Seconds between two messages to one agent that only tell it about its peers, of whom it has `peers`.

    In a large rollout somebody always comes, and a message names all of them. In a small one it costs nothing to be quick,
    and agents that do not know each other yet cannot help each other.
    """
    return min(LONGEST_PEERS_INTERVAL, PEERS_INTERVAL_EACH * peers)


def peers_of(node: str, digest: str, zone: Iterable[PeerFacts]) -> tuple[pb.Peer, ...]:
    """The peers of `node` for the manifest `digest`, out of the agents of its `zone`, in the order of their names."""
    return tuple(
        pb.Peer(node=peer.node, zone=peer.zone, address=peer.address, complete=peer.has == digest, joined=peer.joined)
        for peer in zone
        if peer.node != node
    )


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
    changes: int
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
        return Company(peers, known.awaited, mine.number if mine is not None else 0)

    def _of(self, key: ObjectKey, tracked: Tracked) -> _Known:
        known, changes = self._known.get(key), self._registry.changes
        if known is None or known[:3] != (tracked.uid, tracked.assigned, changes):
            zones, awaited = self._zones(key, tracked), self._awaits_agents(tracked)
            self._known[key] = known = _Known(tracked.uid, tracked.assigned, changes, zones, awaited)
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
            has = report.manifest_digest if report is not None and report.phase in _COMPLETE else ""
            number = tracked.joined[node].number if node in tracked.joined else 0
            zones.setdefault(session.zone, []).append(PeerFacts(node, session.zone, session.serves_at, has, number))
        return zones
