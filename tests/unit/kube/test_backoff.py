"""How long to wait: bounds, growth, jitter, reset."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube.backoff import Backoff, full_jitter


class Highest(Random):
    """A random source that always draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


@settings(deadline=None)
@given(attempt=st.integers(0, 10**6), base=st.floats(0.01, 60), cap=st.floats(0.01, 3600), seed=st.integers())
def test_full_jitter_stays_within_its_bound(attempt: int, base: float, cap: float, seed: int) -> None:
    delay = full_jitter(attempt, base=base, cap=cap, rng=Random(seed))
    assert 0 <= delay <= cap
    assert delay <= base * 2.0 ** min(attempt, 64)


def test_bound_doubles_up_to_the_cap() -> None:
    backoff = Backoff(Highest(), base=1, cap=30)
    assert [backoff.fail(now=0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.failures == 7


def test_jitter_reaches_down_to_nothing() -> None:
    rng = Random(3)
    delays = [full_jitter(3, base=1, cap=30, rng=rng) for _ in range(1000)]
    assert min(delays) < 0.2
    assert max(delays) > 7.8


def test_only_a_healthy_period_resets() -> None:
    backoff = Backoff(Highest(), base=1, cap=100, reset_after=60)
    now = 0.0
    for expected in (1, 2, 4):
        delay = backoff.fail(now)
        assert delay == expected
        now += delay + 59
    now += 2
    assert backoff.fail(now) == 1


def test_the_wait_itself_is_no_healthy_period() -> None:
    backoff = Backoff(Highest(), base=1, cap=1000, reset_after=60)
    assert backoff.fail(0.0, at_least=500) == 500
    assert backoff.fail(501.0) == 2


def test_retry_after_is_a_minimum() -> None:
    backoff = Backoff(Highest(), base=8)
    assert backoff.fail(0.0, at_least=3) == 8
    assert backoff.fail(0.0, at_least=100) == 100
