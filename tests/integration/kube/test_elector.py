"""Leader election against a server that fails, with a clock of its own for each candidate."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from aiohttp import web

from modelcache.kube.client import KubeClient
from modelcache.kube.credentials import KubeconfigCredentials
from modelcache.kube.elector import LeaderElector, Timing
from tests.support.fake_clock import FakeClock
from tests.support.faulty_api import FaultyApi, Match, after, drop, hang, status

LEASE = "/apis/coordination.k8s.io/v1/namespaces/system/leases/controller"


class Candidate:
    """One process competing, with the time of its own machine."""

    def __init__(self, faulty: FaultyApi, name: str, client: KubeClient, timing: Timing, wall: datetime) -> None:
        self.api = faulty
        self.name = name
        self.clock = FakeClock()
        self.elector = LeaderElector(
            client,
            "controller",
            "system",
            name,
            timing=timing,
            clock=self.clock,
            rng=Random(name),
            wall=lambda: wall,
        )
        self._leading = False
        self.terms = 0
        self.holder_when_ending = ""
        self.task = asyncio.create_task(self.elector.run(self.lead))

    async def lead(self) -> None:
        assert self.elector.is_leader
        self._leading = True
        self.terms += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.holder_when_ending = holder(self.api)
            self._leading = False

    def leads(self) -> bool:
        """Whether its task is running."""
        return self._leading

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass on this machine, in steps, each until all that follows from it has been done."""
        await self.clock.until_waiting()
        while seconds > 0:
            step = min(seconds, 0.25)
            self.clock.advance(step)
            seconds -= step
            await self.clock.until_waiting()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def pass_time(candidates: Iterable[Candidate], seconds: float) -> None:
    """The same time on several machines. After each step at most one may lead."""
    together = list(candidates)
    while seconds > 0:
        for candidate in together:
            await candidate.pass_time(min(seconds, 0.25))
            assert sum(other.leads() for other in together) <= 1
        seconds -= 0.25


def holder(faulty: FaultyApi) -> str:
    lease = faulty.objects.get(LEASE)
    return str(lease["spec"]["holderIdentity"]) if lease else ""


def spec(faulty: FaultyApi) -> dict[str, Any]:
    found: dict[str, Any] = faulty.objects[LEASE]["spec"]
    return found


def from_(name: str) -> Match:
    """Requests of one candidate: they differ in their User-Agent."""

    def match(request: web.Request) -> bool:
        return request.headers.get("User-Agent") == name

    return match


def writes_of(name: str) -> Match:
    def match(request: web.Request) -> bool:
        return from_(name)(request) and request.method in ("PUT", "POST")

    return match


Compete = Callable[..., Awaitable[Candidate]]


@pytest.fixture
async def compete(faulty: FaultyApi) -> AsyncIterator[Compete]:
    async with AsyncExitStack() as stack:

        async def start(
            name: str, timing: Timing | None = None, wall: datetime = datetime(2026, 1, 2, tzinfo=UTC)
        ) -> Candidate:
            client = await stack.enter_async_context(
                KubeClient(KubeconfigCredentials(str(faulty.kubeconfig)), user_agent=name)
            )
            candidate = Candidate(faulty, name, client, timing or Timing(), wall)
            stack.push_async_callback(candidate.stop)
            await candidate.clock.until_waiting()
            return candidate

        yield start


@asynccontextmanager
async def partition(faulty: FaultyApi, name: str) -> AsyncIterator[None]:
    """Nothing that this candidate sends arrives."""
    faulty.inject(from_(name), drop, times=None)
    yield
    faulty.heal()


async def test_first_leads_second_waits(faulty: FaultyApi, compete: Compete) -> None:
    first, second = await compete("first"), await compete("second")
    assert (first.leads(), second.leads()) == (True, False)
    assert (first.elector.is_leader, second.elector.is_leader) == (True, False)
    assert first.elector.holder == second.elector.holder == "first"
    assert spec(faulty) == {
        "holderIdentity": "first",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-02T00:00:00.000000Z",
        "renewTime": "2026-01-02T00:00:00.000000Z",
        "leaseTransitions": 0,
    }
    await pass_time([first, second], 120)
    assert (first.terms, second.terms) == (1, 0)


