"""One leader among several candidates, by a Lease (coordination.k8s.io/v1).

Candidates write their name into one object with PUT and its resourceVersion, so that of two simultaneous writers the
server refuses one. The holder renews every `retry_period`; the others take over when the Lease has not *changed* for the
duration it promises.

**Clocks.** Nobody compares a timestamp in the Lease with a clock of its own: machines' clocks differ, and are set. A
candidate measures on its own monotonic clock since when it has seen the same record; a fresh candidate therefore waits one
full duration at a dead holder's Lease. The times in the Lease are for people.

**The holder gives up before the others may start.** Its own limit, `renew_deadline`, counts from the moment *before* the
last successful renewal was sent; theirs, `lease_duration`, from a moment after the server had it. The difference (5 s by
default) is what the leading task has to end in. A network error is simply a renewal that failed: it is tried again until
the deadline. `is_leader` compares with the clock at the moment of asking, so it is right even while the event loop was
blocked and nobody could be told.

What this cannot do, like any lease: a process that is stopped (SIGSTOP, a suspended virtual machine) between asking
`is_leader` and a write may write late. Writes that matter carry a resourceVersion.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock, LoopClock
from modelcache.kube.errors import AlreadyExists, Conflict, KubeError, NotFound, Unreachable, printable
from modelcache.kube.resources import LEASES, ObjectKey

_log = logging.getLogger(__name__)

Json = dict[str, Any]

RELEASE_TIMEOUT = 3.0
"""Seconds to give the Lease back at the end; without it the others wait for the Lease to expire, nothing worse."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. client-go's defaults; `retry_period` < `renew_deadline` < `lease_duration` or ValueError."""

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_period < self.renew_deadline < self.lease_duration:
            raise ValueError(
                "leader election needs 0 < retry period < renew deadline < lease duration, not "
                f"{self.retry_period:g} / {self.renew_deadline:g} / {self.lease_duration:g} s"
            )


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a Lease says. Every field may be missing in a Lease made by hand."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A Lease as last read or written, and since when (monotonic) it is known to be in this state."""

    lease: Json
    spec: LeaseSpec
    since: float

    @property
    def resource_version(self) -> str:
        """Of the Lease."""
        return str(self.lease.get("metadata", {}).get("resourceVersion", ""))


def observe(lease: Json, before: Observation | None, now: float) -> Observation:
    """What is known after reading `lease` at `now`: the age of an unchanged record goes on counting.

    A change of anything counts as a sign of life, as the resourceVersion does not say what has changed; a label put on
    the Lease of a dead holder delays the succession by one duration, which is the safe side.
    """
    try:
        spec = msgspec.convert(lease.get("spec") or {}, LeaseSpec)
    except msgspec.ValidationError as error:
        # Written by hand; nobody can be holding it in a form that any elector understands.
        _log.warning("the Lease has an unreadable spec, taking it as free: %s", error)
        spec = LeaseSpec()
    observation = Observation(lease, spec, now)
    if before is not None and before.resource_version == observation.resource_version:
        return Observation(lease, spec, before.since)
    return observation


def seconds_until_free(seen: Observation, identity: str, timing: Timing, now: float) -> float:
    """How long `identity` must leave the Lease to its holder; 0 if it may be taken, or is its own."""
    if not seen.spec.holder_identity or seen.spec.holder_identity == identity:
        return 0.0
    promised = seen.spec.lease_duration_seconds or timing.lease_duration
    return max(0.0, seen.since + promised - now)


def next_spec(before: LeaseSpec | None, identity: str, timing: Timing, wall: datetime) -> LeaseSpec:
    """The record that takes or renews the Lease for `identity`; `before` is None when there is no Lease yet."""
    now = micro_time(wall)
    # Whole seconds in the API; rounded up, because the holder must never keep longer than it promises.
    duration = math.ceil(timing.lease_duration)
    if before is None:
        return LeaseSpec(identity, duration, now, now, 0)
    transitions = before.lease_transitions or 0
    if before.holder_identity == identity:
        return LeaseSpec(identity, duration, before.acquire_time or now, now, transitions)
    # Every change of the holder counts, also the one after a release; as in client-go.
    return LeaseSpec(identity, duration, now, now, transitions + 1)


