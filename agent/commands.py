"""What an administrator can ask of a node's cache: how large it is, what would go, to let go, to read everything again.

Served on a Unix socket in the cache directory by the agent that owns it, and through the controller (`agent.relayed`); where
no agent runs, the same code works on the cache directly, and then answers only what needs nobody to say what is wanted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from agent.room import Room, Unconfirmed
from agent.store import Keep, Problem, Store, StoreError
from agent.store.eviction import Eviction, Key, Revision
from agent.threads import in_thread
from agent.transfer.cancel import CancelToken
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.modelcache_pb2_grpc import NodeServiceServicer, add_NodeServiceServicer_to_server

_log = logging.getLogger(__name__)

LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket (sun_path in unix(7), without the NUL)."""
PROBLEMS_SHOWN = 20
"""Files of one revision that are named."""

Doubts = Mapping[Key, Sequence[Problem]]


class NotKnown(Exception):
    """It is not known what is wanted or used here, so nothing may go."""


class Commands:
    """The commands of one cache. Each raises StoreError; those that remove something raise NotKnown or Unconfirmed."""

    def __init__(
        self,
        store: Store,
        room: Room,
        *,
        limit: Callable[[], int | None],
        usable: Callable[[], int],
        needed: Callable[[], Keep | None] = lambda: None,
        sweep: Callable[[], Awaitable[None]] | None = None,
        doubt: Callable[[Doubts], None] = lambda doubts: None,
    ) -> None:
        """`needed`: what has to stay although nothing published refers to it. `doubt` is told what is found damaged."""
        self._store = store
        self._room = room
        self._limit = limit
        self._usable = usable
        self._needed = needed
        self._sweep = sweep
        self._doubt = doubt

    async def run(self, request: pb.RunRequest) -> pb.RunResponse:
        """Carry one command out. Raises ValueError for one that this version does not know."""
        command = request.WhichOneof("command")
        if command == "disk_usage":
            return await self.disk_usage()
        if command == "collect":
            return await self.collect(dry_run=request.collect.dry_run)
        if command == "evict":
            model = request.evict.model
            return await self.evict(model.namespace, model.name, request.evict.revision)
        if command == "verify":
            model = request.verify.model
            return await self.verify((model.namespace, model.name) if request.verify.HasField("model") else None)
        raise ValueError("this agent does not know the command; update it")

    async def disk_usage(self) -> pb.RunResponse:
        """What is there."""
        return await self._answer(await self._lines())

    async def collect(self, *, dry_run: bool) -> pb.RunResponse:
        """Delete what nothing needs, and what is above the high watermark."""
        keep = self._keep()
        eviction = await self._room.excess()
        before = await in_thread(self._store.census.occupied)
        unneeded = await in_thread(lambda: self._store.census.unneeded(keep))
        lines = [line for line in await self._lines() if _key(line) in eviction.victims]
        if dry_run:
            return await self._answer(_with(lines, pb.OUTCOME_REMOVED), freed=unneeded + eviction.bytes)
        eviction = await self._room.evict(eviction.victims)
        lines = [line for line in lines if _key(line) in eviction.victims]
        assert self._sweep is not None
        await self._sweep()
        freed = before - await in_thread(self._store.census.occupied)
        return await self._answer(_with(lines, pb.OUTCOME_REMOVED), freed=max(0, freed))

    async def evict(self, namespace: str, name: str, revision: str) -> pb.RunResponse:
        """Remove what may go of one model; the lines say what had to stay, and why."""
        self._keep()
        lines = [line for line in await self._lines((namespace, name)) if line.snapshot.startswith(revision)]
        eviction: Eviction = await self._room.evict([_key(line) for line in lines])
        for line in lines:
            line.outcome = pb.OUTCOME_REMOVED if _key(line) in eviction.victims else pb.OUTCOME_KEPT
        return await self._answer(lines, freed=eviction.bytes)

    async def verify(self, model: tuple[str, str] | None) -> pb.RunResponse:
        """Read everything again, or one model."""
        lines = await self._lines(model)
        for line in lines:
            key, stop = _key(line), CancelToken()
            work = partial(self._store.deep_check, *key, partial(_unless, stop))
            problems = await in_thread(work, stop.cancel)
            line.outcome = pb.OUTCOME_DAMAGED if problems else pb.OUTCOME_SOUND
            line.problems.extend(f"{problem.path}: {problem.detail}" for problem in problems[:PROBLEMS_SHOWN])
            if problems:
                self._doubt({key: problems})
        return await self._answer(lines)

    def _keep(self) -> Keep:
        keep = self._needed()
        if keep is None or self._sweep is None:
            raise NotKnown(
                "it is not known what is wanted here, so nothing may go; it needs a running agent that is connected to the "
                "controller and knows the manifests of all its models"
            )
        return keep

    async def _lines(self, model: tuple[str, str] | None = None) -> list[pb.RevisionLine]:
        revisions = {revision.key: revision for revision in await self._room.revisions()}
        rows = await in_thread(self._store.published)
        return [
            _line(revisions[row.key], current=row.current, verified_at=row.verified_at)
            for row in rows
            if row.key in revisions and model in (None, (row.namespace, row.name))
        ]

    async def _answer(self, lines: Sequence[pb.RevisionLine], freed: int = 0) -> pb.RunResponse:
        keep = self._needed()
        census = self._store.census
        return pb.RunResponse(
            revisions=lines,
            occupied_bytes=await in_thread(census.occupied),
            limit_bytes=self._limit(),
            free_bytes=await in_thread(self._usable),
            unneeded_bytes=await in_thread(lambda: census.unneeded(keep)) if keep is not None else 0,
            freed_bytes=freed,
        )


