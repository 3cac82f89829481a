"""Whom to ask for a piece now, what an errand remembers, and what is answered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.peers.admission import Absent, Answer, Busy, Have, Hold, Redirect, Serve, admit
from agent.peers.asking import Ask, Attempt, Look, Origin, Wait, choose, patience
from agent.peers.errand import Errand
from agent.peers.ranking import PeerId, PieceId, rank
from agent.peers.tuning import DEFAULT_TUNING
from agent.peers.turns import turns

PIECE = PieceId("sha256:" + "0" * 64, 0)
RANKED = rank(PIECE, [PeerId(f"node-{number}") for number in range(7)])
EVERYBODY = frozenset(RANKED)


def test_the_owner_looks_who_has_the_piece_before_it_reads_the_origin() -> None:
    assert choose(RANKED[0], PIECE, RANKED, Attempt(), DEFAULT_TUNING) == Look(RANKED[1:5])
    assert choose(RANKED[0], PIECE, RANKED, Attempt(looked=EVERYBODY), DEFAULT_TUNING) == Origin()


def test_an_owner_that_came_later_also_looks_at_those_who_owned_the_piece_before() -> None:
    joined = dict.fromkeys(RANKED, 2) | {RANKED[6]: 1}
    decision = choose(RANKED[0], PIECE, RANKED, Attempt(), DEFAULT_TUNING, joined=joined)
    assert decision == Look((*RANKED[1:5], RANKED[6]))


def test_a_slow_owner_gives_way_to_the_next_who_looks_at_it_first() -> None:
    tiers = {RANKED[0]: 1}
    decision = choose(RANKED[1], PIECE, RANKED, Attempt(), DEFAULT_TUNING, tiers=tiers)
    assert decision == Look((*RANKED[2:6], RANKED[0]))
    looked = Attempt(looked=EVERYBODY)
    assert choose(RANKED[1], PIECE, RANKED, looked, DEFAULT_TUNING, tiers=tiers) == Origin()
    decision = choose(RANKED[0], PIECE, RANKED, looked, DEFAULT_TUNING, tiers=tiers)
    assert isinstance(decision, Ask), "it knows of itself that it is slow"
    asked = {choose(peer, PIECE, RANKED, looked, DEFAULT_TUNING, tiers=tiers) for peer in RANKED[2:]}
    assert Ask(RANKED[0]) not in asked, "nobody hangs below it"


def test_the_owner_looks_at_one_peer_of_each_other_revision() -> None:
    earlier = {RANKED[5]: 2, RANKED[6]: 2}
    decision = choose(RANKED[0], PIECE, RANKED, Attempt(), DEFAULT_TUNING, earlier=earlier)
    assert decision == Look((*RANKED[1:5], RANKED[5]))


def test_others_ask_their_parent_and_when_it_is_busy_those_above_it() -> None:
    assert choose(RANKED[5], PIECE, RANKED, Attempt(), DEFAULT_TUNING) == Ask(RANKED[2])
    busy = Attempt(busy={RANKED[2]})
    assert choose(RANKED[5], PIECE, RANKED, busy, DEFAULT_TUNING) == Ask(RANKED[0])
    assert choose(RANKED[5], PIECE, RANKED, Attempt(busy={RANKED[2], RANKED[0]}), DEFAULT_TUNING) == Wait(
        DEFAULT_TUNING.retry
    )


def test_when_the_owner_is_gone_exactly_one_other_reads_the_origin() -> None:
    looked = Attempt(looked=EVERYBODY)
    decisions = [
        choose(peer, PIECE, RANKED, looked, DEFAULT_TUNING, shunned=frozenset({RANKED[0]})) for peer in RANKED[1:]
    ]
    assert decisions.count(Origin()) == 1


def test_few_holders_are_asked_by_the_owner_alone_and_many_by_everybody() -> None:
    few = Attempt(holders={RANKED[6]}, looked=EVERYBODY)
    assert choose(RANKED[0], PIECE, RANKED, few, DEFAULT_TUNING) == Ask(RANKED[6])
    assert choose(RANKED[3], PIECE, RANKED, few, DEFAULT_TUNING) == Ask(RANKED[1])
    many = Attempt(holders=EVERYBODY - {RANKED[1], RANKED[3]}, looked=EVERYBODY)
    decision = choose(RANKED[3], PIECE, RANKED, many, DEFAULT_TUNING)
    assert isinstance(decision, Ask)
    assert decision.peer in many.holders


@given(
    st.sampled_from(RANKED),
    st.sets(st.sampled_from(RANKED)),
    st.sets(st.sampled_from(RANKED)),
    st.sets(st.sampled_from(RANKED)),
    st.sets(st.sampled_from(RANKED)),
)
def test_nobody_asks_himself_or_who_is_shunned_or_has_failed(
    me: PeerId, holders: set[PeerId], failed: set[PeerId], busy: set[PeerId], shunned: set[PeerId]
) -> None:
    attempt = Attempt(holders=holders - {me}, failed=failed - {me}, busy=busy)
    decision = choose(me, PIECE, RANKED, attempt, DEFAULT_TUNING, shunned=shunned)
    peers = (decision.peer,) if isinstance(decision, Ask) else decision.peers if isinstance(decision, Look) else ()
    assert not {me, *shunned, *attempt.failed} & set(peers)


@given(st.integers(0, 6), st.sets(st.sampled_from(RANKED)))
def test_a_piece_with_which_nothing_moves_is_read_from_the_origin_in_the_end(position: int, busy: set[PeerId]) -> None:
    attempt = Attempt(busy=busy, waited=patience(position, DEFAULT_TUNING))
    assert choose(RANKED[position], PIECE, RANKED, attempt, DEFAULT_TUNING) == Origin()


def test_a_peer_that_kept_us_waiting_may_be_asked_at_once_and_one_that_only_says_so_may_not() -> None:
    errand, peer = Errand(0.0, DEFAULT_TUNING), RANKED[0]
    errand.busy(peer, 5.0, asked_at=0.0)
    assert peer not in errand.attempt(frozenset(), frozenset(), 5.0).busy
    errand.busy(peer, 5.0, asked_at=5.0)
    assert peer in errand.attempt(frozenset(), frozenset(), 5.0).busy


def test_waiting_counts_from_when_something_moved() -> None:
    errand, peer = Errand(0.0, DEFAULT_TUNING), RANKED[0]
    errand.busy(peer, 4.0, progress=100)
    assert errand.attempt(frozenset(), frozenset(), 10.0).waited == 6.0
    errand.busy(peer, 9.0, progress=100)
    assert errand.attempt(frozenset(), frozenset(), 10.0).waited == 6.0, "no more than before"
    errand.moved(10.0)
    assert errand.attempt(frozenset(), frozenset(), 10.0).waited == 0.0


def test_who_turns_out_to_lack_a_piece_is_no_holder_whatever_its_bitmap_says() -> None:
    errand, peer = Errand(0.0, DEFAULT_TUNING), RANKED[0]
    errand.lacks(peer, 0.0, early=True)
    attempt = errand.attempt(frozenset({peer}), frozenset({peer}), 60.0)
    assert peer not in attempt.holders
    assert peer not in attempt.failed
    errand.lacks(peer, 60.0, early=False)
    assert errand.excludes(peer)


def answer(have: Have, **facts: object) -> Answer:
    usual: dict[str, object] = {"uploads": 0, "queued": 0, "ready": 0, "served": [], "turn": 0, "held": False}
    return admit(RANKED[0], have, tuning=DEFAULT_TUNING, **(usual | facts))  # type: ignore[arg-type]  # one table


def test_no_more_uploads_than_the_cap() -> None:
    assert answer(Have.YES, uploads=DEFAULT_TUNING.uploads - 1) == Serve()
    assert answer(Have.YES, uploads=DEFAULT_TUNING.uploads) == Hold(DEFAULT_TUNING.hold)


def test_who_has_the_hands_full_sends_others_to_those_who_have_got_the_piece_in_turn() -> None:
    full = {"uploads": DEFAULT_TUNING.uploads, "ready": DEFAULT_TUNING.ready, "served": RANKED[:3]}
    assert answer(Have.YES, **full) == Redirect(RANKED[1])
    assert answer(Have.YES, **full, turn=1) == Redirect(RANKED[2])


def test_what_is_under_way_is_waited_for_once() -> None:
    assert answer(Have.UNDER_WAY) == Hold(DEFAULT_TUNING.hold)
    assert answer(Have.UNDER_WAY, held=True) == Busy(0.0)
    assert answer(Have.UNDER_WAY, queued=DEFAULT_TUNING.queue) == Busy(DEFAULT_TUNING.retry)
    assert answer(Have.NO) == Absent()


@given(st.integers(1, 2000), st.integers(1, 64))
def test_many_agents_read_one_piece_each_and_one_alone_reads_as_many_as_it_may(agents: int, connections: int) -> None:
    limit = turns(agents, connections, DEFAULT_TUNING)
    assert 1 <= limit <= connections
    assert agents < DEFAULT_TUNING.readers or limit == 1
