import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.backoff import delay, full_jitter


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 10), st.floats(0.01, 100), st.integers())
def test_full_jitter_stays_below_the_exponential_bound_and_the_cap(
    attempt: int, base: float, cap: float, seed: int
) -> None:
    wait = full_jitter(attempt, base, cap, random.Random(seed))
    assert 0 <= wait <= cap
    assert wait <= base * 2.0 ** min(attempt, 32)


def test_full_jitter_uses_the_whole_range() -> None:
    rng = random.Random(1)
    waits = [full_jitter(3, 1.0, 60.0, rng) for _ in range(1000)]
    assert min(waits) < 0.8
    assert max(waits) > 7.2


@settings(deadline=None)
@given(st.floats(0, 3600), st.integers(0, 50), st.integers())
def test_delay_is_never_shorter_than_what_the_server_asked_for(asked: float, attempt: int, seed: int) -> None:
    assert asked <= delay(asked, attempt, 1.0, 60.0, random.Random(seed)) <= asked * 1.1 + 1e-9


def test_delay_without_a_wish_of_the_server_backs_off() -> None:
    assert delay(None, 4, 1.0, 60.0, random.Random(5)) == full_jitter(4, 1.0, 60.0, random.Random(5))
