"""Few requests at once, without waiting for slow ones."""

import asyncio

from agent.lora.lanes import PATIENCE_SECONDS, Lanes
from tests.support.fake_clock import FakeClock


async def test_places_are_limited_and_slow_holders_lose_theirs() -> None:
    clock = FakeClock()
    lanes = Lanes(clock, count=2)
    inside, leave = list[int](), asyncio.Event()

    async def work(number: int) -> None:
        async with lanes.place():
            inside.append(number)
            await leave.wait()

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    await _turns()
    assert inside == [0, 1]
    clock.advance(PATIENCE_SECONDS)
    await _turns()
    assert inside == [0, 1, 2, 3]
    leave.set()
    await asyncio.gather(*tasks)
    assert inside == [0, 1, 2, 3, 4]
    # What was given up on the way is not given back a second time.
    async with lanes.place(), lanes.place():
        late = asyncio.create_task(work(9))
        await _turns()
        assert inside[-1] == 4
    await late


async def _turns() -> None:
    """Let every task go on until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)
