import threading
from contextlib import suppress

import pytest

from agent.transfer.deadlines import Deadlines
from tests.support.waiting import PATIENCE


def block(ended: threading.Event) -> None:
    """What a system call does whose socket is shut down."""
    assert ended.wait(PATIENCE)
    raise OSError("shut down")


def test_what_takes_too_long_is_ended_and_says_so() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"), Deadlines().within(0.01, ended.set):
        block(ended)


def test_what_was_ended_has_failed_even_if_it_says_that_it_ended_well() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError), Deadlines().within(0.01, ended.set):
        assert ended.wait(PATIENCE)


def test_the_earliest_ends_first_whatever_the_order_of_beginning() -> None:
    deadlines, ended, late = Deadlines(), threading.Event(), threading.Event()
    with deadlines.within(3600, late.set):
        with pytest.raises(TimeoutError), deadlines.within(0.01, ended.set):
            block(ended)
        assert not late.is_set()


def test_after_its_block_nothing_is_ended() -> None:
    deadlines, running, calls, after = Deadlines(), True, [], threading.Event()
    # However slow this thread is: what is ended was still running.
    with suppress(TimeoutError), deadlines.within(0.005, lambda: calls.append(running)):
        pass
    running = False
    with pytest.raises(TimeoutError), deadlines.within(0.02, after.set):
        block(after)
    assert all(calls)


def test_errors_of_who_is_in_time_are_left_as_they_are() -> None:
    with pytest.raises(ValueError, match="mine"), Deadlines().within(3600, lambda: None):
        raise ValueError("mine")


def test_the_thread_ends_with_the_last_deadline_and_another_begins_with_the_next() -> None:
    others = set(threading.enumerate())
    deadlines = Deadlines()
    for _ in range(3):
        ended = threading.Event()
        with pytest.raises(TimeoutError), deadlines.within(0.01, ended.set):
            block(ended)
        for thread in set(threading.enumerate()) - others:
            thread.join(PATIENCE)
            assert not thread.is_alive()
