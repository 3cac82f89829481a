"""Agents are told who else has a model, in their zone only, and in which order they came."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from controller.swarms import LAGGARDS_AMONG, PeerFacts, count_joined, laggards, peers_of
from controller.tracked import Joined

ZONE = [PeerFacts("a", "z", "10.0.0.1:1", ""), PeerFacts("b", "z", "10.0.0.2:1", "d" * 64, joined=2)]


def test_the_others_of_the_zone_are_the_peers() -> None:
    (peer,) = peers_of("a", "d" * 64, ZONE)
    assert (peer.node, peer.zone, peer.address, peer.complete, peer.joined) == ("b", "z", "10.0.0.2:1", True, 2)


def test_a_peer_that_has_another_manifest_is_not_complete() -> None:
    (peer,) = peers_of("a", "e" * 64, ZONE)
    assert not peer.complete


def test_peers_with_the_same_other_revision_have_the_same_number() -> None:
    zone = [
        PeerFacts(node, "z", "10.0.0.1:1", has, revision=revision)
        for node, has, revision in [
            ("a", "", ""),
            ("b", "d", "new"),
            ("c", "o", "old"),
            ("d", "", "old"),
            ("e", "p", "older"),
        ]
    ]
    numbers = {peer.node: peer.earlier for peer in peers_of("a", "d", zone)}
    assert numbers["b"] == 0, "it has what is wanted"
    assert numbers["c"] == numbers["d"] > 0
    assert numbers["e"] not in (0, numbers["c"])


RATES = dict.fromkeys("abcd", 100.0)


def test_one_that_is_far_below_the_median_is_slow() -> None:
    assert laggards(set(), RATES | {"e": 20.0}) == {"e"}
    assert laggards(set(), RATES | {"e": 60.0}) == frozenset()


def test_among_few_nobody_becomes_slow() -> None:
    assert laggards(set(), dict(list(RATES.items())[: LAGGARDS_AMONG - 2]) | {"e": 1.0}) == frozenset()


def test_the_slow_have_to_become_quite_quick_again_and_those_that_are_not_measured_stay_what_they_were() -> None:
    assert laggards({"e"}, RATES | {"e": 60.0}) == {"e"}
    assert laggards({"e"}, RATES | {"e": 90.0}) == frozenset()
    assert laggards({"e"}, RATES) == {"e"}


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1, 1e9)), st.sets(st.sampled_from("abcdefgh")))
def test_fewer_than_half_of_those_that_are_measured_become_slow(rates: dict[str, float], before: set[str]) -> None:
    slow = laggards(before, rates)
    assert before - rates.keys() <= slow
    assert 2 * len(slow - before) <= len(rates)


def test_agents_that_are_there_from_the_beginning_joined_together() -> None:
    assert {one.number for one in count_joined({}, {"a": 1, "b": 2, "c": 3}).values()} == {1}


def test_one_that_comes_later_has_a_higher_number_and_the_others_keep_theirs() -> None:
    first = count_joined({}, {"a": 1, "b": 2})
    second = count_joined(first, {"a": 1, "b": 2, "c": 3})
    assert second == {**first, "c": Joined(3, 2)}


def test_one_that_comes_back_has_joined_anew() -> None:
    first = count_joined({}, {"a": 1, "b": 2})
    again = count_joined(first, {"a": 9, "b": 2})
    assert again["a"].number > again["b"].number
    gone = count_joined(first, {"b": 2})
    assert count_joined(gone, {"a": 1, "b": 2})["a"].number > 1


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=12))
def test_whoever_was_there_before_another_came_never_has_a_higher_number(steps: list[dict[str, int]]) -> None:
    numbers: Mapping[str, Joined] = {}
    for present in steps:
        before, numbers = numbers, count_joined(numbers, present)
        assert numbers.keys() == present.keys()
        stayed = {node for node in present if before.get(node) == numbers[node]}
        assert all(numbers[old].number < numbers[new].number for old in stayed for new in present.keys() - stayed)
        assert all(before[node].arrival != present[node] for node in before.keys() & present.keys() - stayed)
