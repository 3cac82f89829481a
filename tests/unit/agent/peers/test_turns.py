"""Turns at the origin: never more than the limit, in the order of arrival, and a place in line can be given up."""

import threading

import pytest

from agent.peers.tuning import DEFAULT_TUNING
from agent.peers.turns import Turns, turns
from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled

TIMEOUT = 60.0


class Reader:
    """Takes a turn in a thread, and keeps it until it is told."""

    def __init__(self, line: Turns, limit: int, order: list["Reader"]) -> None:
        self.cancel = CancelToken()
        self.has_it, self.may_go = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(line, limit, order), daemon=True)
        self._thread.start()

    def _run(self, line: Turns, limit: int, order: list["Reader"]) -> None:
        try:
            with line.turn(limit, self.cancel):
                order.append(self)
                self.has_it.set()
                assert self.may_go.wait(TIMEOUT)
        except Cancelled as error:
            self.error = error

    def end(self) -> None:
        self.may_go.set()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()


def test_no_more_than_the_limit_hold_one_and_the_next_comes_when_one_goes() -> None:
    line, order = Turns(), list[Reader]()
    first, second = Reader(line, 2, order), Reader(line, 2, order)
    assert first.has_it.wait(TIMEOUT)
    assert second.has_it.wait(TIMEOUT)
    third = Reader(line, 2, order)
    first.end()
    assert third.has_it.wait(TIMEOUT)
    assert order[2] is third
    second.end()
    third.end()


def test_who_gives_up_its_place_lets_the_one_behind_it_pass() -> None:
    line, order = Turns(), list[Reader]()
    first = Reader(line, 1, order)
    assert first.has_it.wait(TIMEOUT)
    waits = Reader(line, 1, order)
    waits.cancel.cancel()
    waits.end()
    assert isinstance(waits.error, Cancelled)
    behind = Reader(line, 1, order)
    first.end()
    assert behind.has_it.wait(TIMEOUT)
    behind.end()
    assert order == [first, behind]


def test_a_larger_limit_counts_for_those_who_come_with_it() -> None:
    line, order = Turns(), list[Reader]()
    alone = Reader(line, 1, order)
    assert alone.has_it.wait(TIMEOUT)
    other = Reader(line, 2, order)
    assert other.has_it.wait(TIMEOUT)
    alone.end()
    other.end()


@pytest.mark.parametrize("agents", [1, 2, 8, 1000])
def test_each_agent_has_a_turn_and_all_together_no_fewer_than_the_origin_can_take(agents: int) -> None:
    each = turns(agents, 4, DEFAULT_TUNING)
    assert 1 <= each <= 4
    assert each * agents >= min(DEFAULT_TUNING.readers, 4 * agents)
