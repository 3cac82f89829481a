"""The agent's side of the stream, against a controller that comes and goes and sends anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.channel import open_channel
from agent.controllers import finder
from agent.desired import Desired
from agent.failures import ManifestUnavailable
from agent.sync import LOOK_SECONDS, MANIFESTS_AT_ONCE, RECONNECT_BASE, RECONNECT_CAP, Sync
from controller.server import MAX_CALLS
from local.ports import free_port
from modelcache.kube.backoff import Backoff
from modelcache.kube.clock import Clock, LoopClock
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.rpc.address import parse_address
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_READY,
    DesiredModel,
    DesiredState,
    Hello,
    ModelKey,
    ModelReport,
    Report,
    SyncResponse,
)
from tests.support.controller import ScriptedController, wish
from tests.support.fake_clock import FakeClock
from tests.support.waiting import PATIENCE, wait_until_async

examples = settings(deadline=None, derandomize=True, max_examples=30)

KEY = ObjectKey("team-a", "llama")
MANIFEST = Manifest.build(
    "hf://acme/llama",
    "a" * 40,
    [ManifestFile(path=f"file-{n:03}", size=n, sha256=Sha256(f"{n:064x}")) for n in range(100)],
)


class Impatient(Random):
    """Never waits: jitter is always its lower bound."""

    def uniform(self, a: float, b: float) -> float:
        del b
        return a


class Upper(Random):
    """The longest wait that jitter allows."""

    def uniform(self, a: float, b: float) -> float:
        del a
        return b


class Agent:
    """What `Sync` talks for: a report that the test changes, and the desired states that were taken over."""

    def __init__(self, address: str, *, clock: Clock | None = None, rng: Random | None = None) -> None:
        self.zone = "zone-a"
        self.models: list[ModelReport] = []
        self.taken: list[Desired] = []
        self.sync = Sync(
            finder([parse_address(address)], Random(0)),
            open_channel,
            hello=lambda: Hello(node="node-1", zone=self.zone, instance="i", version="1", cache_root="/cache"),
            report=lambda: Report(models=self.models),
            take=self.taken.append,
            clock=clock or LoopClock(),
            rng=rng or Impatient(),
        )

    def say(self, phase: int, done: int = 0) -> None:
        self.models = [
            ModelReport(
                model=ModelKey(namespace=KEY.namespace, name=KEY.name),
                phase=phase,  # type: ignore[arg-type]  # the enum's values are ints
                bytes_done=done,
            )
        ]
        self.sync.changed()


@pytest.fixture
async def controller() -> AsyncIterator[ScriptedController]:
    async with ScriptedController() as scripted:
        yield scripted


@asynccontextmanager
async def connected(agent: Agent) -> AsyncIterator[Agent]:
    running = asyncio.create_task(agent.sync.run())
    try:
        yield agent
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_hello_comes_first_and_reports_name_the_nonce_that_was_taken_over(controller: ScriptedController) -> None:
    async with connected(Agent(controller.address)) as agent:
        first = await controller.until(lambda report: True)
        assert first.nonce == ""
        assert [(hello.node, hello.zone, hello.cache_root) for hello in controller.hellos] == [
            ("node-1", "zone-a", "/cache")
        ]
        for name in ("one", "two"):
            nonce = await controller.want(wish("team-a", name, MANIFEST))
            await controller.until(lambda report, nonce=nonce: report.nonce == nonce)  # type: ignore[misc]
        assert [set(desired.models) for desired in agent.taken] == [
            {ObjectKey("team-a", "one")},
            {ObjectKey("team-a", "two")},
        ]


async def test_the_way_to_the_controller_leads_through_no_proxy(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with connected(Agent(controller.address)):
        await controller.until(lambda report: True)


async def test_a_change_of_phase_is_reported_at_once_and_silence_by_the_heartbeat(
    controller: ScriptedController,
) -> None:
    clock = FakeClock()

    async def next_look() -> None:
        """Let only the little time pass that lies between two looks at what there is to report."""
        await clock.until_waiting()
        clock.advance(LOOK_SECONDS)

    async with connected(Agent(controller.address, clock=clock)) as agent:
        await controller.until(lambda report: True)
        for phase in (PHASE_DOWNLOADING, PHASE_READY):
            agent.say(phase)
            await next_look()
            await controller.until(lambda report, phase=phase: any(m.phase == phase for m in report.models))  # type: ignore[misc]
        await controller.want(heartbeat=20)
        await wait_until_async(lambda: asyncio.sleep(0, bool(agent.taken)), what="the desired state is taken over")
        await next_look()
        await controller.until(lambda report: report.nonce == "n1")
        count = len(controller.reports)
        await next_look()
        await clock.until_waiting()
        assert len(controller.reports) == count, "nothing to say"
        clock.advance(20)
        await controller.until(lambda report: report.nonce == "n1", after=count)


async def test_progress_is_seen_without_being_told(controller: ScriptedController) -> None:
    async with connected(Agent(controller.address)) as agent:
        agent.say(PHASE_DOWNLOADING, 1)
        await controller.until(lambda report: bool(report.models))
        agent.models[0].bytes_done = 2
        await controller.until(lambda report: bool(report.models) and report.models[0].bytes_done == 2)


async def test_the_stream_comes_back_after_every_kind_of_end(controller: ScriptedController) -> None:
    async with connected(Agent(controller.address)) as agent:
        await controller.want(wish("team-a", "llama", MANIFEST))
        await controller.until(lambda report: report.nonce == "n1")
        await controller.stop()
        controller.refusal = grpc.StatusCode.UNAVAILABLE
        await controller.start()
        await controller.until_true(lambda: controller.refused > 0)
        assert len(controller.hellos) == 1
        controller.refusal = None
        before = len(controller.reports)
        again = await controller.until(lambda report: report.nonce == "n1", after=before)
        assert again == controller.reports[-1]
        assert controller.reports[before].nonce == "", "a new stream starts from nothing"
        assert len(controller.hellos) == 2
        controller.end_streams()
        await controller.until_connected(3)
        await controller.until(lambda report: report.nonce == "n1", after=len(controller.reports))
        assert agent.taken[0] == agent.taken[-1], "a replay changes nothing"


async def test_a_changed_hello_begins_a_new_stream(controller: ScriptedController) -> None:
    async with connected(Agent(controller.address)) as agent:
        await controller.want()
        await controller.until(lambda report: report.nonce == "n1")
        agent.zone = "zone-b"
        agent.sync.restart()
        await controller.until_connected(2)
        assert [hello.zone for hello in controller.hellos] == ["zone-a", "zone-b"]


async def test_a_stream_that_has_not_been_answered_yet_is_let_come_about(controller: ScriptedController) -> None:
    async with connected(Agent(controller.address)) as agent:
        await controller.until(lambda report: True)
        # A certificate that is renewed more often than a slow controller answers.
        for phase in (PHASE_DOWNLOADING, PHASE_READY):
            agent.zone = f"zone-{phase}"
            agent.sync.restart()
            agent.say(phase)
            await controller.until(lambda report, phase=phase: any(m.phase == phase for m in report.models))  # type: ignore[misc]
        assert len(controller.hellos) == 1, "all reports came on one stream"
        await controller.want(wish("team-a", "llama", MANIFEST))
        await controller.until_connected(2)
        assert [desired.nonce for desired in agent.taken[:1]] == ["n1"], "the answer was taken over"
        before = len(controller.reports)
        await controller.until(lambda report: report.nonce == "n1", after=before)
        assert [hello.zone for hello in controller.hellos] == ["zone-a", f"zone-{PHASE_READY}"], "once is enough"


async def test_what_cannot_be_taken_over_is_refused_and_the_stream_goes_on(controller: ScriptedController) -> None:
    async with connected(Agent(controller.address)) as agent:
        await controller.until(lambda report: True)
        twice = [wish("a", "b", MANIFEST), wish("a", "b", MANIFEST)]
        await controller.send(SyncResponse(desired=DesiredState(nonce="twice", models=twice)))
        await controller.send(SyncResponse())
        await controller.want(wish("a", "b", MANIFEST))
        await controller.until(lambda report: report.nonce == "n1")
        assert [desired.nonce for desired in agent.taken] == ["n1"]
        assert all(report.nonce != "twice" for report in controller.reports)
        assert len(controller.hellos) == 1


async def test_a_desired_state_larger_than_grpc_allows_by_default_arrives(controller: ScriptedController) -> None:
    models = [wish("a", f"model-{n}", f"{n:064x}", token="x" * 500) for n in range(10_000)]
    assert DesiredState(models=models).ByteSize() > 4 * 1024 * 1024
    async with connected(Agent(controller.address)) as agent:
        await controller.until(lambda report: True)
        await controller.want(*models)
        await controller.until(lambda report: report.nonce == "n1")
        assert len(agent.taken[-1].models) == 10_000


async def test_a_manifest_comes_in_chunks(controller: ScriptedController) -> None:
    controller.know(MANIFEST)
    async with connected(Agent(controller.address)) as agent:
        await controller.until(lambda report: True)
        assert await agent.sync.manifest(KEY, MANIFEST.digest) == MANIFEST.encode()
        asked = controller.manifest_requests[0]
        assert (asked.model.namespace, asked.model.name, asked.digest) == (*KEY, MANIFEST.digest)


async def test_many_manifests_are_asked_for_a_few_at_a_time(controller: ScriptedController) -> None:
    controller.know(MANIFEST)
    controller.manifest_gate = asyncio.Event()
    async with connected(Agent(controller.address)) as agent:
        await controller.until(lambda report: True)
        asking = [asyncio.create_task(agent.sync.manifest(KEY, MANIFEST.digest)) for _ in range(100)]
        await controller.until_true(lambda: controller.manifests_under_way == MANIFESTS_AT_ONCE)
        controller.manifest_gate.set()
        assert set(await asyncio.gather(*asking)) == {MANIFEST.encode()}
    assert controller.most_manifests == MANIFESTS_AT_ONCE
    assert 2 * MANIFESTS_AT_ONCE < MAX_CALLS, "no controller refuses any of them"


async def test_a_manifest_that_the_controller_does_not_give_is_unavailable_for_now(
    controller: ScriptedController,
) -> None:
    agent = Agent(controller.address)
    with pytest.raises(ManifestUnavailable, match="no connection"):
        await agent.sync.manifest(KEY, MANIFEST.digest)
    async with connected(agent):
        await controller.until(lambda report: True)
        with pytest.raises(ManifestUnavailable, match="NOT_FOUND: the test has no such manifest"):
            await agent.sync.manifest(KEY, MANIFEST.digest)


async def test_a_controller_that_dies_while_it_sends_a_manifest_is_no_cancellation(
    controller: ScriptedController,
) -> None:
    controller.know(MANIFEST)
    controller.manifest_gate = asyncio.Event()
    async with connected(Agent(controller.address)) as agent:
        await controller.until(lambda report: True)
        fetching = asyncio.create_task(agent.sync.manifest(KEY, MANIFEST.digest))
        await controller.until_true(lambda: bool(controller.manifest_requests))
        await controller.stop()
        with pytest.raises(ManifestUnavailable):
            await fetching


async def test_the_wait_between_tries_grows_and_is_bounded() -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    class Watched(LoopClock):
        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 12:
                enough.set()
            await asyncio.sleep(0)

    async with ScriptedController() as gone:
        address = gone.address
    async with connected(Agent(address, clock=Watched(), rng=Upper())), asyncio.timeout(PATIENCE):
        await enough.wait()
    assert waits[:4] == [RECONNECT_BASE * 2**n for n in range(4)]
    assert max(waits) == RECONNECT_CAP


@examples
@given(st.integers(0, 500), st.randoms())
def test_no_wait_is_longer_than_the_cap_after_any_number_of_failures(failures: int, rng: Random) -> None:
    backoff = Backoff(rng, base=RECONNECT_BASE, cap=RECONNECT_CAP)
    now = 0.0
    for _ in range(failures):
        wait = backoff.fail(now)
        assert 0.0 <= wait <= RECONNECT_CAP
        now += wait


def test_an_entry_needs_nothing_but_its_name() -> None:
    assert wish("a", "b") == DesiredModel(model=ModelKey(namespace="a", name="b"))
