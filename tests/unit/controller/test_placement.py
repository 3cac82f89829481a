"""Which nodes hold a model."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from controller.placement import Candidate, Presence, matches, place

NAMES = st.integers(min_value=0, max_value=60).map(lambda number: f"node-{number}")
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        name=NAMES,
        presence=st.sampled_from(Presence),
        holds=st.booleans(),
        models=st.integers(min_value=0, max_value=5),
    ),
    unique_by=lambda candidate: candidate.name,
    max_size=25,
)
REPLICAS = st.none() | st.integers(min_value=0, max_value=30)


@given(CANDIDATES, st.frozensets(NAMES), REPLICAS)
def test_never_more_than_replicas_and_only_candidates_that_are_not_gone(
    candidates: list[Candidate], previous: frozenset[str], replicas: int | None
) -> None:
    chosen = place("ns/model", candidates, previous, replicas)
    usable = {c.name for c in candidates if c.presence is not Presence.GONE}
    assert set(chosen) <= usable
    assert list(chosen) == sorted(set(chosen))
    if replicas is not None:
        assert len(chosen) <= replicas
        connected = {c.name for c in candidates if c.presence is Presence.CONNECTED}
        assert len(chosen) == min(replicas, len(connected | (usable & previous)))


@given(CANDIDATES, st.frozensets(NAMES), REPLICAS, st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(
    candidates: list[Candidate], previous: frozenset[str], replicas: int | None, random: Random
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert place("ns/model", candidates, previous, replicas) == place("ns/model", shuffled, previous, replicas)


@given(CANDIDATES, REPLICAS)
def test_a_second_look_changes_nothing(candidates: list[Candidate], replicas: int | None) -> None:
    first = place("ns/model", candidates, (), replicas)
    assert place("ns/model", candidates, first, replicas) == first


@given(CANDIDATES, st.frozensets(NAMES), st.integers(min_value=0, max_value=30))
def test_a_chosen_node_leaves_only_for_want_of_room(
    candidates: list[Candidate], previous: frozenset[str], replicas: int
) -> None:
    chosen = set(place("ns/model", candidates, previous, replicas))
    keepers = {c.name for c in candidates if c.name in previous and c.presence is not Presence.GONE}
    if keepers - chosen:
        assert len(keepers) > replicas
        assert chosen <= keepers


@given(CANDIDATES, st.integers(min_value=1, max_value=10))
def test_a_newcomer_with_the_files_comes_before_one_without(candidates: list[Candidate], replicas: int) -> None:
    chosen = set(place("ns/model", candidates, (), replicas))
    connected = [c for c in candidates if c.presence is Presence.CONNECTED]
    left_out = [c for c in connected if c.name not in chosen]
    if any(c.holds for c in left_out):
        assert all(c.holds for c in connected if c.name in chosen)


def test_models_spread_over_the_nodes_with_the_fewest() -> None:
    load = {f"node-{index}": 0 for index in range(10)}
    for number in range(50):
        candidates = [Candidate(name, Presence.CONNECTED, models=models) for name, models in load.items()]
        for name in place(f"ns/model-{number}", candidates, (), 2):
            load[name] += 1
    assert set(load.values()) == {10}


def test_ties_do_not_crowd_on_the_first_names() -> None:
    candidates = [Candidate(f"node-{index}", Presence.CONNECTED) for index in range(10)]
    first = {place(f"ns/model-{number}", candidates, (), 1)[0] for number in range(200)}
    assert first == {candidate.name for candidate in candidates}


def test_an_agent_that_is_briefly_away_keeps_its_place_and_is_not_newly_chosen() -> None:
    away = Candidate("a", Presence.AWAY)
    here = Candidate("b", Presence.CONNECTED)
    assert place("ns/m", [away, here], ["a"], 1) == ("a",)
    assert place("ns/m", [away, here], [], 1) == ("b",)
    assert place("ns/m", [Candidate("a", Presence.GONE), here], ["a"], 1) == ("b",)
    assert place("ns/m", [Candidate("a", Presence.AWAITED)], ["a"], None) == ("a",)
    assert place("ns/m", [Candidate("a", Presence.AWAITED)], [], None) == ()


def test_with_fewer_replicas_those_who_hold_it_stay() -> None:
    candidates = [
        Candidate("a", Presence.CONNECTED),
        Candidate("b", Presence.AWAY, holds=True),
        Candidate("c", Presence.CONNECTED, holds=True),
    ]
    assert place("ns/m", candidates, ["a", "b", "c"], 1) == ("c",)
    assert place("ns/m", candidates, ["a", "b", "c"], 2) == ("b", "c")


def test_a_selector_needs_all_its_labels() -> None:
    assert matches({"gpu": "h100", "zone": "a"}, {"gpu": "h100"})
    assert matches({}, {})
    assert not matches({"gpu": "a100"}, {"gpu": "h100"})
    assert not matches({"gpu": "h100"}, {"gpu": "h100", "zone": "a"})
