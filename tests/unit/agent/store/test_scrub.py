"""What is read again when, and where a changed path leads."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store.rows import BlobRow
from agent.store.scrub import Schedule, schedule
from agent.store.watching import Touched, touched
from modelcache.paths import CachePaths

DAY = 86400.0
NOW = 1_700_000_000.0


def blob(name: str, verified_at: float | None) -> BlobRow:
    return BlobRow(name, 1, 1, 1, verified_at)


def test_the_longest_unread_comes_first() -> None:
    blobs = [blob("fresh", NOW - DAY), blob("old", NOW - 8 * DAY), blob("older", NOW - 9 * DAY), blob("never", None)]
    assert schedule(blobs, NOW, 7 * DAY) == Schedule(("never", "older", "old"), 0.0, 4, None)
    assert schedule(blobs[:3], NOW, 7 * DAY) == Schedule(("older", "old"), 0.0, 3, NOW - 9 * DAY)
    assert schedule(blobs[:1], NOW, 7 * DAY) == Schedule((), 6 * DAY, 1, NOW - DAY)
    assert schedule([], NOW, 7 * DAY) == Schedule((), None, 0, None)


def test_a_clock_that_was_set_back_costs_a_read_and_does_not_put_it_off_for_years() -> None:
    blobs = [blob("future", NOW + 3650 * DAY), blob("past", NOW - DAY)]
    assert schedule(blobs, NOW, 7 * DAY).due == ("future",)


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.none() | st.floats(0, 2 * NOW), max_size=12),
    st.floats(60, 100 * DAY),
    st.floats(0, 100 * DAY),
)
def test_after_the_wait_something_is_due_and_nothing_before(
    verified: dict[str, float | None], interval: float, part: float
) -> None:
    blobs = [blob(name, when) for name, when in verified.items()]
    found = schedule(blobs, NOW, interval)
    assert set(found.due) == {
        name for name, when in verified.items() if when is None or when > NOW or when + interval <= NOW
    }
    if found.due:
        assert found.wait == 0.0
    elif found.wait is not None:
        assert schedule(blobs, NOW + found.wait + 1.0, interval).due
        assert not schedule(blobs, NOW + min(part, found.wait * 0.99), interval).due
    else:
        assert not blobs


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models/team/llama/abc/weights/part-1", Touched(namespace="team", name="llama")),
        ("models/team/llama/current", Touched(namespace="team", name="llama")),
        ("models/team/llama", Touched(namespace="team", name="llama")),
        ("models/team", Touched(namespace="team")),
        ("models", Touched()),
        ("hub/team/models--a--b/snapshots/c/f", Touched(namespace="team", repo="models--a--b")),
        ("hub/team", Touched(namespace="team")),
        ("blobs/sha256", Touched()),
        (f"blobs/sha256/ab/{'ab' * 32}", Touched(sha256="ab" * 32)),
        ("blobs/sha256/ab", None),
        ("partial/x/data", None),
        ("modelsx/team", None),
    ],
)
def test_a_path_leads_to_what_may_have_changed(path: str, expected: Touched | None) -> None:
    paths = CachePaths(Path("/cache"))
    assert touched(paths, f"/cache/{path}") == expected
