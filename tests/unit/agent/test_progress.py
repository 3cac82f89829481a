"""Rates that a person can read."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.progress import MIN_INTERVAL, SMOOTHING_SECONDS, RateMeter

examples = settings(deadline=None, derandomize=True, max_examples=100)


def test_a_steady_download_has_its_rate() -> None:
    meter = RateMeter()
    rates = [meter.sample(float(second), second * 1000) for second in range(30)]
    assert rates[0] == 0
    assert set(rates[1:]) == {1000}


def test_a_change_of_speed_shows_gradually_and_then_fully() -> None:
    meter = RateMeter()
    meter.sample(0.0, 0)
    meter.sample(1.0, 1000)
    after_one_constant = meter.sample(1.0 + SMOOTHING_SECONDS, 1000)
    assert after_one_constant == round(1000 * math.exp(-1))
    assert meter.sample(1000.0, 1000) == 0


def test_counts_that_follow_too_closely_change_nothing() -> None:
    meter = RateMeter()
    meter.sample(0.0, 0)
    meter.sample(1.0, 1000)
    assert meter.sample(1.0 + MIN_INTERVAL / 2, 9_000_000) == 1000


def test_a_smaller_count_starts_anew() -> None:
    meter = RateMeter()
    meter.sample(0.0, 0)
    meter.sample(1.0, 1000)
    assert meter.sample(2.0, 500) == 0
    assert meter.sample(3.0, 600) == 100


@examples
@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**50))))
def test_a_rate_is_never_negative(samples: list[tuple[float, int]]) -> None:
    meter = RateMeter()
    for now, count in sorted(samples):
        assert meter.sample(now, count) >= 0
