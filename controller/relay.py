"""Commands on their way to agents: who has been asked what, and what he has answered.

A command waits for its agent, not for a stream: it is sent again on each new stream of the same agent process until it is
answered (agents know commands by their id, see `agent.relayed`), because a stream may end for reasons that have nothing to do
with it. It is given up when its time is over, or when the agent was restarted or is gone.

An agent speaks for its own node: an answer counts only for what was asked of the node of its stream. How much all answers
that nobody has taken yet may weigh is limited; what comes on top is thrown away, and told as a failure.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from controller.placement import Presence
from controller.registry import Session
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.commands import ANSWER_BYTES

AT_ONCE = 4
"""Commands of one node that wait for their answer; as many as agents carry out at the same time."""
HELD_BYTES = 64 * 1024 * 1024
"""Of all answers that have come and were not passed on yet."""

Failure = pb.CommandFailure
Answer = pb.RunResponse | pb.CommandFailure


def failure(kind: pb.CommandFailure.Kind.ValueType, message: str) -> pb.CommandFailure:
    """Why a node has no answer."""
    return Failure(kind=kind, message=message)


@dataclass(eq=False)
class _Pending:
    """One command to one node. `sent_on`: arrival of the stream that it was sent on last, 0 for none."""

    command: pb.Command
    instance: str
    answer: asyncio.Future[Answer]
    sent_on: int = 0


class Relay:
    """All commands of one term of leadership."""

    def __init__(self) -> None:
        self._pending: dict[str, dict[str, _Pending]] = {}
        self._given_up: dict[str, list[str]] = {}
        """By node, the ids of commands that were sent and that nobody waits for any more."""
        self._held = 0

    async def ask(self, session: Session, request: pb.RunRequest, seconds: float) -> Answer:
        """What the agent of this stream answers, within `seconds`. `passed_on` when the answer is not needed any more."""
        if not session.commands:
            return failure(
                Failure.KIND_OUTDATED, "its agent is of a version that takes no commands from here; update it"
            )
        of_node = self._pending.setdefault(session.node, {})
        if len(of_node) >= AT_ONCE:
            return failure(Failure.KIND_BUSY, f"{AT_ONCE} commands wait for its agent already; try again")
        command = pb.Command(id=uuid.uuid4().hex, request=request, seconds=max(1, math.ceil(seconds)))
        pending = _Pending(command, session.instance, asyncio.get_running_loop().create_future())
        of_node[command.id] = pending
        session.wake.set()
        try:
            async with asyncio.timeout(seconds):
                return await pending.answer
        except TimeoutError:
            return failure(Failure.KIND_TIMEOUT, f"its agent has not answered within {seconds:.0f} s")
        finally:
            of_node.pop(command.id, None)
            if not of_node:
                self._pending.pop(session.node, None)
            if pending.sent_on and (not pending.answer.done() or pending.answer.cancelled()):
                self._given_up.setdefault(session.node, []).append(command.id)
                session.wake.set()

    def passed_on(self, answer: Answer) -> None:
        """An answer of `ask` is not held any more."""
        if isinstance(answer, pb.RunResponse):
            self._held -= answer.ByteSize()

    def due(self, session: Session) -> list[pb.Command]:
        """What is to be sent on this stream now; each is told once for each stream."""
        due = [pb.Command(id=id) for id in self._given_up.pop(session.node, ())]
        for pending in self._pending.get(session.node, {}).values():
            if pending.instance != session.instance:
                _settle(pending, failure(Failure.KIND_LOST, "its agent was restarted before it had answered"))
            elif pending.sent_on != session.arrival:
                pending.sent_on = session.arrival
                due.append(pending.command)
        return due

    def take(self, session: Session, answer: pb.CommandAnswer) -> None:
        """What the agent of this stream has answered. Ignored when nobody has asked this node."""
        pending = self._pending.get(session.node, {}).get(answer.id)
        if pending is None or pending.answer.done():
            return
        if answer.WhichOneof("outcome") != "response":
            _settle(pending, answer.failure)
            return
        size = answer.response.ByteSize()
        if size > ANSWER_BYTES or self._held + size > HELD_BYTES:
            text = "its answer is too large to be passed on; ask fewer nodes at a time, or about one model"
            _settle(pending, failure(Failure.KIND_FAILED, text))
            return
        self._held += size
        _settle(pending, answer.response)

    def look(self, presence: Callable[[str], Presence]) -> None:
        """Somebody may be gone: do not wait for him."""
        for node, of_node in self._pending.items():
            if presence(node) is Presence.GONE:
                for pending in of_node.values():
                    _settle(pending, failure(Failure.KIND_LOST, "its agent is gone, and had not answered"))

    def close(self) -> None:
        """This controller no longer leads."""
        for of_node in self._pending.values():
            for pending in of_node.values():
                _settle(pending, failure(Failure.KIND_LOST, "the controller no longer leads; ask again"))


def _settle(pending: _Pending, answer: Answer) -> None:
    if not pending.answer.done():
        pending.answer.set_result(answer)
