"""The service by which administrators ask the agents of a cluster: who may, whom to ask, and what they answer.

Whoever asks shows a token that the API server has issued for the audience AUDIENCE, and nothing else: such a token is worth
nothing anywhere else, so nobody has to hand a controller what he administers his cluster with. What its user may do, RBAC
says, in terms of a subresource that no API server serves and that exists for this alone, as `nodes/proxy` and its kind do for
the kubelet:

    get     dynamomodels/cache    du, gc --dry-run
    update  dynamomodels/cache    verify
    delete  dynamomodels/cache    gc, evict

`evict` and `verify` of one model ask for its namespace and name, so a Role is enough for the models of one namespace;
everything else is about all nodes and all models, and needs a ClusterRole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import grpc
from grpc import aio

from controller.nodes import Node
from controller.placement import Presence
from controller.registry import Registry
from controller.relay import Answer, Failure, Relay, failure
from controller.reviews import Permission, Refused, Reviews, TokenStatus, User
from modelcache.api.labels import is_ours
from modelcache.kube.clock import Clock
from modelcache.kube.errors import printable
from modelcache.kube.informer import Informer
from modelcache.kube.resources import ObjectKey
from modelcache.loglimit import LogLimit
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.commands import AUDIENCE, LONGEST_SECONDS, USUAL_SECONDS
from modelcache.rpc.modelcache_pb2_grpc import ClusterServiceServicer

_log = logging.getLogger(__name__)

GROUP, RESOURCE, SUBRESOURCE = "nvidia.com", "dynamomodels", "cache"
AT_ONCE = 8
"""Commands under way in the whole cluster."""
MAX_NODES = 10_000
"""That one command may name."""

Context = aio.ServicerContext[pb.RunOnNodesRequest, pb.RunOnNodesResponse]


class Desk(Protocol):
    """What of `controller.stream.Desk` is needed here."""

    registry: Registry
    nodes: Informer[Node]
    relay: Relay


def needed(request: pb.RunRequest) -> Permission:
    """What somebody must be allowed to do for this command. Raises Refused for one that this version does not know."""
    command = request.WhichOneof("command")
    if command == "disk_usage":
        return _permission("get")
    if command == "collect":
        return _permission("get" if request.collect.dry_run else "delete")
    if command == "evict":
        return _permission("delete", request.evict.model)
    if command == "verify":
        return _permission("update", request.verify.model)
    raise Refused(grpc.StatusCode.UNIMPLEMENTED, "this controller does not know the command; update it")


def _permission(verb: str, model: pb.ModelKey | None = None) -> Permission:
    namespace, name = (model.namespace, model.name) if model is not None else ("", "")
    return Permission(verb, GROUP, RESOURCE, SUBRESOURCE, namespace, name)


def user_of(status: TokenStatus) -> User:
    """Whose token it is. Raises Refused."""
    if not status.authenticated:
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the API server does not accept the token")
    if AUDIENCE not in (status.audiences or ()):
        # A server that does not know audiences answers without them, and would accept a token for anybody.
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, f"the token is not meant for the audience {AUDIENCE!r}")
    if not status.user.username:
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the API server does not say whose the token is")
    return status.user


def bearer_token(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The token in the metadata of a call, empty when there is none (RFC 6750, section 2.1)."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
            return value[7:].strip()
    return ""


def everybody(registry: Registry, nodes: Informer[Node]) -> list[str]:
    """The nodes that have an agent, or something of one: those that are not heard from must show as missing."""
    labelled = {node.name for node in nodes.values() if any(is_ours(key) for key in node.labels)}
    return sorted({*registry.nodes(), *labelled})


class CommandService(ClusterServiceServicer):
    """Answers administrators."""

    def __init__(
        self,
        reviews: Reviews,
        desk: Callable[[], Desk | None],
        leader: Callable[[], str],
        clock: Clock,
        on_command: Callable[[str, str], None] = lambda command, outcome: None,
    ) -> None:
        """`desk` is there while this process leads; `leader` names who does otherwise, as far as known.

        `on_command` is told each command and the code with which it ended.
        """
        self._reviews = reviews
        self._desk = desk
        self._leader = leader
        self._on_command = on_command
        self.on_call: Callable[[str], None] = lambda peer: None
        """Told the connection of each call."""
        self._running = 0
        self._quietly = LogLimit(_log, clock.now)

    # As in `controller.stream`: the generated base class describes two kinds of servers in one signature.
    async def RunOnNodes(self, request: pb.RunOnNodesRequest, context: Context) -> AsyncIterator[pb.RunOnNodesResponse]:
        """One command."""
        self.on_call(context.peer())
        command = request.command.WhichOneof("command") or "unknown"
        try:
            desk, nodes = await self._admit(request, context)
        except Refused as error:
            self._on_command(command, error.code.name)
            self._quietly.warning(error.code.name, "refused a command to %s: %s", context.peer(), error.message)
            await context.abort(error.code, error.message)
        self._running += 1
        try:
            async for response in _ask_all(desk, nodes, request):
                yield response
            self._on_command(command, "OK")
        finally:
            self._running -= 1

    async def _admit(self, request: pb.RunOnNodesRequest, context: Context) -> tuple[Desk, list[str]]:
        """Whom to ask. Raises Refused."""
        metadata = context.invocation_metadata() or ()
        user = user_of(await self._reviews.of_token(bearer_token([(key, value) for key, value in metadata]), AUDIENCE))
        permission = needed(request.command)
        if not await self._reviews.allows(user, permission):
            text = f"{printable(user.username, 200)} may not {permission}; a role has to allow that"
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, text)
        desk = self._desk()
        if desk is None:
            leader = self._leader()
            text = f"this controller does not lead{f', {leader} does' if leader else ''}; ask that one, or try again"
            raise Refused(grpc.StatusCode.UNAVAILABLE, text)
        if self._running >= AT_ONCE:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{AT_ONCE} commands are under way; try again")
        if len(request.nodes) > MAX_NODES:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"more than {MAX_NODES} nodes are named; name none for all")
        nodes = list(dict.fromkeys(request.nodes)) or everybody(desk.registry, desk.nodes)
        _log.info(
            "%s gives the command %s to %d nodes",
            printable(user.username, 200), request.command.WhichOneof("command"), len(nodes),
        )  # fmt: skip
        return desk, nodes


async def _ask_all(
    desk: Desk, nodes: Sequence[str], request: pb.RunOnNodesRequest
) -> AsyncIterator[pb.RunOnNodesResponse]:
    """One answer for each node, as they come."""
    seconds = float(min(request.seconds or USUAL_SECONDS, LONGEST_SECONDS))
    answers: asyncio.Queue[tuple[str, Answer]] = asyncio.Queue()

    async def ask(node: str) -> None:
        answers.put_nowait((node, await _ask(desk, node, request.command, seconds)))

    tasks = [asyncio.create_task(ask(node)) for node in nodes]
    left = len(tasks)
    try:
        while left:
            node, answer = await answers.get()
            left -= 1
            desk.relay.passed_on(answer)
            if isinstance(answer, pb.RunResponse):
                yield pb.RunOnNodesResponse(node=node, response=answer)
            else:
                yield pb.RunOnNodesResponse(node=node, failure=answer)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(asyncio.QueueEmpty):
            while True:
                desk.relay.passed_on(answers.get_nowait()[1])


async def _ask(desk: Desk, node: str, request: pb.RunRequest, seconds: float) -> Answer:
    session = desk.registry.session_of(node)
    if session is not None:
        return await desk.relay.ask(session, request, seconds)
    if desk.nodes.get(ObjectKey("", node)) is None:
        return failure(Failure.KIND_UNKNOWN_NODE, f"there is no Node {printable(node, 253)!r} in the cluster")
    if desk.registry.presence(node) is Presence.GONE:
        return failure(Failure.KIND_NOT_CONNECTED, "it has no agent, or one that is gone")
    return failure(Failure.KIND_NOT_CONNECTED, "its agent is not connected at the moment; try again")
