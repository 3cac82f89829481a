import threading

import pytest

from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled
from tests.support.waiting import PATIENCE


def test_a_waiting_thread_is_woken() -> None:
    token = CancelToken()
    ended: list[str] = []

    def wait() -> None:
        with pytest.raises(Cancelled):
            token.wait(3600)
        ended.append("cancelled")

    thread = threading.Thread(target=wait)
    thread.start()
    token.cancel()
    thread.join(PATIENCE)
    assert ended == ["cancelled"]


def test_callbacks_run_once_and_only_inside_their_block() -> None:
    token = CancelToken()
    calls: list[str] = []
    with token.on_cancel(lambda: calls.append("left")):
        pass
    with token.on_cancel(lambda: calls.append("inside")):
        token.cancel()
        token.cancel()
    assert calls == ["inside"]
    with token.on_cancel(lambda: calls.append("late")):
        assert calls == ["inside", "late"]


def test_a_child_follows_its_parent_but_not_the_other_way_round() -> None:
    parent = CancelToken()
    with parent.child() as child:
        child.cancel()
        assert not parent.cancelled
    with parent.child() as child:
        parent.cancel()
        assert child.cancelled
        with pytest.raises(Cancelled):
            child.check()
    with parent.child() as born_late:
        assert born_late.cancelled