async def test_released_on_stop_and_taken_at_the_next_look(faulty: FaultyApi, compete: Compete) -> None:
    first, second = await compete("first"), await compete("second")
    await first.stop()
    assert first.holder_when_ending == "first", "the task ends before the Lease is given back"
    assert spec(faulty)["holderIdentity"] == ""
    assert not first.elector.is_leader
    await second.pass_time(2.5)
    assert second.leads()
    assert spec(faulty)["leaseTransitions"] == 1


async def test_dead_holder_is_succeeded_after_the_duration_and_not_before(faulty: FaultyApi, compete: Compete) -> None:
    first, second = await compete("first"), await compete("second")
    async with partition(faulty, "first"):
        await first.stop()
    assert holder(faulty) == "first"
    await second.pass_time(14.5)
    assert not second.leads()
    await second.pass_time(3)
    assert second.leads()
    assert spec(faulty)["leaseTransitions"] == 1


async def test_partitioned_holder_stops_before_another_starts(faulty: FaultyApi, compete: Compete) -> None:
    first, second = await compete("first"), await compete("second")
    await pass_time([first, second], 5)
    async with partition(faulty, "first"):
        await pass_time([first, second], 9.75)
        assert not second.leads()
        await pass_time([first, second], 2.25)
        assert not first.leads(), "renew deadline"
        assert not second.leads(), "lease duration"
        await pass_time([first, second], 6)
        assert second.leads()
    await pass_time([first, second], 60)
    assert (first.terms, second.terms) == (1, 1)
    assert first.elector.holder == "second"


async def test_clock_alone_ends_leadership(compete: Compete) -> None:
    first = await compete("first")
    assert first.elector.is_leader
    first.clock.advance(Timing().renew_deadline)
    assert not first.elector.is_leader, "even though no task could run meanwhile"


async def test_short_outage_changes_nothing(faulty: FaultyApi, compete: Compete) -> None:
    first, second = await compete("first"), await compete("second")
    for _ in range(3):
        async with partition(faulty, "first"):
            await pass_time([first, second], 7)
        await pass_time([first, second], 5)
    assert (first.terms, second.terms) == (1, 0)


async def test_hanging_server_counts_as_failure(faulty: FaultyApi, compete: Compete) -> None:
    timing = Timing(lease_duration=0.6, renew_deadline=0.4, retry_period=0.1)
    first = await compete("first", timing)
    faulty.inject(from_("first"), hang(asyncio.Event()), times=None)
    while first.leads():
        await first.clock.until_waiting()
        first.clock.advance(0.1)
        await asyncio.sleep(0)
    assert not first.elector.is_leader
    assert len(faulty.requests(lambda seen: seen.method == "PUT")) >= 2, (
        "one hanging request does not use up the deadline"
    )
    faulty.heal()
    await first.pass_time(2)
    assert first.terms == 2


async def test_renewal_whose_answer_was_lost(faulty: FaultyApi, compete: Compete) -> None:
    first, second = await compete("first"), await compete("second")
    faulty.inject(writes_of("first"), after(drop))
    await pass_time([first, second], 30)
    assert (first.terms, second.terms) == (1, 0)
    assert spec(faulty)["leaseTransitions"] == 0


async def test_takeover_whose_answer_was_lost(faulty: FaultyApi, compete: Compete) -> None:
    faulty.inject(writes_of("first"), after(drop))
    first = await compete("first")
    assert not first.leads()
    assert holder(faulty) == "first"
    await first.pass_time(3)
    assert first.leads()


@pytest.mark.parametrize("fault", [status(500, "InternalError"), status(403, "Forbidden"), status(409, "Conflict")])
async def test_refused_writes(faulty: FaultyApi, compete: Compete, fault: Any) -> None:
    faulty.inject(writes_of("first"), fault, times=3)
    first = await compete("first")
    assert not first.leads()
    await first.pass_time(8)
    assert first.leads()


async def test_foreign_changes_to_the_lease_are_kept(faulty: FaultyApi, compete: Compete) -> None:
    first = await compete("first")
    lease = faulty.objects[LEASE]
    await faulty.put(LEASE, {**lease, "metadata": {**lease["metadata"], "labels": {"by": "hand"}}})
    await first.pass_time(15)
    assert first.terms == 1
    assert first.leads()
    assert faulty.objects[LEASE]["metadata"]["labels"] == {"by": "hand"}


