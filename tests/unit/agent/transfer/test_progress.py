from agent.transfer.progress import INTERVAL_SECONDS, Meter, Progress, Waiting
from tests.support.instant_clock import InstantClock


def meter(clock: InstantClock) -> tuple[Meter, list[Progress]]:
    told: list[Progress] = []
    return Meter(1000, 2, clock, told.append), told


def test_counts_what_came_and_what_was_fetched_twice() -> None:
    counter, _ = meter(InstantClock())
    counter.received(300, fetched=False)
    counter.received(200)
    counter.received(-200)
    counter.received(200)
    counter.verified(500)
    counter.verified(-100)
    counter.done()
    assert counter.progress() == Progress(1000, 500, 400, 400, 2, 1, None)


def test_tells_now_and_then_while_bytes_flow_and_at_the_end() -> None:
    clock = InstantClock()
    counter, told = meter(clock)
    for _ in range(100):
        counter.received(1)
    assert told == []
    clock.advance(INTERVAL_SECONDS)
    counter.received(1)
    counter.received(1)
    assert [progress.received_bytes for progress in told] == [101]
    counter.done()
    counter.done()
    assert told[-1].done_files == 2


def test_is_waiting_only_when_nobody_gets_bytes() -> None:
    counter, told = meter(InstantClock())
    first, second = Waiting("RateLimited", "later", 50.0), Waiting("Unreachable", "no answer", 20.0)
    counter.working(+1)
    counter.working(+1)
    counter.waits("a", first)
    assert counter.progress().waiting is None
    counter.waits("b", second)
    assert counter.progress().waiting == second
    assert told[-1].waiting == second
    counter.waits("b", None)
    assert counter.progress().waiting is None
    counter.working(-1)  # the one that got bytes has nothing left to do
    assert counter.progress().waiting == first
    counter.waits("a", None)
    assert told[-1].waiting is None
