import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.cancel import CancelToken
from agent.transfer.errors import Cancelled
from agent.transfer.plan import Plan, Work
from tests.support.waiting import PATIENCE

CANCEL = CancelToken()


def test_files_in_order_and_pieces_ascending() -> None:
    plan = Plan(["a", "b"])
    plan.add("b", [0, 1], 2)
    plan.add("a", [2, 0], 3)
    given_out = [plan.next(CANCEL) for _ in range(4)]
    assert given_out == [Work("a", 0, 1), Work("a", 2, 3), Work("b", 0, 1), Work("b", 1, 2)]


def test_what_comes_back_is_given_out_again_before_what_is_later() -> None:
    plan = Plan(["a"])
    plan.add("a", [0, 1, 2], 3)
    first = plan.next(CANCEL)
    assert first is not None
    plan.put_back(first)
    assert plan.next(CANCEL) == first


def test_it_ends_when_all_files_are_closed() -> None:
    plan = Plan(["a", "b"])
    plan.close("a")
    plan.close("b")
    assert plan.next(CANCEL) is None


def test_a_stream_is_given_out_alone_and_whole() -> None:
    plan = Plan(["a"])
    plan.add("a", range(4), 4)
    first, second = plan.next(CANCEL), plan.next(CANCEL)
    assert first is not None
    assert second is not None
    plan.stream("a")
    plan.put_back(first)
    taken: list[Work | None] = []
    thread = threading.Thread(target=lambda: taken.append(plan.next(CANCEL)))
    thread.start()
    plan.finished(second)  # only now nobody else works on it
    thread.join(PATIENCE)
    assert taken == [Work("a", 0, 4)]


def test_workers_wait_for_more_work_and_are_woken() -> None:
    plan = Plan(["a"])
    taken: list[Work | None] = []
    thread = threading.Thread(target=lambda: taken.append(plan.next(CANCEL)))
    thread.start()
    plan.add("a", [7], 8)
    thread.join(PATIENCE)
    assert taken == [Work("a", 7, 8)]


def test_waiting_ends_with_the_download() -> None:
    plan = Plan(["a"])
    cancel = CancelToken()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Cancelled):
            plan.next(cancel)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    cancel.cancel()
    assert ended.wait(PATIENCE)
    thread.join(PATIENCE)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.lists(st.tuples(st.sampled_from(["done", "back", "stream"]), st.integers(0, 3)), max_size=80),
)
def test_every_piece_is_given_out_until_it_is_done(sizes: list[int], steps: list[tuple[str, int]]) -> None:
    """Whatever goes wrong in between: nothing is lost, nothing is given to two workers at once."""
    names = [f"file{number}" for number in range(len(sizes))]
    plan = Plan(names)
    missing = {name: set(range(size)) for name, size in zip(names, sizes, strict=True)}
    for name, pieces in missing.items():
        plan.add(name, pieces, len(pieces))
    at_work: list[Work] = []
    actions = iter(steps)
    while any(missing.values()):
        while len(at_work) < 4:
            work = plan._take()  # what `next` would return without blocking
            if work is None:
                break
            for other in at_work:
                assert other.key != work.key or other.last <= work.first or work.last <= other.first
            at_work.append(work)
        assert at_work, f"nobody can do {missing}"
        what, which = next(actions, ("done", 0))
        work = at_work.pop(which % len(at_work))
        if what == "done":
            missing[work.key] -= set(range(work.first, work.last))
            plan.finished(work)
        else:
            if what == "stream":
                plan.stream(work.key)
            plan.put_back(work)
    assert at_work == [] or all(not missing[work.key] for work in at_work)


def test_a_walk_passes_over_what_was_not_added_yet() -> None:
    plan = Plan(["a", "b"])
    plan.follow(iter([("b", 0), ("a", 1)]))
    plan.add("a", [0, 1], 2)
    assert plan.next(CANCEL) == Work("a", 1, 2)
    plan.add("b", [0], 1)
    assert [plan.next(CANCEL), plan.next(CANCEL)] == [Work("a", 0, 1), Work("b", 0, 1)]
