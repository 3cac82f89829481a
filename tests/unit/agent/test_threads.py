"""Blocking work is waited for to its very end, also when nobody wants it any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.slots import PATIENCE_SECONDS, Slots, should_yield
from agent.threads import in_thread
from agent.wakeup import Wakeup
from tests.support.fake_clock import FakeClock
from tests.support.waiting import PATIENCE


async def test_results_and_exceptions_come_back() -> None:
    assert await in_thread(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_it_does_not_run_in_the_event_loop() -> None:
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_a_cancelled_caller_asks_the_work_to_stop_and_waits_for_it() -> None:
    started, stop, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        stop.wait(PATIENCE)
        ended.set()

    task = asyncio.create_task(in_thread(work, stop.set))
    await in_thread(lambda: started.wait(PATIENCE))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_second_cancellation_leaves_a_hanging_thread_behind() -> None:
    started, release = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(PATIENCE)

    task = asyncio.create_task(in_thread(work))
    await in_thread(lambda: started.wait(PATIENCE))
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


async def test_an_exception_of_cancelled_work_is_not_reported_as_lost() -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
    started, stop = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        stop.wait(PATIENCE)
        raise RuntimeError("stopped in the middle")

    task = asyncio.create_task(in_thread(work, stop.set))
    await in_thread(lambda: started.wait(PATIENCE))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    assert unhandled == []


async def test_places_are_given_in_the_order_of_asking() -> None:
    slots, order = Slots(1), list[int]()
    leave = asyncio.Event()

    async def visit(number: int) -> None:
        async with slots.place():
            order.append(number)
            await leave.wait()

    visits = []
    for number in range(4):
        visits.append(asyncio.create_task(visit(number)))
        await asyncio.sleep(0)
    assert (order, slots.waiting) == ([0], 3)
    visits[1].cancel()
    leave.set()
    await asyncio.gather(*visits, return_exceptions=True)
    assert order == [0, 2, 3]
    assert slots.waiting == 0


def test_only_a_stuck_download_that_blocks_others_gives_its_place_up() -> None:
    assert should_yield(PATIENCE_SECONDS, waiting=1)
    assert not should_yield(PATIENCE_SECONDS, waiting=0)
    assert not should_yield(PATIENCE_SECONDS - 1, waiting=5)


async def test_a_wakeup_returns_when_set_or_when_the_time_has_come() -> None:
    clock = FakeClock()
    wakeup = Wakeup(clock)
    wakeup.set()
    await wakeup.wait(1e9)
    wakeup.clear()
    waiting = asyncio.create_task(wakeup.wait(10))
    await clock.until_waiting()
    clock.advance(9.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.2)
    await waiting
    again = asyncio.create_task(wakeup.wait(10))
    await clock.until_waiting()
    wakeup.set()
    await again
    assert clock.pending == [], "no timer is left behind"
