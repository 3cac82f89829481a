import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled
from agent.transfer.limiter import BURST_SECONDS, TokenBucket
from tests.support.instant_clock import InstantClock


@settings(deadline=None)
@given(st.floats(1.0, 1e9), st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 5)), min_size=1, max_size=30))
def test_never_faster_than_the_rate_after_a_first_burst(rate: float, reads: list[tuple[int, float]]) -> None:
    clock = InstantClock()
    bucket = TokenBucket(rate, clock)
    total = 0
    for count, pause in reads:
        clock.advance(pause)
        bucket.pay(count, CancelToken())
        total += count
        assert total <= rate * (clock.monotonic() + BURST_SECONDS) * (1 + 1e-6) + 1


def test_waits_no_longer_than_needed() -> None:
    clock = InstantClock()
    bucket = TokenBucket(1000.0, clock)
    for _ in range(100):
        bucket.pay(100, CancelToken())
    assert clock.monotonic() == pytest.approx(10.0 - BURST_SECONDS)


def test_portion_is_a_burst_at_most() -> None:
    bucket = TokenBucket(1000.0, InstantClock())
    assert bucket.portion(10**6) == 250
    assert bucket.portion(100) == 100
    assert TokenBucket(1.0, InstantClock()).portion(100) == 1


def test_without_a_rate_nothing_waits() -> None:
    clock = InstantClock()
    bucket = TokenBucket(None, clock)
    bucket.pay(10**12, CancelToken())
    assert clock.waits == []
    assert bucket.portion(12345) == 12345


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_rate_that_would_never_end_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="never end"):
        TokenBucket(rate, InstantClock())


def test_waiting_ends_with_the_download() -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        TokenBucket(1.0, InstantClock()).pay(1000, cancel)
