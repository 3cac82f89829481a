"""Who uses what on this node *now*: asked before anything is taken away from pods.

Which pods use what comes with every desired state, but the controller can only tell what it has seen so far. A pod that was
bound to the node in the moment before its label went may not be among it, and would lose its files. So the agent asks, once
the label is gone: a number in its reports. The controller then lists the pods of the node at the API server, and the desired
state with the same number (or a higher one) holds every pod that could still have been sent here by the label.

An answer counts on the stream on which it came, and no longer: what the next controller says next is what *it* has seen, and
may be older than what the one before has listed. A question that is still open is in the reports of the next stream as well.
Where nobody answers questions (a controller of an older version), nobody asks, and what is known decides alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from agent.wakeup import Wakeup
from modelcache.kube.clock import Clock


class Answer(NamedTuple):
    """What a desired state says about questions. `given`: the controller answers them at all.

    `number`: the highest one that the uses in it answer. `problem`: why there is no answer yet, as a clause; empty while
    that is only a matter of a moment.
    """

    given: bool = False
    number: int = 0
    problem: str = ""


NO_ANSWER = Answer()


class Questions:
    """All questions of one agent process. Called in the event loop."""

    def __init__(
        self, clock: Clock, *, changed: Callable[[], None] = lambda: None, reachable: Callable[[], bool] = lambda: True
    ) -> None:
        """`changed`: there is something to report. `reachable`: there is a controller to ask."""
        self._clock = clock
        self._changed = changed
        self._reachable = reachable
        self._last = 0
        """The highest number that was ever given to a question."""
        self._sent = 0
        """The highest one in any report. Whoever asks the same now asks too late: the answer may be under way."""
        self._answered = 0
        self._open: dict[Hashable, int] = {}
        self._taken = Wakeup(clock)
        self._answer = NO_ANSWER

    @property
    def needed(self) -> bool:
        """Whether questions are answered, so that nothing may go without."""
        return self._answer.given

    @property
    def reachable(self) -> bool:
        """Whether a question would be heard by somebody at the moment."""
        return self._reachable()

    @property
    def problem(self) -> str:
        """Why an open question has no answer yet, as a clause; empty when there is nothing to tell."""
        return self._answer.problem

    def ask(self, asker: Hashable) -> int:
        """Ask what is in use from now on; the number whose answer will do. Stays open until `settle`."""
        if self._last <= self._sent:
            self._last += 1
        self._open[asker] = self._last
        self._changed()
        return self._last

    def asks(self, asker: Hashable) -> bool:
        """Whether a question of his is open."""
        return asker in self._open

    def settle(self, asker: Hashable) -> None:
        """He needs no answer, or no further one."""
        self._open.pop(asker, None)

    def answered(self, number: int) -> bool:
        """Whether what is known now is the answer to this question."""
        return number <= self._answered

    def sending(self) -> int:
        """The question for the report that is being made; 0 for none."""
        number = max((number for number in self._open.values() if number > self._answered), default=0)
        self._sent = max(self._sent, number)
        return number

    def take(self, answer: Answer) -> bool:
        """What a desired state says, after its uses were taken over. Whether that changes anything."""
        before = (self._answer, self._answered)
        self._answer = answer
        self._answered = max(self._answered, min(answer.number, self._sent))
        if (self._answer, self._answered) == before:
            return False
        self._taken.set()
        return True

    def renew(self) -> None:
        """A new stream begins."""
        self._answered = 0
        self._answer = self._answer._replace(number=0, problem="")

    async def confirm(self, seconds: float) -> bool:
        """Ask, and wait until what is in use is known as of now; False when nobody has said so within `seconds`."""
        if not self.needed:
            return True
        if not self.reachable:
            return False
        asker, until = object(), self._clock.now() + seconds
        number = self.ask(asker)
        try:
            while not self.answered(number):
                left = until - self._clock.now()
                if left <= 0:
                    return False
                self._taken.clear()
                await self._taken.wait(left)
            return True
        finally:
            self.settle(asker)


class Inquiry:
    """The question of one asker, asked anew whenever `ground`, on which it was asked, is not what it was."""

    def __init__(self, questions: Questions, asker: Hashable) -> None:
        self._questions = questions
        self._asker = asker
        self._number = 0
        self._ground: object = None

    def confirmed(self, ground: object) -> bool:
        """Whether what is in use is known as of a moment at which `ground` was as it is (or nobody tells such things)."""
        asked = self._number > 0 and self._ground == ground
        return not self._questions.needed or (asked and self._questions.answered(self._number))

    def need(self, ground: object) -> None:
        """Ask, unless that was done on this ground already."""
        if not self._number or self._ground != ground or not self._questions.asks(self._asker):
            self._number, self._ground = self._questions.ask(self._asker), ground

    def settle(self) -> None:
        """No answer is needed at the moment, or no other than there is."""
        self._questions.settle(self._asker)
