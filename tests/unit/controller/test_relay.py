"""Commands on their way to agents, without agents: who is believed, how long is waited, what is sent when."""

from __future__ import annotations

import asyncio

import pytest

from controller import relay as module
from controller.placement import Presence
from controller.registry import Session
from controller.relay import AT_ONCE, Answer, Failure, Relay
from modelcache.rpc import modelcache_pb2 as pb

DU = pb.RunRequest(disk_usage=pb.DiskUsage())


def session(node: str = "a", instance: str = "1", arrival: int = 1, *, commands: bool = True) -> Session:
    return Session(node, instance, "peer", arrival, commands=commands)


async def asked(relay: Relay, stream: Session, seconds: float = 60.0) -> tuple[asyncio.Task[Answer], pb.Command]:
    """A command that is under way, and as what it was sent."""
    task = asyncio.create_task(relay.ask(stream, DU, seconds))
    await stream.wake.wait()
    (command,) = relay.due(stream)
    assert relay.due(stream) == [], "once for each stream"
    return task, command


async def test_an_answer_counts_only_from_the_node_that_was_asked() -> None:
    relay, stream = Relay(), session()
    task, command = await asked(relay, stream)
    relay.take(session("b"), pb.CommandAnswer(id=command.id, response=pb.RunResponse(free_bytes=1)))
    relay.take(stream, pb.CommandAnswer(id="another", response=pb.RunResponse(free_bytes=2)))
    assert not task.done()
    relay.take(stream, pb.CommandAnswer(id=command.id, response=pb.RunResponse(free_bytes=3)))
    relay.take(stream, pb.CommandAnswer(id=command.id, response=pb.RunResponse(free_bytes=4)))
    assert await task == pb.RunResponse(free_bytes=3)
    assert relay.due(stream) == []


async def test_a_new_stream_of_the_same_process_is_asked_again() -> None:
    relay, stream = Relay(), session()
    task, command = await asked(relay, stream)
    again = session(arrival=2)
    assert relay.due(again) == [command]
    relay.take(again, pb.CommandAnswer(id=command.id, failure=pb.CommandFailure(kind=Failure.KIND_NOT_KNOWN)))
    assert await task == pb.CommandFailure(kind=Failure.KIND_NOT_KNOWN)


async def test_a_process_that_was_restarted_has_forgotten_the_command() -> None:
    relay, stream = Relay(), session()
    task, _ = await asked(relay, stream)
    assert relay.due(session(instance="2", arrival=2)) == []
    assert _kind(await task) == Failure.KIND_LOST


@pytest.mark.parametrize("end", ["gone", "close"])
async def test_nobody_waits_for_who_is_gone(end: str) -> None:
    relay, stream = Relay(), session()
    task, _ = await asked(relay, stream)
    relay.look(lambda node: Presence.AWAY)
    assert not task.done()
    if end == "gone":
        relay.look(lambda node: Presence.GONE)
    else:
        relay.close()
    assert _kind(await task) == Failure.KIND_LOST


async def test_the_agent_is_told_when_nobody_waits_any_more() -> None:
    relay, stream = Relay(), session()
    task, command = await asked(relay, stream)
    task.cancel()
    await asyncio.wait([task])
    assert relay.due(stream) == [pb.Command(id=command.id)]
    assert relay.due(stream) == []
    assert _kind(await relay.ask(stream, DU, 0.0)) == Failure.KIND_TIMEOUT
    assert relay.due(stream) == [], "it was never sent"


async def test_who_cannot_or_has_too_much_to_do_is_not_asked() -> None:
    relay = Relay()
    assert _kind(await relay.ask(session(commands=False), DU, 60.0)) == Failure.KIND_OUTDATED
    stream = session()
    tasks = [asyncio.create_task(relay.ask(stream, DU, 60.0)) for _ in range(AT_ONCE)]
    await stream.wake.wait()
    assert _kind(await relay.ask(stream, DU, 60.0)) == Failure.KIND_BUSY
    relay.close()
    await asyncio.wait(tasks)


async def test_answers_that_are_too_large_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES", 1000)
    monkeypatch.setattr(module, "HELD_BYTES", 1500)
    relay, stream = Relay(), session()

    async def answered(size: int) -> Answer:
        task, command = await asked(relay, stream)
        stream.wake.clear()
        line = pb.RevisionLine(kept="x" * size)
        relay.take(stream, pb.CommandAnswer(id=command.id, response=pb.RunResponse(revisions=[line])))
        return await task

    assert _kind(await answered(1000)) == Failure.KIND_FAILED
    first = await answered(900)
    assert isinstance(first, pb.RunResponse)
    assert _kind(await answered(900)) == Failure.KIND_FAILED, "the first one is still held"
    relay.passed_on(first)
    assert isinstance(await answered(900), pb.RunResponse)


def _kind(answer: Answer) -> int:
    assert isinstance(answer, pb.CommandFailure)
    return answer.kind
