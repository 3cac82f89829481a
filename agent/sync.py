"""The stream to the controller: says what this node has, hears what it should have, for ever.

State-of-the-world in both directions, so nothing has to be queued, resent or acknowledged one by one: a report is made from
the present state at the moment it is sent, and a stream that breaks is replaced by a new one that starts from nothing.
Being without a controller is normal (it restarts, another one becomes leader, the network is cut): the agent keeps what
it has and tries again with exponential backoff and full jitter. UNAVAILABLE is the usual answer of a controller that is not
the leader or has not yet read the cluster, so it is no cause for alarm.

There may be several replicas of the controller. In each round all of them are tried, one after the other, until one takes
this agent on; only after a round without success does the backoff grow. So the new leader is found at once, wherever it is.

Each stream has a channel of its own; manifests are fetched over the channel of the present stream. A renewed certificate
needs a new channel: `restart` begins a new stream, which costs one report and one desired state. It waits for the present
one's first desired state: where that takes longer than from one reason to restart to the next (a slow machine, a controller
that a thousand agents have come to), an agent would otherwise never hear anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

import grpc
from grpc import aio

from agent.desired import HEARTBEAT_SECONDS, Desired, UnusableDesiredState, read_desired
from agent.failures import ManifestUnavailable
from agent.report import seconds_until_due
from agent.wakeup import Wakeup
from modelcache.kube.backoff import Backoff
from modelcache.kube.clock import Clock
from modelcache.kube.errors import printable
from modelcache.kube.resources import ObjectKey
from modelcache.pacing import pause_after
from modelcache.rpc.address import Address
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    Command,
    CommandAnswer,
    DesiredState,
    GetManifestRequest,
    Hello,
    ModelKey,
    Report,
    SyncRequest,
    SyncResponse,
    TellListingRequest,
)
from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceStub
from modelcache.tls.wallet import NoCredentials

if TYPE_CHECKING:
    # Exists for type checkers only.
    from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceAsyncStub

_log = logging.getLogger(__name__)

CONNECTED = "connected to the controller"
"""Begins the line that is logged when the first desired state has come; `modelcache up` waits for it."""

RECONNECT_BASE = 0.5
RECONNECT_CAP = 10.0
"""Seconds. A new leader is found within ten seconds, and a hundred agents ask ten times a second while there is none."""
PROGRESS_SECONDS = 1.0
"""Between two looks at running downloads."""
LOOK_SECONDS = 0.1
"""Least time between two looks at whether there is something to report: a hundred adapters that are loaded one after the other
are not worth a hundred reports, each of which is about everything. What comes alone is told at once."""
MANIFEST_TIMEOUT = 120.0
MANIFESTS_AT_ONCE = 16
"""Well below what the controller takes on one connection. It refuses more (RST_STREAM with REFUSED_STREAM, which arrives as
UNAVAILABLE), also when our side has only just ended some: it counts a stream a moment longer than we do."""
CHUNK_BYTES = 1024 * 1024
"""Of a listing in one message; receivers take 4 MiB."""
MAX_MANIFEST_BYTES = 320 * 1024 * 1024
"""Above the largest manifest that `modelcache.manifest` accepts: 200,000 files with paths of 1,024 bytes."""
_QUOTED = 300

SyncCall = aio.StreamStreamCall[SyncRequest, SyncResponse]


class Sync:
    """One agent's connection to whoever is the controller. Run `run()` in a task."""

    def __init__(
        self,
        find: Callable[[], Awaitable[Sequence[Address]]],
        connect: Callable[[Address], aio.Channel],
        *,
        hello: Callable[[], Hello],
        report: Callable[[], Report],
        take: Callable[[Desired], None],
        clock: Clock,
        rng: Random,
        unix: Callable[[], float] = time.time,
        command: Callable[[Command], None] = lambda command: None,
        answers: Callable[[], Sequence[CommandAnswer]] = tuple,
        began: Callable[[], None] = lambda: None,
    ) -> None:
        """`find` tells where controllers may be, `connect` opens a channel to one; it may raise NoCredentials.

        `hello` and `report` tell the present state (the nonce is added here), `take` takes a desired state over. `command`
        takes a command, `answers` tells what has to be sent about those. `began` is called at the beginning of each stream.
        """
        self._find = find
        self._connect = connect
        self._hello = hello
        self._report = report
        self._take = take
        self._command = command
        self._answers = answers
        self._began = began
        self._clock = clock
        self._backoff = Backoff(rng, base=RECONNECT_BASE, cap=RECONNECT_CAP)
        self._changed = Wakeup(clock)
        self._stub: ModelCacheServiceAsyncStub | None = None
        self._call: SyncCall | None = None
        self._nonce = ""
        self._heartbeat = HEARTBEAT_SECONDS
        self._last_problem = ""
        self._answered = False
        """Whether the controller has spoken on the present, or else the last, stream."""
        self._restarting = False
        self._asking = asyncio.Semaphore(MANIFESTS_AT_ONCE)
        self._unix = unix
        self.heard_at: float | None = None
        """When the last desired state came, in Unix seconds."""

    @property
    def connected(self) -> bool:
        """Whether there is a stream on which a controller has spoken."""
        return self._call is not None and self._nonce != ""

    def changed(self) -> None:
        """There may be something to report."""
        self._changed.set()

    def restart(self) -> None:
        """Begin a new stream, once this one has been answered: what `hello` tells, or the certificate, has changed."""
        if self._call is not None:
            self._restarting = True
            if self._answered:
                self._call.cancel()

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        while True:
            problem = await self._round()
            if self._restarting and self._answered:
                self._restarting = False
                continue
            delay = self._backoff.fail(self._clock.now())
            level = logging.DEBUG if problem == self._last_problem else logging.WARNING
            _log.log(level, "no controller, next try in %.1f s: %s", delay, problem)
            self._last_problem = problem
            await self._clock.sleep(delay)

    async def _round(self) -> str:
        """Try all controllers until one has served us, and then until that stream ends; why the last one ended."""
        problem = "the controller's name stands for no address; check --controller"
        for address in await self._find():
            try:
                problem = await self._stream(address)
            except NoCredentials as error:
                return str(error)
            if self._answered:
                break
        return problem

    async def manifest(self, key: ObjectKey, digest: str) -> bytes:
        """The bytes of a manifest, unchecked; waits for its turn. Raises ManifestUnavailable."""
        async with self._asking:
            return await self._manifest(key, digest)

    async def _manifest(self, key: ObjectKey, digest: str) -> bytes:
        stub = self._stub
        if stub is None:
            raise ManifestUnavailable("there is no connection to a controller")
        request = GetManifestRequest(model=ModelKey(namespace=key.namespace, name=key.name), digest=digest)
        data = bytearray()
        try:
            async for response in stub.GetManifest(request, timeout=MANIFEST_TIMEOUT):
                data += response.chunk
                if len(data) > MAX_MANIFEST_BYTES:
                    raise ManifestUnavailable(f"the controller sent more than {MAX_MANIFEST_BYTES} bytes")
        except aio.AioRpcError as error:
            raise ManifestUnavailable(_reason(error)) from error
        except (asyncio.CancelledError, aio.UsageError) as error:
            # The channel was closed under the call. Only our own cancellation is one.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            raise ManifestUnavailable("the connection to the controller ended") from error
        return bytes(data)

    async def tell(self, key: ObjectKey, id: str, data: bytes) -> None:
        """Tell the listing that the controller has asked for under `id`. Raises ManifestUnavailable; again may help then."""
        stub = self._stub
        if stub is None:
            raise ManifestUnavailable("there is no connection to a controller")

        async def parts() -> AsyncIterator[TellListingRequest]:
            model = ModelKey(namespace=key.namespace, name=key.name)
            for start in range(0, len(data), CHUNK_BYTES):
                yield TellListingRequest(model=model, id=id, chunk=data[start : start + CHUNK_BYTES])

        try:
            await stub.TellListing(parts(), timeout=MANIFEST_TIMEOUT)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise ManifestUnavailable(_reason(error)) from error
            # Nobody waits for it any more: the next desired state says what is wanted instead.
            _log.info("the controller does not want the listing of %s: %s", key, _reason(error))
        except (asyncio.CancelledError, aio.UsageError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            raise ManifestUnavailable("the connection to the controller ended") from error

    async def _stream(self, address: Address) -> str:
        """One stream from beginning to end; why it ended."""
        self._nonce, self._heartbeat = "", HEARTBEAT_SECONDS
        # What there was a reason to restart for, this one begins with.
        self._answered = self._restarting = False
        self._began()
        async with self._connect(address) as channel:
            stub = ModelCacheServiceStub(channel)
            call = stub.Sync()
            self._stub, self._call = stub, call
            tasks = [asyncio.create_task(self._receive(call)), asyncio.create_task(self._send(call))]
            try:
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    _log_unexpected(task)
                return await self._ending(call)
            finally:
                self._stub, self._call = None, None
                call.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ending(self, call: SyncCall) -> str:
        # Whichever of the two noticed the end: the reason is in the status of the call. It has one now, unless the
        # sending side failed for a reason of its own.
        if not call.done():
            return "the stream broke"
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return "the controller ended the stream"
        return f"{code.name}: {printable(await call.details() or 'no details', _QUOTED)}"

    async def _receive(self, call: SyncCall) -> None:
        async for response in call:
            if response.HasField("command"):
                self._command(response.command)
            if not response.HasField("desired"):
                # A command, or a message of a newer controller.
                continue
            self._answered = True
            self._desired(response.desired)
            if self._restarting:
                call.cancel()

    def _desired(self, message: DesiredState) -> None:
        try:
            desired = read_desired(message)
        except UnusableDesiredState as error:
            _log.error("a desired state was refused, the one before it stays in force: %s", error)
            return
        if self._last_problem or not self._nonce:
            _log.info("%s; it wants %d models here", CONNECTED, len(desired.models))
            self._last_problem = ""
        self._take(desired)
        self.heard_at = self._unix()
        self._nonce, self._heartbeat = desired.nonce, desired.heartbeat
        self._changed.set()

    async def _send(self, call: SyncCall) -> None:
        await call.write(SyncRequest(hello=self._hello()))
        last: Report | None = None
        sent_at = 0.0
        look_at = self._clock.now()
        while True:
            early = look_at - self._clock.now()
            if early > 0:
                await self._clock.sleep(early)
            self._changed.clear()
            for answer in self._answers():
                await call.write(SyncRequest(answer=answer))
            began = self._clock.now()
            report = self._report()
            report.nonce = self._nonce
            now = self._clock.now()
            look_at = now + pause_after(now - began, least=LOOK_SECONDS)
            wait = seconds_until_due(last, report, since=now - sent_at, heartbeat=self._heartbeat)
            if wait <= 0:
                await call.write(SyncRequest(report=report))
                last, sent_at = report, now
                continue
            if any(model.phase == PHASE_DOWNLOADING for model in report.models):
                wait = min(wait, PROGRESS_SECONDS)
            await self._changed.wait(wait)


def _reason(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {printable(error.details() or 'no details', _QUOTED)}"


def _log_unexpected(task: asyncio.Task[None]) -> None:
    """The end of a stream shows as one of these; anything else is a fault of this program, and must not go unseen."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, aio.AioRpcError | asyncio.InvalidStateError):
        _log.error("the stream to the controller failed", exc_info=error)
