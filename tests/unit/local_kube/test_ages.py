"""Ages as kubectl words them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.ages import human_age, human_duration

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1.5, "0s"),
        (0, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (10 * MINUTE - 1, "9m59s"),
        (10 * MINUTE, "10m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 5 * MINUTE, "3h5m"),
        (8 * HOUR, "8h"),
        (2 * DAY - 1, "47h"),
        (2 * DAY, "2d"),
        (2 * DAY + 3 * HOUR, "2d3h"),
        (8 * DAY + 3 * HOUR, "8d"),
        (730 * DAY - 1, "729d"),
        (730 * DAY, "2y"),
        (735 * DAY, "2y5d"),
        (8 * 365 * DAY + DAY, "8y"),
    ],
)
def test_two_or_three_figures(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@given(st.floats(min_value=0, max_value=10**10))
def test_every_duration_has_a_short_text(seconds: float) -> None:
    text = human_duration(seconds)
    assert text[0].isdigit()
    assert len(text) <= 7


def test_ages_of_timestamps() -> None:
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    assert human_age("2026-11-22T11:59:30Z", now) == "30s"
    assert human_age("2026-11-22T13:59:30+02:00", now) == "30s"
    assert human_age("2026-11-22T12:00:01Z", now) == "0s"
    assert human_age("2026-11-22T13:00:00Z", now) == "<invalid>"
    assert human_age("yesterday", now) == "<invalid>"
    assert human_age(None, now) == "<unknown>"
    assert human_age("", now) == "<unknown>"
