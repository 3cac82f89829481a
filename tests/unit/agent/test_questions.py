"""Questions to the controller: whose answer counts for whom."""

from __future__ import annotations

import asyncio

from agent.questions import Answer, Inquiry, Questions
from tests.support.fake_clock import FakeClock


def asking() -> Questions:
    """The questions of an agent whose controller answers them."""
    questions = Questions(FakeClock())
    questions.take(Answer(given=True))
    return questions


def test_those_who_ask_before_the_next_report_share_a_question_and_later_ones_do_not() -> None:
    questions = asking()
    assert questions.sending() == 0, "nobody asks"
    assert questions.ask("a") == questions.ask("b") == questions.sending() == 1
    # The answer to 1 may be under way, from before this moment.
    assert questions.ask("c") == 2
    questions.take(Answer(given=True, number=1))
    assert questions.answered(1)
    assert not questions.answered(2)
    assert questions.sending() == 2
    for asker in "abc":
        questions.settle(asker)
    assert questions.sending() == 0


def test_a_question_that_nobody_waits_for_any_more_is_not_sent() -> None:
    questions = asking()
    questions.ask("a")
    questions.sending()
    questions.ask("b")
    questions.settle("b")
    assert questions.sending() == 1


def test_answers_end_with_their_stream_and_open_questions_go_on() -> None:
    questions = asking()
    inquiry = Inquiry(questions, "a")
    inquiry.need(1)
    questions.take(Answer(given=True, number=questions.sending()))
    assert inquiry.confirmed(1)
    questions.renew()
    assert not inquiry.confirmed(1)
    assert questions.needed, "the next controller is taken for one that answers until it says otherwise"
    assert questions.sending() == 1
    questions.take(Answer(given=False))
    assert inquiry.confirmed(1), "one of an older version, which answers nothing"


def test_an_answer_to_what_was_never_asked_counts_for_nothing() -> None:
    questions = asking()
    questions.take(Answer(given=True, number=2**64 - 1))
    questions.ask("a")
    assert not questions.answered(1)


def test_an_answer_holds_only_for_the_ground_on_which_it_was_asked() -> None:
    questions = asking()
    inquiry = Inquiry(questions, "a")
    inquiry.need("withdrawn")
    questions.take(Answer(given=True, number=questions.sending()))
    assert inquiry.confirmed("withdrawn")
    assert not inquiry.confirmed("withdrawn again")
    inquiry.need("withdrawn again")
    assert questions.sending() == 2


async def test_waiting_for_an_answer_ends_with_it_or_in_time_and_never_begins_where_nobody_listens() -> None:
    clock = FakeClock()
    heard = True
    questions = Questions(clock, reachable=lambda: heard)
    assert await questions.confirm(10), "nobody answers questions"
    questions.take(Answer(given=True))
    one, other = asyncio.create_task(questions.confirm(10)), asyncio.create_task(questions.confirm(10))
    await clock.until_waiting()
    number = questions.sending()
    late = asyncio.create_task(questions.confirm(10))
    await asyncio.sleep(0)
    questions.take(Answer(given=True, number=number))
    assert (await one, await other) == (True, True)
    assert not late.done()
    clock.advance(11)
    assert not await late
    assert questions.sending() == 0
    heard = False
    assert not await questions.confirm(10)
