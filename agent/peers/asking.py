"""Whom to ask for a piece now.

The normal case is the parent in the piece's tree (see `ranking`), or, for the owner, the origin. Everything else follows
from taking peers out of the order: a peer that is dead, lying, or has failed for this piece is left out, everybody behind
it moves up, and whoever arrives at rank 0 is the owner now. So when an owner dies, exactly one other reads the origin.
The list only gets shorter, so the way always ends at the origin.

Before it reads the origin, an owner looks who has the piece already: agents come and go during a download, and the owner
of today may not be the one who has read it. After somebody has left, those who rank next have it from there; after somebody
has come, the former owners have it, who can be told from the order in which the agents came; after somebody has turned out to
be slow, he may have it; and what a revision shares with another one, those have who have published that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

from xxhash import xxh3_128_digest

from agent.peers.ranking import PeerId, PieceId, ancestors, demote, depth, former_owners
from agent.peers.tuning import SwarmTuning


@dataclass(frozen=True)
class Ask:
    """Ask this peer for the piece. When it has it under way, waiting there is fine."""

    peer: PeerId


@dataclass(frozen=True)
class Origin:
    """Read the piece from the origin."""


@dataclass(frozen=True)
class Look:
    """Ask these peers which pieces they have, then decide again with the answers (whoever does not answer counts, too)."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True)
class Wait:
    """Decide again after `seconds`: everybody who could be asked is busy."""

    seconds: float


Decision = Ask | Origin | Look | Wait


@dataclass(frozen=True)
class Attempt:
    """What is known about one piece, by the agent that wants it.

    `holders`: peers that have it, or are reading it from the origin: those that are complete, and those whose bitmap says
    so. `looked`: peers whose bitmap is fresh. `failed`: peers that failed for this piece, in whichever way. `busy`: peers
    that have answered that their queue is full, a moment ago. `waited`: seconds since anything about this piece has moved.
    """

    holders: Set[PeerId] = frozenset()
    looked: Set[PeerId] = frozenset()
    failed: Set[PeerId] = frozenset()
    busy: Set[PeerId] = frozenset()
    waited: float = 0.0


def choose(
    me: PeerId,
    piece: PieceId,
    ranked: Sequence[PeerId],
    attempt: Attempt,
    tuning: SwarmTuning,
    *,
    shunned: Set[PeerId] = frozenset(),
    joined: Mapping[PeerId, int] = MappingProxyType({}),
    tiers: Mapping[PeerId, int] = MappingProxyType({}),
    earlier: Mapping[PeerId, int] = MappingProxyType({}),
) -> Decision:
    """What `me` does now to get `piece`.

    `ranked`: the peers of the zone and `me`, as `rank` sorts them for the piece. `shunned`: peers that are not asked for
    anything (they have lied, could not be reached lately, or are far slower than the others: a slow one would hold up
    everybody below it). `joined`: in which order they and `me` began with the model, as far as that is known. `tiers`: see
    `ranking.demote`. `earlier`: the peers that have other revisions of the model, by revision.
    """
    if len(attempt.failed) >= tuning.attempts:
        return Origin()
    usable = ranked
    if shunned or attempt.failed:
        usable = [peer for peer in ranked if peer == me or (peer not in shunned and peer not in attempt.failed)]
    usable = demote(usable, tiers)
    position = usable.index(me)
    if attempt.waited >= patience(position, tuning):
        return Origin()
    above = [usable[place] for place in ancestors(position, tuning.fanout)]
    holders = [peer for peer in usable if peer != me and peer in attempt.holders] if attempt.holders else []
    # A few cannot serve everybody at once: then they are for the owner to ask, and the piece goes down the tree from it.
    if holders and (not above or len(holders) * (1 + tuning.fanout) >= len(usable)):
        return _ask_holder(me, piece, above, holders, attempt.busy, tuning)
    if not above:
        passed = [peer for peer in ranked[: ranked.index(me)] if peer in usable] if tiers else []
        return _before_the_origin(me, usable, passed, attempt.looked, joined, earlier, tuning)
    for peer in above:
        if peer not in attempt.busy:
            return Ask(peer)
    return _ask_holder(me, piece, above, holders, attempt.busy, tuning)


def _before_the_origin(
    me: PeerId,
    usable: Sequence[PeerId],
    passed: Sequence[PeerId],
    looked: Set[PeerId],
    joined: Mapping[PeerId, int],
    earlier: Mapping[PeerId, int],
    tuning: SwarmTuning,
) -> Decision:
    """`passed`: who would be the owner, were it not so slow, and may have been before that was known."""
    behind = usable[1:]
    perhaps = (
        *behind[: tuning.look],
        *former_owners(behind, joined, joined.get(me, 0)),
        *passed,
        *_one_of_each(behind, earlier, tuning),
    )
    unknown = tuple(dict.fromkeys(peer for peer in perhaps if peer not in looked))
    return Look(unknown) if unknown else Origin()


def _one_of_each(behind: Sequence[PeerId], earlier: Mapping[PeerId, int], tuning: SwarmTuning) -> list[PeerId]:
    """One peer of each other revision, for what is the same in it: all that have published a revision have all of it."""
    found: dict[int, PeerId] = {}
    for peer in behind if earlier else ():
        revision = earlier.get(peer, 0)
        if revision and revision not in found and len(found) < tuning.look:
            found[revision] = peer
    return list(found.values())


def patience(position: int, tuning: SwarmTuning) -> float:
    """Seconds without progress after which the peer of rank `position` reads the origin itself.

    Longer for those further down, so that a piece that is stuck is fetched by one, and the others get it from there.
    """
    return tuning.patience * (1 + depth(position, tuning.fanout))


def _ask_holder(
    me: PeerId,
    piece: PieceId,
    above: Sequence[PeerId],
    holders: Sequence[PeerId],
    busy: Collection[PeerId],
    tuning: SwarmTuning,
) -> Decision:
    """The parent if it has the piece, else any holder: another one for each piece and each asker, so load spreads."""
    free = [peer for peer in holders if peer not in busy]
    if not free:
        return Wait(tuning.retry)
    if above and above[0] in free:
        return Ask(above[0])
    seed = f"{piece.content}\0{piece.number}\0{me}\0".encode()
    return Ask(min(free, key=lambda peer: (xxh3_128_digest(seed + peer.encode()), peer)))
