"""Commands that administrators give through the controller: carried out beside the stream, answered on it.

A command may take longer than a stream lives (reading a large cache takes an hour, a stream ends when its certificate is
renewed). So the two are apart: the controller repeats on every new stream what is not answered, and by the id this side knows
what it is at, or has done already. A repeated command is never carried out twice by one process.

Bounded, because there may be many administrators: commands at a time, how long one runs, what an answer may weigh.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from agent.commands import failure_of
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.commands import ANSWER_BYTES, LONGEST_SECONDS, USUAL_SECONDS

_log = logging.getLogger(__name__)

AT_ONCE = 4
KEPT = 8
"""Answers that are kept in case that the stream broke when they were sent."""
LONGEST_ID = 128

Failure = pb.CommandFailure


class Relayed:
    """The commands of one node. Called in the event loop; `run` keeps them alive, and ends them when it is cancelled."""

    def __init__(
        self, carry_out: Callable[[pb.RunRequest], Awaitable[pb.RunResponse]], answered: Callable[[], None]
    ) -> None:
        """`carry_out` as `agent.commands.Commands.run`. `answered`: there is something `due`."""
        self._carry_out = carry_out
        self._answered = answered
        self._running: dict[str, asyncio.Task[None]] = {}
        self._answers: OrderedDict[str, pb.CommandAnswer] = OrderedDict()
        self._due: dict[str, pb.CommandAnswer] = {}

    def take(self, command: pb.Command) -> None:
        """What the controller has sent: a command, perhaps not for the first time, or that nobody waits for one any more."""
        id = command.id
        if not id or len(id) > LONGEST_ID:
            return
        if not command.HasField("request"):
            self._forget(id)
        elif id in self._answers:
            self._answer(self._answers[id])
        elif id not in self._running:
            if len(self._running) >= AT_ONCE:
                busy = Failure(kind=Failure.KIND_BUSY, message=f"{AT_ONCE} commands are under way here; try again")
                self._answer(pb.CommandAnswer(id=id, failure=busy))
                return
            _log.info("the controller asks for %s", command.request.WhichOneof("command"))
            self._running[id] = asyncio.create_task(self._run(command), name=f"command {id}")
            self._running[id].add_done_callback(lambda _: self._running.pop(id, None))

    def due(self) -> list[pb.CommandAnswer]:
        """The answers that are to be sent now. Each is told once; the controller asks again for what does not arrive."""
        due, self._due = list(self._due.values()), {}
        return due

    async def run(self) -> None:
        """Until cancelled; returns when the threads of all commands have ended."""
        try:
            await asyncio.Event().wait()
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _forget(self, id: str) -> None:
        self._answers.pop(id, None)
        self._due.pop(id, None)
        task = self._running.get(id)
        if task is not None:
            task.cancel()

    async def _run(self, command: pb.Command) -> None:
        seconds = min(command.seconds or USUAL_SECONDS, LONGEST_SECONDS)
        answer = await self._outcome(command, seconds)
        self._answers[command.id] = answer
        while len(self._answers) > KEPT:
            self._answers.popitem(last=False)
        self._answer(answer)

    async def _outcome(self, command: pb.Command, seconds: int) -> pb.CommandAnswer:
        try:
            async with asyncio.timeout(seconds):
                response = await self._carry_out(command.request)
        except TimeoutError:
            failure = Failure(kind=Failure.KIND_TIMEOUT, message=f"it was not done within {seconds} s")
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for an answer, and the agent goes on
            failure = _failure(error)
        else:
            answer = pb.CommandAnswer(id=command.id, response=response)
            size = answer.ByteSize()
            if size <= ANSWER_BYTES:
                return answer
            text = f"the answer has {size} bytes, more than {ANSWER_BYTES}; ask on the node itself, or about one model"
            failure = Failure(kind=Failure.KIND_FAILED, message=text)
        return pb.CommandAnswer(id=command.id, failure=failure)

    def _answer(self, answer: pb.CommandAnswer) -> None:
        self._due[answer.id] = answer
        self._answered()


def _failure(error: Exception) -> pb.CommandFailure:
    try:
        return failure_of(error)
    except Exception:  # noqa: BLE001  # a fault here must not end the agent
        _log.exception("a command failed")
        return Failure(kind=Failure.KIND_FAILED, message="the command failed unexpectedly; see the log of the agent")