def micro_time(wall: datetime) -> str:
    """`metav1.MicroTime`: RFC 3339 in UTC with exactly six digits."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaderElector:
    """Competes for the Lease `name` in `namespace` under `identity`, which must be unique among all processes ever.

    A pod name with a random suffix is a good identity: after a crash the successor must not take the Lease for its own.
    """

    def __init__(
        self,
        client: KubeClient,
        name: str,
        namespace: str,
        identity: str,
        *,
        timing: Timing | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._key = ObjectKey(namespace, name)
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock or LoopClock()
        self._rng = rng or Random()  # noqa: S311  # jitter, not cryptography
        self._wall = wall
        self._seen: Observation | None = None
        self._renewed_at: float | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this process may act as leader at this very moment."""
        return self._renewed_at is not None and self._clock.now() < self._renewed_at + self._timing.renew_deadline

    @property
    def holder(self) -> str:
        """Whoever holds the Lease as far as known; empty if nobody does."""
        return (self._seen.spec.holder_identity or "") if self._seen else ""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Compete for ever; whenever leading, have `lead()` running.

        When leadership is lost, `lead()` is cancelled and, after it has ended, competing goes on. Returns when `lead()`
        returns, and raises what it raises. In every case, cancellation included, the Lease is given back after
        `lead()` has ended, so that a successor need not wait. Server trouble is waited out.
        """
        try:
            while True:
                await self._acquire()
                _log.info("leading: %s is now held by %s", self._subject, self._identity)
                if await self._lead(lead):
                    return
        finally:
            await self._release()

    async def _acquire(self) -> None:
        while True:
            wait = self._timing.retry_period
            try:
                if await self._try(self._timing.renew_deadline):
                    return
            except KubeError as error:
                _log.warning("cannot compete for %s: %s", self._subject, error)
                wait = max(wait, error.retry_after or 0.0)
            # Candidates that started together must not write together for ever.
            await self._clock.sleep(wait * self._rng.uniform(1.0, 1.2))

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Lead until `lead()` ends (True) or leadership is lost (False)."""
        leading = asyncio.ensure_future(lead())
        renewing = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({leading, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if not leading.done():
                _log.error("lost %s to %s: no longer leading", self._subject, self.holder or "nobody yet")
        finally:
            # In this order: when we are told to stop, the Lease is kept alive until `lead` has ended.
            await _end(leading)
            await _end(renewing)
        if not renewing.cancelled():
            renewing.result()
        if leading.cancelled():
            return False
        leading.result()
        return True

    async def _renew(self) -> None:
        """Renew until that has not succeeded for `renew_deadline`, or somebody else is the holder."""
        while self._renewed_at is not None:
            deadline = self._renewed_at + self._timing.renew_deadline
            await self._clock.sleep(min(self._timing.retry_period, deadline - self._clock.now()))
            remaining = deadline - self._clock.now()
            try:
                # Half of the deadline at most: one request that hangs must leave time for another.
                if remaining <= 0 or not await self._try(min(remaining, self._timing.renew_deadline / 2)):
                    self._renewed_at = None
            except KubeError as error:
                left = deadline - self._clock.now()
                _log.warning("cannot renew %s, %.1f s left: %s", self._subject, max(0.0, left), error)

    async def _try(self, timeout: float) -> bool:
        """Take or renew the Lease once; whether it is ours now. Raises KubeError if the server does not say."""
        async with _within(timeout):
            fresh = self._seen is None or self._seen.spec.holder_identity != self._identity
            if fresh:
                await self._read()
            try:
                return await self._write_if_free()
            except (Conflict, AlreadyExists, NotFound):
                # Our knowledge is old: an earlier PUT whose answer was lost, a rival, somebody's kubectl. Look, then
                # decide once more; a second conflict is left to the next round.
                await self._read()
                return await self._write_if_free()

    async def _read(self) -> None:
        try:
            lease = await self._client.get(LEASES, self._key.name, self._key.namespace, into=Json)
        except NotFound:
            self._seen = None
            return
        self._seen = observe(lease, self._seen, self._clock.now())

    async def _write_if_free(self) -> bool:
        seen, sent_at = self._seen, self._clock.now()
        if seen is not None and seconds_until_free(seen, self._identity, self._timing, sent_at) > 0:
            return False
        spec = next_spec(seen.spec if seen else None, self._identity, self._timing, self._wall())
        await self._write(seen, spec)
        self._renewed_at = sent_at
        return True

    async def _write(self, seen: Observation | None, spec: LeaseSpec) -> None:
        """Create or replace, keeping whatever others have put into the object."""
        lease: Json = dict(seen.lease) if seen else {"apiVersion": LEASES.api_version, "kind": LEASES.kind}
        metadata: Json = {"name": self._key.name, "namespace": self._key.namespace, **lease.get("metadata", {})}
        lease |= {"metadata": metadata, "spec": {**(lease.get("spec") or {}), **msgspec.to_builtins(spec)}}
        if seen is None:
            stored = await self._client.create(LEASES, lease, self._key.namespace, name=self._key.name)
        else:
            stored = await self._client.replace(LEASES, self._key.name, lease, self._key.namespace)
        lease["metadata"] = {**metadata, "resourceVersion": stored.resource_version}
        self._seen = Observation(lease, spec, self._clock.now())

    async def _release(self) -> None:
        """Write that nobody holds the Lease, if it is ours; failing that, it expires."""
        self._renewed_at = None
        try:
            async with _within(RELEASE_TIMEOUT):
                try:
                    await self._write_release()
                except Conflict:
                    await self._read()
                    await self._write_release()
        except KubeError as error:
            _log.warning("cannot give back %s, it expires by itself: %s", self._subject, error)

    async def _write_release(self) -> None:
        seen = self._seen
        if seen is None or seen.spec.holder_identity != self._identity:
            return
        now = micro_time(self._wall())
        # One second is the shortest duration the API accepts.
        spec = LeaseSpec("", 1, now, now, seen.spec.lease_transitions)
        await self._write(seen, spec)
        _log.info("gave back %s", self._subject)

    @property
    def _subject(self) -> str:
        return LEASES.describe(printable(self._key.name, 253), self._key.namespace)


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """A time limit whose end is a KubeError like any other trouble with the server."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unreachable(f"no answer within {seconds:.1f} s") from error


async def _end(task: asyncio.Future[None]) -> None:
    """Cancel and wait until it is over, however it ends."""
    task.cancel()
    await asyncio.wait({task})