async def test_lease_taken_by_force_is_lost_at_once(faulty: FaultyApi, compete: Compete) -> None:
    first = await compete("first")
    await faulty.put(LEASE, {**faulty.objects[LEASE], "spec": {**spec(faulty), "holderIdentity": "somebody"}})
    await first.pass_time(2.5)
    assert not first.leads()
    assert first.elector.holder == "somebody"
    await first.pass_time(18)
    assert first.leads()
    assert first.terms == 2


async def test_deleted_lease_is_made_again(faulty: FaultyApi, compete: Compete) -> None:
    first = await compete("first")
    await faulty.remove(LEASE)
    await first.pass_time(3)
    assert holder(faulty) == "first"
    assert first.terms == 1


@pytest.mark.parametrize("nonsense", [None, {"holderIdentity": 5}, {"leaseDurationSeconds": "long"}, {}])
async def test_lease_made_by_hand_is_free(faulty: FaultyApi, compete: Compete, nonsense: Any) -> None:
    await faulty.put(LEASE, {"spec": nonsense})
    first = await compete("first")
    assert first.leads()


async def test_wall_clocks_do_not_matter(faulty: FaultyApi, compete: Compete) -> None:
    past = await compete("past", wall=datetime(1999, 1, 1, tzinfo=UTC))
    future = await compete("future", wall=datetime(2099, 1, 1, tzinfo=UTC))
    await pass_time([past, future], 60)
    assert (past.terms, future.terms) == (1, 0)
    await past.stop()
    await future.pass_time(3)
    assert future.leads()


async def test_three_candidates_one_after_the_other(faulty: FaultyApi, compete: Compete) -> None:
    candidates = list(await asyncio.gather(*(compete(name) for name in ("a", "b", "c"))))
    for leaders in range(1, 4):
        await pass_time(candidates, 25)
        assert sum(candidate.leads() for candidate in candidates) == 1
        leader = next(candidate for candidate in candidates if candidate.leads())
        assert holder(faulty) == leader.name
        assert spec(faulty)["leaseTransitions"] == leaders - 1
        candidates.remove(leader)
        if leaders % 2:
            await leader.stop()
        else:
            async with partition(faulty, leader.name):
                await leader.stop()


async def run_once(faulty: FaultyApi, lead: Callable[[], Awaitable[None]]) -> None:
    async with KubeClient(KubeconfigCredentials(str(faulty.kubeconfig))) as client:
        await LeaderElector(client, "controller", "system", "me").run(lead)


async def test_ends_with_its_task_and_gives_the_lease_back(faulty: FaultyApi) -> None:
    async def lead() -> None:
        assert holder(faulty) == "me"

    await run_once(faulty, lead)
    assert spec(faulty)["holderIdentity"] == ""


async def test_error_of_the_task_is_raised_after_the_lease_is_back(faulty: FaultyApi) -> None:
    async def lead() -> None:
        raise RuntimeError("cannot lead")

    with pytest.raises(RuntimeError, match="cannot lead"):
        await run_once(faulty, lead)
    assert spec(faulty)["holderIdentity"] == ""


async def test_release_after_a_foreign_change(faulty: FaultyApi) -> None:
    async def lead() -> None:
        lease = faulty.objects[LEASE]
        await faulty.put(LEASE, {**lease, "metadata": {**lease["metadata"], "labels": {"by": "hand"}}})

    await run_once(faulty, lead)
    assert spec(faulty)["holderIdentity"] == ""
    assert faulty.objects[LEASE]["metadata"]["labels"] == {"by": "hand"}


async def test_lease_of_another_is_not_released(faulty: FaultyApi) -> None:
    async def lead() -> None:
        await faulty.put(LEASE, {**faulty.objects[LEASE], "spec": {**spec(faulty), "holderIdentity": "somebody"}})

    await run_once(faulty, lead)
    assert spec(faulty)["holderIdentity"] == "somebody"


@pytest.mark.parametrize("numbers", [(10, 15, 2), (15, 10, 10), (15, 10, 0), (15, 15, 2)])
def test_timing_that_cannot_work_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="retry period < renew deadline < lease duration"):
        Timing(*numbers)
