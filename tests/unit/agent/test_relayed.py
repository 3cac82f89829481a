"""Commands that come over the stream: each is carried out once, whatever the stream does."""

from __future__ import annotations

import asyncio

import pytest

from agent import relayed as module
from agent.commands import NotKnown
from agent.relayed import AT_ONCE, KEPT, Failure, Relayed
from modelcache.rpc import modelcache_pb2 as pb

DU = pb.RunRequest(disk_usage=pb.DiskUsage())


class Node:
    """Carries commands out when `gate` is open; answers with how many there were, or raises `error`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = self.ended = 0
        self.all_began, self.one_ended = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None
        self.answered = asyncio.Event()
        self.relayed = Relayed(self.carry_out, self.answered.set)

    async def carry_out(self, request: pb.RunRequest) -> pb.RunResponse:
        self.began += 1
        if self.began == AT_ONCE:
            self.all_began.set()
        try:
            await self.gate.wait()
        finally:
            self.ended += 1
            self.one_ended.set()
        if self.error is not None:
            raise self.error
        return pb.RunResponse(free_bytes=self.began)

    async def next(self) -> list[pb.CommandAnswer]:
        await self.answered.wait()
        self.answered.clear()
        return self.relayed.due()


async def test_a_repeated_command_is_answered_again_and_not_carried_out_again() -> None:
    node, command = Node(), pb.Command(id="1", request=DU)
    node.gate.clear()
    node.relayed.take(command)
    node.relayed.take(command)
    node.gate.set()
    answer = pb.CommandAnswer(id="1", response=pb.RunResponse(free_bytes=1))
    assert await node.next() == [answer]
    assert node.relayed.due() == []
    node.relayed.take(command)
    assert await node.next() == [answer]
    for number in range(KEPT):
        node.relayed.take(pb.Command(id=f"other {number}", request=DU))
        await node.next()
    node.relayed.take(command)
    assert (await node.next())[0].response.free_bytes == KEPT + 2, "who comes back so late is not remembered"


async def test_what_nobody_waits_for_is_stopped() -> None:
    node = Node()
    node.gate.clear()
    running = asyncio.create_task(node.relayed.run())
    for number in range(AT_ONCE):
        node.relayed.take(pb.Command(id=str(number), request=DU))
    node.relayed.take(pb.Command(id="more", request=DU))
    (busy,) = await node.next()
    assert (busy.id, busy.failure.kind) == ("more", Failure.KIND_BUSY)
    node.relayed.take(pb.Command(id=""))
    await node.all_began.wait()
    node.relayed.take(pb.Command(id="1"))
    await node.one_ended.wait()
    running.cancel()
    await asyncio.wait([running])
    assert node.ended == node.began == AT_ONCE


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotKnown("nobody knows"), Failure.KIND_NOT_KNOWN),
        (ValueError("what is that"), Failure.KIND_OUTDATED),
        (OSError("the disk"), Failure.KIND_FAILED),
        (RuntimeError("a fault"), Failure.KIND_FAILED),
    ],
)
async def test_failures_are_answers(error: Exception, kind: pb.CommandFailure.Kind.ValueType) -> None:
    node = Node()
    node.error = error
    node.relayed.take(pb.Command(id="1", request=DU))
    ((answer),) = await node.next()
    assert answer.failure.kind == kind
    assert (str(error) in answer.failure.message) == (not isinstance(error, RuntimeError))


async def test_an_answer_that_is_too_large_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES", 1)
    node = Node()
    node.relayed.take(pb.Command(id="1", request=DU))
    ((answer),) = await node.next()
    assert answer.failure.kind == Failure.KIND_FAILED
