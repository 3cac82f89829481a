"""What goes when room is needed, for every set of revisions that can be written down."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.eviction import Eviction, Revision, Watermarks, evict, evictable, excess

examples = settings(deadline=None, derandomize=True, max_examples=100)

BLOBS = {f"blob-{number}": 4096 * (number + 1) for number in range(8)}


@st.composite
def caches(draw: st.DrawFn) -> list[Revision]:
    """Revisions that share content at random."""
    return [
        Revision(
            key=("team", f"model-{number}", "a" * 40),
            last_used=float(draw(st.integers(0, 5))),
            blobs={name: BLOBS[name] for name in draw(st.sets(st.sampled_from(sorted(BLOBS)), min_size=1))},
            kept=draw(st.sampled_from(["", "", "in use", "wanted", "pinned"])),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


def really_freed(revisions: list[Revision], victims: tuple[tuple[str, str, str], ...]) -> int:
    """By looking: the content that was there before and is not needed any more."""
    before = {name for revision in revisions for name in revision.blobs}
    after = {name for revision in revisions if revision.key not in victims for name in revision.blobs}
    return sum(BLOBS[name] for name in before - after)


needs = st.integers(-4096, 40 * 4096)


@examples
@given(caches(), needs)
def test_nothing_goes_that_has_to_stay(revisions: list[Revision], need: int) -> None:
    kept = {revision.key for revision in revisions if revision.kept}
    assert not kept & set(evict(revisions, need).victims)


@examples
@given(caches(), needs)
def test_what_is_said_to_be_freed_is_freed(revisions: list[Revision], need: int) -> None:
    eviction = evict(revisions, need)
    assert really_freed(revisions, eviction.victims) == eviction.bytes


@examples
@given(caches(), needs)
def test_it_is_enough_whenever_that_is_possible(revisions: list[Revision], need: int) -> None:
    eviction = evict(revisions, need)
    assert eviction.bytes >= min(need, evictable(revisions))


@examples
@given(caches(), needs)
def test_nothing_goes_in_vain(revisions: list[Revision], need: int) -> None:
    eviction = evict(revisions, need)
    assert need > 0 or eviction == Eviction()
    for victim in eviction.victims:
        rest = tuple(key for key in eviction.victims if key != victim)
        assert really_freed(revisions, rest) < eviction.bytes
    if eviction.victims:
        assert really_freed(revisions, eviction.victims[:-1]) < need


@examples
@given(caches(), needs)
def test_what_was_used_earlier_goes_earlier(revisions: list[Revision], need: int) -> None:
    victims = evict(revisions, need).victims
    by_key = {revision.key: revision for revision in revisions}
    times = [by_key[key].last_used for key in victims]
    assert times == sorted(times)
    if times:
        for revision in revisions:
            if not revision.kept and revision.key not in victims and revision.last_used < times[-1]:
                # It stayed because its going would have freed nothing.
                assert really_freed(revisions, (*victims, revision.key)) == really_freed(revisions, victims)


@examples
@given(caches(), needs)
def test_the_order_of_the_index_does_not_matter(revisions: list[Revision], need: int) -> None:
    assert evict(revisions, need) == evict(revisions[::-1], need)


@examples
@given(caches())
def test_evictable_is_what_goes_when_everything_goes(revisions: list[Revision]) -> None:
    everything = tuple(revision.key for revision in revisions if not revision.kept)
    assert evictable(revisions) == really_freed(revisions, everything) == evict(revisions, 2**60).bytes


@pytest.mark.parametrize(
    ("occupied", "limit", "free", "reserve", "expected"),
    [
        (90, 100, 1000, 0, 0),
        (91, 100, 1000, 0, 11),
        (500, None, 1000, 0, 0),
        (500, None, 10, 100, 90),
        (95, 100, 10, 100, 90),
        (95, 100, 90, 100, 15),
        (0, 0, 0, 0, 0),
    ],
)
def test_how_much_has_to_go(occupied: int, limit: int | None, free: int, reserve: int, expected: int) -> None:
    assert excess(occupied, limit, free, reserve, Watermarks(0.9, 0.8)) == expected
