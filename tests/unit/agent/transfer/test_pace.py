from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.pace import MEMORY_SECONDS, WINDOW_SECONDS, PaceBoard, is_laggard
from tests.support.instant_clock import InstantClock


@settings(deadline=None)
@given(st.floats(0, 1e9), st.lists(st.floats(1, 1e9), max_size=2))
def test_nobody_is_judged_by_too_few_others(own: float, others: list[float]) -> None:
    assert not is_laggard(own, others)


@settings(deadline=None)
@given(st.lists(st.floats(1, 1e9), min_size=3, max_size=20))
def test_the_median_is_never_a_laggard(rates: list[float]) -> None:
    assert not is_laggard(sorted(rates)[len(rates) // 2], rates)


def test_far_slower_than_the_others_is_a_laggard() -> None:
    assert is_laggard(1.0, [100.0, 100.0, 100.0])
    assert not is_laggard(20.0, [100.0, 100.0, 100.0])


def board_with_fast_others(clock: InstantClock) -> PaceBoard:
    board = PaceBoard(clock)
    for _ in range(3):
        other = board.start()
        clock.advance(1.0)
        other.advance(10_000_000)
        other.finish()
    return board


def test_a_transfer_is_given_up_after_a_slow_window_and_not_before() -> None:
    clock = InstantClock()
    slow = board_with_fast_others(clock).start()
    clock.advance(WINDOW_SECONDS - 1)
    assert not slow.advance(10)
    clock.advance(1.5)
    assert slow.advance(10)


def test_a_slow_line_slows_all_and_nobody_is_given_up() -> None:
    clock = InstantClock()
    board = PaceBoard(clock)
    transfers = [board.start() for _ in range(4)]
    for _ in range(5):
        clock.advance(WINDOW_SECONDS + 1)
        assert not any(transfer.advance(100) for transfer in transfers)


def test_old_rates_are_forgotten() -> None:
    clock = InstantClock()
    board = board_with_fast_others(clock)
    clock.advance(MEMORY_SECONDS + 1)
    slow = board.start()
    clock.advance(WINDOW_SECONDS + 1)
    assert not slow.advance(10)
