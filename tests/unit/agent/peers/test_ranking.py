"""Who is responsible for a piece, and in which order an agent walks its pieces."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.peers.ranking import PeerId, PieceId, ancestors, demote, depth, former_owners, precedes, rank, walk
from agent.peers.tuning import DEFAULT_TUNING

PIECES = [PieceId("sha256:" + "0" * 64, number) for number in range(64)]
PEERS = [PeerId(f"node-{number}") for number in range(20)]
peers = st.sets(st.sampled_from(PEERS), min_size=1)
piece = st.sampled_from(PIECES)


@given(piece, peers, st.sampled_from(PEERS))
def test_when_a_peer_leaves_the_order_of_the_others_stays(piece: PieceId, present: set[PeerId], gone: PeerId) -> None:
    assert rank(piece, present - {gone}) == tuple(peer for peer in rank(piece, present) if peer != gone)


@given(piece, peers)
def test_two_peers_compare_as_they_rank(piece: PieceId, present: set[PeerId]) -> None:
    ranked = rank(piece, present)
    assert all(precedes(piece, one, other) for one, other in pairwise(ranked))
    assert not precedes(piece, ranked[0], ranked[0])


@given(piece, peers, st.dictionaries(st.sampled_from(PEERS), st.integers(-1, 1)))
def test_the_slow_come_last_and_among_each_other_as_before(
    piece: PieceId, present: set[PeerId], tiers: dict[PeerId, int]
) -> None:
    ranked = rank(piece, present)
    order = demote(ranked, tiers)
    assert set(order) == present
    for one, other in pairwise(order):
        before, after = tiers.get(one, 0), tiers.get(other, 0)
        assert before < after or (before == after and ranked.index(one) < ranked.index(other))
        assert precedes(piece, one, other, tiers)
        assert not precedes(piece, other, one, tiers)


def test_every_peer_owns_its_share() -> None:
    owned = [sum(rank(piece, PEERS[:4])[0] == peer for piece in PIECES) for peer in PEERS[:4]]
    assert min(owned) >= 8


@given(st.integers(0, 500), st.integers(1, 8))
def test_the_way_up_ends_at_the_owner_after_as_many_steps_as_the_rank_is_deep(position: int, fanout: int) -> None:
    way = list(ancestors(position, fanout))
    assert len(way) == depth(position, fanout)
    assert way == sorted(way, reverse=True)
    assert (way or [position])[-1] == 0


@given(piece, st.permutations(PEERS[:8]))
def test_former_owners_are_exactly_those_who_owned_the_piece_as_peers_came(
    piece: PieceId, arrivals: list[PeerId]
) -> None:
    joined = {peer: number for number, peer in enumerate(arrivals)}
    owners = {rank(piece, arrivals[: number + 1])[0] for number in range(len(arrivals))}
    owner, *behind = rank(piece, arrivals)
    assert {owner, *former_owners(behind, joined, joined[owner])} == owners


def test_who_began_together_has_no_former_owner() -> None:
    _, *behind = rank(PIECES[0], PEERS)
    assert list(former_owners(behind, dict.fromkeys(PEERS, 3), 3)) == []
    assert list(former_owners(behind, {}, 0)) == []


@given(st.lists(st.integers(0, 19), min_size=64, max_size=64), st.lists(st.integers(0, 63)))
def test_a_walk_gives_each_piece_once_whatever_is_wanted(ranks: list[int], wanted: list[int]) -> None:
    order = list(walk(PIECES, lambda piece: ranks[piece.number], DEFAULT_TUNING, deque(wanted)))
    assert sorted(order) == list(range(64))
    first = list(dict.fromkeys(wanted))
    assert order[: len(first)] == first


def test_pieces_come_the_later_the_deeper_the_agent_is_in_their_tree() -> None:
    order = list(walk(PIECES, lambda piece: 1 if piece.number == 0 else 0, DEFAULT_TUNING))
    assert order[: DEFAULT_TUNING.stride] == [*range(1, DEFAULT_TUNING.stride), 0]


def test_what_is_wanted_in_the_middle_comes_next() -> None:
    wanted: deque[int] = deque()
    order = walk(PIECES, lambda piece: 0, DEFAULT_TUNING, wanted)
    assert next(order) == 0
    wanted.append(50)
    assert next(order) == 50
    assert next(order) == 1
