"""Who is responsible for a piece, and in which order an agent walks its pieces: computed alike everywhere, no tracker.

For each piece the peers of a zone are sorted by a hash of (piece, peer): rendezvous hashing (Thaler and Ravishankar, "A
Name-Based Mapping Scheme for Rendezvous", 1996). Rank 0 owns the piece and reads it from the origin. The order is also
read as a tree, in the layout of a heap: with fan-out k the parent of rank r is rank (r - 1) // k. Everybody asks its
parent, so a piece spreads to N peers in about log_k(N) steps while each peer sends it at most k times; and since every
piece has a tree of its own, each peer sends about as much as it receives (the idea of SplitStream, Castro et al., 2003).

When a peer leaves, the order of the others does not change: only its own pieces get another owner. For the same reason two
agents with different views of who is there never wait for each other: both look towards the lower hash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from types import MappingProxyType
from typing import NamedTuple, NewType

from xxhash import xxh3_128_digest

from agent.peers.tuning import SwarmTuning

PeerId = NewType("PeerId", str)
"""The name of the node on which the peer runs."""


class Peer(NamedTuple):
    """An agent of the same model, as the controller names it. `zone` may be empty; `complete`: it has every piece."""

    node: PeerId
    zone: str
    complete: bool


class PieceId(NamedTuple):
    """Piece `number` of a blob. `content` is the key of the blob on the wire, `sha256:<hex>` or `git:<hex>`."""

    content: str
    number: int


def neighbours(peers: Iterable[Peer], zone: str) -> list[Peer]:
    """The peers of `zone`: each zone reads the origin once, so that no piece crosses zones. No zone is a zone, too."""
    return [peer for peer in peers if peer.zone == zone]


def rank(piece: PieceId, peers: Iterable[PeerId]) -> tuple[PeerId, ...]:
    """`peers` in the order in which they are responsible for `piece`; each once, whatever order they come in.

    Ties cannot occur in practice (128-bit digests); if they did, the name would decide.
    """
    seed = f"{piece.content}\0{piece.number}\0".encode()
    return tuple(sorted(set(peers), key=lambda peer: (xxh3_128_digest(seed + peer.encode()), peer)))


def demote(ranked: Sequence[PeerId], tiers: Mapping[PeerId, int]) -> Sequence[PeerId]:
    """`ranked`, with those of a higher tier after all those of a lower one (0 for those who are not named).

    The slow ones are of a higher tier (`controller.swarms.laggards`): leaves of the tree, who own nothing as long as anybody
    else is there. What hangs below a slow link comes as slowly as it does, and in a tree that is a good part of
    everything. A slow one knows of itself as well, so it does not read as an owner what another one owns now.
    """
    return sorted(ranked, key=lambda peer: tiers.get(peer, 0)) if tiers else ranked


def precedes(piece: PieceId, one: PeerId, other: PeerId, tiers: Mapping[PeerId, int] = MappingProxyType({})) -> bool:
    """Whether `one` ranks before `other`, whoever else there is."""
    return demote(rank(piece, (one, other)), tiers)[0] == one and one != other


def former_owners(behind: Sequence[PeerId], joined: Mapping[PeerId, int], mine: int) -> Iterator[PeerId]:
    """Those who owned a piece before the agent that owns it now had come, the latest first.

    `behind`: the peers that rank after the present owner, in their order. `joined` says in which order the agents began
    with the model (0 for those of whom it is not known), `mine` the same of the present owner. A peer was the owner at some
    time only if nobody who ranks before it was there when it came; so of N peers these are about ln(N), and none at all
    where everybody began at the same time.
    """
    first = mine
    for peer in behind:
        if joined.get(peer, 0) < first:
            first = joined[peer]
            yield peer


def depth(position: int, fanout: int) -> int:
    """On which level of a piece's tree the peer of rank `position` is; 0 is the owner."""
    level = 0
    while position > 0:
        position = (position - 1) // fanout
        level += 1
    return level


def ancestors(position: int, fanout: int) -> Iterator[int]:
    """The ranks above rank `position`, from the parent up to 0, the owner. Nothing for the owner."""
    while position > 0:
        position = (position - 1) // fanout
        yield position


def walk(
    pieces: Sequence[PieceId], rank_of: Callable[[PieceId], int], tuning: SwarmTuning, wanted: deque[int] | None = None
) -> Iterator[int]:
    """The order in which an agent sets out for `pieces`: positions in it, each once. `rank_of(piece)` is the agent's own rank.

    All agents walk in the order given, which is that of the download: the owners of the next pieces then read the origin
    while the others still fetch the previous ones, at most about a window of pieces is under way at the origin however
    many agents there are, and the finished prefix of a file stays close behind (its sha256 follows in the page cache).
    But each agent asks for a piece the later the deeper it is in the piece's tree: by then its parent has it. So the order
    within the window is the agent's own, and owners are not hit in step.

    Agents that come later, or are slower, are behind the others and own pieces that those are waiting for. So what others
    have asked for comes first: `wanted` are the positions of such pieces, in that order; it is emptied on the way.
    """
    wanted = deque() if wanted is None else wanted
    given = bytearray(len(pieces))

    def urgent() -> Iterator[int]:
        while wanted:
            position = wanted.popleft()
            if not given[position]:
                given[position] = True
                yield position

    waiting: list[tuple[int, int]] = []
    for upto in range(len(pieces) + 1):
        while waiting and (waiting[0][0] <= upto or upto == len(pieces)):
            yield from urgent()
            position = heappop(waiting)[1]
            if not given[position]:
                given[position] = True
                yield position
        if upto < len(pieces):
            heappush(waiting, (upto + tuning.stride * depth(rank_of(pieces[upto]), tuning.fanout), upto))
