import random
import threading

import pytest

from agent.transfer.budget import OriginBudget
from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled
from modelcache.sources.errors import RateLimited, Unreachable
from tests.support.instant_clock import InstantClock
from tests.support.waiting import PATIENCE

HUB = "https://hub.example"


def budget(clock: InstantClock, limit: int = 2) -> OriginBudget:
    return OriginBudget(limit, clock, random.Random(1), base=1.0, cap=60.0)


def test_at_most_the_limit_is_under_way_per_origin() -> None:
    shared = budget(InstantClock(), limit=2)
    lock, most, active = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal most, active
        for _ in range(200):
            with shared.request(HUB, CancelToken()):
                with lock:
                    active += 1
                    most = max(most, active)
                with lock:
                    active -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    with shared.request(HUB, CancelToken()), shared.request(HUB, CancelToken()):
        for thread in threads:
            thread.start()
        assert active == 0  # both places are taken
    for thread in threads:
        thread.join(PATIENCE)
    assert active == 0
    assert most <= 2


def test_origins_do_not_share_places() -> None:
    shared = budget(InstantClock(), limit=1)
    with shared.request(HUB, CancelToken()), shared.request("https://cdn.example", CancelToken()):
        pass


def test_a_rejection_stops_everybody_until_the_time_that_the_origin_named() -> None:
    clock = InstantClock()
    shared = budget(clock)
    error = shared.rejected(HUB, "asked too often", 30.0, busy=False)
    assert isinstance(error, RateLimited)
    assert error.retry_after is not None
    assert 30.0 <= error.retry_after <= 33.0
    with pytest.raises(RateLimited, match="asked too often") as raised, shared.request(HUB, CancelToken()):
        pass
    assert raised.value.retry_after == pytest.approx(error.retry_after)
    clock.advance(34)
    with shared.request(HUB, CancelToken()):
        pass


def test_without_a_named_time_the_wait_grows_and_starts_anew_after_a_good_answer() -> None:
    clock = InstantClock()
    shared = budget(clock)
    bounds = []
    for _ in range(200):
        error = shared.rejected(HUB, "busy", None, busy=True)
        assert type(error) is Unreachable
        assert error.retry_after is not None
        bounds.append(error.retry_after)
        clock.advance(61)
    assert max(bounds) > 40
    assert max(bounds) <= 60
    shared.accepted(HUB)
    first = shared.rejected(HUB, "busy", None, busy=True).retry_after
    assert first is not None
    assert first <= 1.0


def test_waiting_for_a_place_ends_with_the_download() -> None:
    shared = budget(InstantClock(), limit=1)
    cancel = CancelToken()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Cancelled), shared.request(HUB, cancel):
            pass
        ended.set()

    with shared.request(HUB, CancelToken()):
        thread = threading.Thread(target=wait)
        thread.start()
        cancel.cancel()
        assert ended.wait(PATIENCE)
        thread.join(PATIENCE)


def test_a_place_comes_back_after_an_error() -> None:
    shared = budget(InstantClock(), limit=1)
    with pytest.raises(OSError, match="broken"), shared.request(HUB, CancelToken()):
        raise OSError("broken")
    with shared.request(HUB, CancelToken()):
        pass
