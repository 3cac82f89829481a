"""The work queue: coalescing, delays, backoff, and the promises under any order of calls."""

import asyncio
import logging
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube.errors import TooManyRequests
from modelcache.kube.queue import QueueClosed, WorkQueue
from tests.support.fake_clock import FakeClock


class Highest(Random):
    """Draws the upper bound, so that waits are exact."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue[str]:
    return WorkQueue("test", base=1, cap=60, clock=clock, rng=Highest())


async def idle() -> None:
    """Let every task that can go on do so; nothing in these tests waits for anything but the fake clock."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_adds_one_look_in_order_of_arrival(queue: WorkQueue[str]) -> None:
    for key in "aabacab":
        queue.add(key)
    assert queue.depth == 3
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
    assert (queue.depth, queue.processing) == (0, 3)


async def test_added_while_processed_comes_once_more_and_never_at_the_same_time(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    second = asyncio.create_task(queue.get())
    await idle()
    assert not second.done(), "one worker per key"
    queue.done("a")
    assert await second == "a"
    queue.done("a")
    assert (queue.depth, queue.processing) == (0, 0)


async def test_earliest_wish_wins(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    queue.add_after("a", 5)
    assert queue.due_in("a") == 5
    assert clock.pending == [5]
    clock.advance(4.9)
    assert queue.depth == 0
    clock.advance(0.1)
    assert queue.depth == 1
    queue.add_after("a", 3)
    assert queue.delayed == 0, "it is to be looked at now, which is earlier"
    assert await queue.get() == "a"


async def test_add_is_earlier_than_any_delay(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add_after("a", 10)
    queue.add("a")
    assert clock.pending == []
    assert await queue.get() == "a"
    queue.done("a")
    clock.advance(100)
    assert queue.depth == 0


async def test_delay_that_ends_during_the_look_means_one_more_look(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add("a")
    await queue.get()
    queue.add_after("a", 2)
    clock.advance(3)
    assert queue.depth == 1
    queue.done("a")
    assert await queue.get() == "a"


async def test_retry_backs_off_until_forgotten(queue: WorkQueue[str], clock: FakeClock) -> None:
    waits = []
    for _ in range(8):
        waits.append(queue.retry("a"))
        clock.advance(waits[-1])
        queue.done(await queue.get())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert queue.failures("a") == 8
    queue.forget("a")
    assert queue.retry("a") == 1
    assert queue.retry("b", at_least=7) == 7


async def test_run_retries_what_fails_and_never_dies(
    queue: WorkQueue[str], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    troubles: list[BaseException] = [
        RuntimeError("boom"),
        TooManyRequests("slow down", retry_after=40),
        asyncio.CancelledError("somebody else's"),
    ]

    async def handler(key: str) -> float | None:
        calls.append(key)
        if key == "bad" and troubles:
            raise troubles.pop(0)
        return None

    running = asyncio.create_task(queue.run(handler, workers=2))
    queue.add("bad")
    queue.add("good")
    await idle()
    assert calls == ["bad", "good"]
    assert queue.due_in("bad") == 1
    clock.advance(1)
    await idle()
    assert queue.due_in("bad") == 40, "not before the server's Retry-After"
    clock.advance(40)
    await idle()
    assert queue.due_in("bad") == 4
    clock.advance(4)
    await idle()
    assert calls == ["bad", "good", "bad", "bad", "bad"]
    assert queue.failures("bad") == 0, "a good look forgets the failures"
    queue.add("good")
    await idle()
    assert calls[-1] == "good"
    queue.shutdown()
    await running
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.WARNING] == [
        True,
        False,
        False,
    ], "a traceback for the mistake only"


async def test_run_looks_again_when_the_handler_says_so(queue: WorkQueue[str], clock: FakeClock) -> None:
    calls = 0

    async def handler(key: str) -> float | None:
        nonlocal calls
        calls += 1
        return 30.0

    running = asyncio.create_task(queue.run(handler))
    queue.add("a")
    await idle()
    assert queue.due_in("a") == 30
    clock.advance(30)
    await idle()
    assert calls == 2
    queue.shutdown()
    await running


async def test_shutdown_finishes_what_is_being_worked_on(queue: WorkQueue[str], clock: FakeClock) -> None:
    release = asyncio.Event()
    finished: list[str] = []

    async def handler(key: str) -> float | None:
        await release.wait()
        finished.append(key)
        return 5.0

    running = asyncio.create_task(queue.run(handler, workers=2))
    for key in "abc":
        queue.add(key)
    queue.add_after("d", 1)
    await idle()
    queue.shutdown()
    queue.add("e")
    queue.add_after("f", 1)
    await idle()
    assert not running.done()
    release.set()
    await running
    assert sorted(finished) == ["a", "b"]
    assert clock.pending == []
    assert queue.closed
    assert (queue.depth, queue.delayed, queue.processing) == (0, 0, 0)
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_cancelling_run_cancels_the_handlers(queue: WorkQueue[str]) -> None:
    cancelled: list[str] = []

    async def handler(key: str) -> float | None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(key)
            raise
        return None

    running = asyncio.create_task(queue.run(handler, workers=2))
    queue.add("a")
    queue.add("b")
    await idle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(cancelled) == ["a", "b"]


async def test_cancelled_getter_passes_its_key_on(queue: WorkQueue[str]) -> None:
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await idle()
    queue.add("a")  # wakes the first
    first.cancel()
    await idle()
    assert second.done()
    assert second.result() == "a"


# What can happen to a queue, as data: the examples stay readable when hypothesis shrinks them.
KEYS = st.sampled_from("abc")
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.just(0.0)),
        st.tuples(st.just("add and lose a worker"), KEYS, st.just(0.0)),
        st.tuples(st.just("add after"), KEYS, st.sampled_from([0.0, 0.5, 1.0, 5.0])),
        st.tuples(st.just("finish"), KEYS, st.just(0.0)),
        st.tuples(st.just("fail"), KEYS, st.just(0.0)),
        st.tuples(st.just("forget"), KEYS, st.just(0.0)),
        st.tuples(st.just("advance"), st.just(""), st.sampled_from([0.1, 1.0, 7.0])),
    ),
    max_size=60,
)


class Model:
    """Workers on a queue, and what must be true of it: when each key is due, and which keys are being looked at."""

    def __init__(self, workers: int) -> None:
        self.clock = FakeClock()
        self.queue: WorkQueue[str] = WorkQueue(clock=self.clock, rng=Random(5))
        self.due: dict[str, float] = {}  # from this time on the key must be ready or active
        self.active: dict[str, asyncio.Future[bool]] = {}
        self.workers: list[asyncio.Task[None]] = []
        self.free: list[asyncio.Task[None]] = []
        for _ in range(workers):
            self.hire()

    def hire(self) -> None:
        self.workers.append(asyncio.create_task(self.work()))

    def lose_one(self) -> None:
        """Cancel a worker that waits for a key, perhaps just as it got one, and hire another."""
        if self.free:
            lost = self.free.pop(0)
            self.workers.remove(lost)
            lost.cancel()
            self.hire()

    def want(self, key: str, seconds: float) -> None:
        self.due[key] = min(self.due.get(key, float("inf")), self.clock.now() + seconds)

    async def work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while True:
            self.free.append(me)
            key = await self.queue.get()
            self.free.remove(me)
            assert key not in self.active, "two looks at one key"
            self.due.pop(key, None)
            self.active[key] = asyncio.get_running_loop().create_future()
            if await self.active[key]:
                self.queue.forget(key)
            else:
                self.want(key, self.queue.retry(key))
            del self.active[key]
            self.queue.done(key)

    def apply(self, operation: str, key: str, seconds: float) -> None:
        match operation:
            case "add" | "add and lose a worker":
                self.queue.add(key)
                self.want(key, 0.0)
                if operation != "add":
                    self.lose_one()
            case "add after":
                self.queue.add_after(key, seconds)
                self.want(key, seconds)
            case "finish" | "fail" if key in self.active:
                self.active[key].set_result(operation == "finish")
            case "forget":
                self.queue.forget(key)
            case "advance":
                self.clock.advance(seconds)

    def check(self) -> None:
        assert not any(worker.done() for worker in self.workers)
        overdue = {key for key, due in self.due.items() if due <= self.clock.now()}
        if self.free:
            assert overdue <= self.active.keys(), "a key is due, a worker is free, and nothing happens"
        assert self.queue.depth == len(overdue)
        assert self.queue.delayed == len(self.due) - len(overdue)
        assert self.queue.processing == len(self.active) == len(self.workers) - len(self.free)


@settings(deadline=None)
@given(operations=OPERATIONS, workers=st.integers(1, 4))
def test_no_key_is_lost_and_none_is_looked_at_twice_at_once(
    operations: list[tuple[str, str, float]], workers: int
) -> None:
    async def scenario() -> None:
        model = Model(workers)
        await idle()
        for operation in operations:
            model.apply(*operation)
            await idle()
            model.check()
        # Whatever happened before: when time passes and looks end well, every key that was wanted is looked at.
        for _ in range(10):
            for look in model.active.values():
                look.set_result(True)
            model.clock.advance(10)
            await idle()
            model.check()
        assert model.due == {}
        assert model.active == {}
        for worker in model.workers:
            worker.cancel()
        await asyncio.gather(*model.workers, return_exceptions=True)

    asyncio.run(scenario())
