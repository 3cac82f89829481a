"""What one agent thinks of another: who is slow, for how long, and how long a piece may take."""

from __future__ import annotations

from agent.peers.ranking import PeerId
from agent.peers.standing import (
    SLOW_SECONDS,
    STARVED_RATE,
    Standing,
    lagged,
    longest,
    slow,
    succeeded,
)
from agent.peers.tuning import DEFAULT_TUNING

QUICK = {PeerId(f"quick-{number}"): Standing(rate=100.0, measured=0.0) for number in range(4)}
SLOW = PeerId("slow")


def test_one_that_is_far_slower_than_the_others_is_slow_until_that_is_long_ago() -> None:
    standings = QUICK | {SLOW: lagged(Standing(), 10.0, 0.0)}
    assert slow(standings, SLOW_SECONDS) == {SLOW}
    assert slow(standings, SLOW_SECONDS + 1) == frozenset()


def test_what_was_measured_long_ago_counts_for_nothing_when_it_is_measured_anew() -> None:
    standing = lagged(Standing(), 10.0, 0.0)
    assert succeeded(standing, 100.0, 1.0).rate != 100.0
    assert succeeded(standing, 100.0, SLOW_SECONDS + 1).rate == 100.0


def test_among_few_nobody_is_slow_and_one_that_sends_next_to_nothing_is_given_up_all_the_same() -> None:
    few = dict(list(QUICK.items())[:2]) | {SLOW: lagged(Standing(), 1.0, 0.0)}
    assert slow(few, 0.0) == frozenset()
    assert longest(few, 1, DEFAULT_TUNING) == DEFAULT_TUNING.lag
    assert longest(few, 100 * STARVED_RATE, DEFAULT_TUNING) == 100


def test_a_piece_may_take_several_times_as_long_as_usual_and_small_ones_some_seconds() -> None:
    assert longest(QUICK, 1, DEFAULT_TUNING) == DEFAULT_TUNING.lag
    assert 1000 / 100.0 < longest(QUICK, 1000, DEFAULT_TUNING) < 100 * 1000 / 100.0