def failure_of(error: Exception) -> pb.CommandFailure:
    """What the error of a command means for whoever has given it. Raises it again when it is a fault of this program."""
    if isinstance(error, NotKnown | Unconfirmed):
        return pb.CommandFailure(kind=pb.CommandFailure.KIND_NOT_KNOWN, message=str(error))
    if isinstance(error, ValueError):
        return pb.CommandFailure(kind=pb.CommandFailure.KIND_OUTDATED, message=str(error))
    if isinstance(error, StoreError | OSError):
        return pb.CommandFailure(kind=pb.CommandFailure.KIND_FAILED, message=str(error))
    raise error


_CODES = {
    pb.CommandFailure.KIND_NOT_KNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    pb.CommandFailure.KIND_OUTDATED: grpc.StatusCode.UNIMPLEMENTED,
    pb.CommandFailure.KIND_FAILED: grpc.StatusCode.INTERNAL,
}


class NodeServer(NodeServiceServicer):
    """Serves the commands on a socket that only the agent's user and root may open."""

    def __init__(self, commands: Commands, socket: Path) -> None:
        self._commands = commands
        self._socket = socket
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        add_NodeServiceServicer_to_server(self, self._server)

    async def start(self) -> bool:
        """Listen; False where the path is too long for a socket, which leaves the commands without their agent."""
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET:
            _log.warning("no commands for this cache: the path %s is too long for a socket", self._socket)
            return False
        self._socket.unlink(missing_ok=True)  # of an agent that was killed: the lock says that it is gone
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self._socket}")
            await self._server.start()
        finally:
            os.umask(mask)
        return True

    async def stop(self) -> None:
        """Listen no more."""
        await self._server.stop(0)
        self._socket.unlink(missing_ok=True)

    async def Run(
        self, request: pb.RunRequest, context: aio.ServicerContext[pb.RunRequest, pb.RunResponse]
    ) -> pb.RunResponse:
        """One command."""
        try:
            return await self._commands.run(request)
        except Exception as error:  # noqa: BLE001  # judged there
            failure = failure_of(error)
            await context.abort(_CODES[failure.kind], failure.message)


def _unless(stop: CancelToken, _count: int) -> None:
    stop.check()


def _line(revision: Revision, *, current: bool, verified_at: float | None) -> pb.RevisionLine:
    namespace, name, snapshot = revision.key
    return pb.RevisionLine(
        model=pb.ModelKey(namespace=namespace, name=name),
        snapshot=snapshot,
        bytes=sum(revision.blobs.values()),
        last_used=_timestamp(revision.last_used),
        last_verified=_timestamp(verified_at) if verified_at is not None else None,
        current=current,
        kept=revision.kept,
    )


def _key(line: pb.RevisionLine) -> Key:
    return (line.model.namespace, line.model.name, line.snapshot)


def _with(lines: list[pb.RevisionLine], outcome: pb.Outcome.ValueType) -> list[pb.RevisionLine]:
    for line in lines:
        line.outcome = outcome
    return lines


def _timestamp(unix: float) -> Timestamp:
    return Timestamp(seconds=max(0, int(unix)))
