"""A repair waits for the label to go, and not for ever."""

import asyncio

from agent.retraction import RETRACT_SECONDS, Retraction
from modelcache.api.labels import revision_value
from tests.support.fake_clock import FakeClock

REVISION = "0123456789abcdef"


async def test_it_waits_until_the_label_is_gone() -> None:
    clock, shown = FakeClock(), [revision_value(REVISION)]
    retraction = Retraction(lambda: shown[0], clock)
    waiting = asyncio.create_task(retraction.confirmed(REVISION))
    await clock.until_waiting()
    retraction.look()  # something else has changed
    await clock.until_waiting()
    assert not waiting.done()
    shown[0] = ""
    retraction.look()
    assert await waiting is True
    assert clock.pending == []


async def test_a_label_of_another_revision_is_no_reason_to_wait() -> None:
    assert await Retraction(lambda: revision_value("f" * 40), FakeClock()).confirmed(REVISION) is True


async def test_nobody_waits_for_an_api_server_that_does_not_answer() -> None:
    clock = FakeClock()
    waiting = asyncio.create_task(Retraction(lambda: revision_value(REVISION), clock).confirmed(REVISION))
    await clock.until_waiting()
    clock.advance(RETRACT_SECONDS)
    assert await waiting is False
