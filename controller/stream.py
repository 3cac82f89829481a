"""The gRPC service that agents talk to: streams in, desired states out.

One task per stream waits until something may have changed for its node, lets a moment pass so that many changes become one
message, computes the complete desired state, and sends it if it differs from the last one. Reports are read beside it.

Nothing is sent before the controller knows: while it is not the leader or has not read the cluster's state, agents get
UNAVAILABLE and keep what they have; and the first desired state of a stream waits until every model has been looked at
since the stream began (or for FIRST_WAIT, because one model that cannot be looked at must not stop all others; those
models are then listed as "keep").

Who the agent is, its certificate says; TLS has checked that. A Hello that names another node is refused. Without
certificates (`--insecure`, loopback only) the Hello is believed. A stream ends with the certificate it was opened with: an
agent that is given no new one, because its pod or its node is gone, has had its say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Never

import grpc
from grpc import aio

from controller import uses
from controller.claims import NodePods
from controller.desired import to_message, verdict, without_peers
from controller.nodes import Node
from controller.questions import NO_ANSWER, Answer, Questions
from controller.registry import Registry, Session
from controller.relay import Relay
from controller.resolver import Outcome, outcome_of
from controller.swarms import Swarms, peers_interval
from controller.tracked import Memory, Order, Tracked
from controller.workers import to_messages, workers_among
from modelcache.api.model import DynamoModel
from modelcache.kube.clock import Clock, Timer
from modelcache.kube.informer import Informer
from modelcache.kube.resources import ObjectKey
from modelcache.pacing import pause_after
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceServicer
from modelcache.sources.answer import LARGEST as LARGEST_LISTING
from modelcache.tls.certificates import CertificateError, Presented, presented
from modelcache.tls.identity import is_node_name

_log = logging.getLogger(__name__)

COALESCE = 0.05
"""Seconds between the first reason to send and sending: changes come in bursts."""
FIRST_WAIT = 5.0
"""Longest wait, in seconds, until the first desired state of a stream."""
HELLO_WAIT = 30.0
REFUSAL_DELAY = 0.2
CHUNK_BYTES = 1024 * 1024
EXPIRED = "the certificate has expired"
NOT_SERVING = "this controller is not the leader, or is still reading the cluster's state"

_INVALID = grpc.StatusCode.INVALID_ARGUMENT

_Pods = tuple[list[pb.WorkerPod] | None, list[pb.PodUse] | None, Answer]

Context = aio.ServicerContext[pb.SyncRequest, pb.SyncResponse]


@dataclass(eq=False)
class Desk:
    """What serving agents needs while this process leads. `term` tells the nonces of different terms apart."""

    registry: Registry
    memory: Memory
    models: Informer[DynamoModel]
    nodes: Informer[Node]
    pods: NodePods
    questions: Questions
    relay: Relay
    clock: Clock
    term: str
    heartbeat: float
    listed: Callable[[Tracked, str, str, Outcome], bool]
    """`Resolution.listed`, after which the model is looked at."""

    def __post_init__(self) -> None:
        self.swarms = Swarms(self.registry, self.memory)

    def orders(self, session: Session) -> dict[ObjectKey, Order]:
        """What the agent of this stream is told about each model."""
        orders = {}
        for key in self.models.keys():  # noqa: SIM118 -- no mapping: the keys of unreadable objects are among them
            model = None if key in self.models.invalid else self.models.get(key)
            order = verdict(model, self.memory.get(key), session.node, session.arrival)
            if order is not None:
                orders[key] = order
        return orders

    def message(self, session: Session) -> list[pb.DesiredModel]:
        """The desired state of this stream, peers included."""
        return to_message(
            self.orders(session).items(),
            lambda key, order: self.swarms.company(key, order.digest, session),
            session.node,
        )

    def workers_on(self, session: Session) -> list[pb.WorkerPod] | None:
        """The worker pods on the node of this stream, None while pods have not been read."""
        return to_messages(workers_among(self.pods.on(session.node))) if self.pods.known else None

    def uses_on(self, session: Session) -> list[pb.PodUse] | None:
        """What pods on the node of this stream use, None while pods have not been read."""
        return uses.to_messages(self.questions.pods_of(session), session.cache_root) if self.pods.known else None

    def is_settled(self, session: Session) -> bool:
        """Whether every model has been looked at since the stream began."""
        for model in self.models.values():
            key = ObjectKey(model.metadata.namespace, model.metadata.name)
            tracked = self.memory.get(key)
            if (tracked is None or tracked.looked < session.arrival) and key not in self.models.invalid:
                return False
        return True


class AgentService(ModelCacheServiceServicer):
    """Serves agents while there is a `desk`."""

    def __init__(self, *, certified: bool, wall: Callable[[], float]) -> None:
        """`certified`: connections have certificates, and nothing else counts. `wall` tells the time since the epoch."""
        self.desk: Desk | None = None
        self._certified = certified
        self._wall = wall
        self.on_refused: Callable[[str], None] = lambda code: None
        """Told when an agent is turned away for good."""
        self.on_call: Callable[[str], None] = lambda peer: None
        """Told the address behind each call, as the first thing."""

    # The generated base class describes the synchronous and the asyncio server in one signature that neither fits.
    async def Sync(
        self, request_iterator: AsyncIterator[pb.SyncRequest], context: Context
    ) -> AsyncIterator[pb.SyncResponse]:
        """One agent's stream, until either side ends it."""
        self.on_call(context.peer())
        desk = self.desk
        if desk is None:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE, NOT_SERVING)
        caller = await self._caller(context)
        session = await self._register(desk, request_iterator, context, caller)
        expiry = self._end_with(caller, session, desk.clock) if caller else None
        reader = asyncio.create_task(self._read(desk, session, request_iterator), name=f"reports of {session.node}")
        try:
            async for response in self._responses(desk, session):
                yield response
            reader.cancel()
            assert session.ending is not None
            if session.ending.code is not grpc.StatusCode.OK:
                await context.abort(session.ending.code, session.ending.message)
        finally:
            reader.cancel()
            if expiry is not None:
                expiry.cancel()
            desk.registry.disconnect(session)
            desk.questions.leave(session)

    async def GetManifest(
        self,
        request: pb.GetManifestRequest,
        context: aio.ServicerContext[pb.GetManifestRequest, pb.GetManifestResponse],
    ) -> AsyncIterator[pb.GetManifestResponse]:
        """The manifest that the node behind this connection should hold, in chunks."""
        self.on_call(context.peer())
        desk = self.desk
        if desk is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, NOT_SERVING)
        node = await self._node(desk, context)
        key = ObjectKey(request.model.namespace, request.model.name)
        tracked = desk.memory.get(key)
        pinned = tracked.announced if tracked and node in (tracked.assigned or ()) else None
        if pinned is None or pinned.digest != request.digest:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"node {node} should not hold manifest {request.digest[:64]!r} of {str(key)[:320]!r}",
            )
        for start in range(0, len(pinned.encoded), CHUNK_BYTES):
            yield pb.GetManifestResponse(chunk=pinned.encoded[start : start + CHUNK_BYTES])

    async def TellListing(
        self,
        request_iterator: AsyncIterator[pb.TellListingRequest],
        context: aio.ServicerContext[pb.TellListingRequest, pb.TellListingResponse],
    ) -> pb.TellListingResponse:
        """What the node behind this connection has found in a source that only nodes can see."""
        self.on_call(context.peer())
        desk = self.desk
        if desk is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, NOT_SERVING)
        node = await self._node(desk, context)
        key, id, data = ObjectKey("", ""), "", bytearray()
        async for request in request_iterator:
            if not data:
                key, id = ObjectKey(request.model.namespace, request.model.name), request.id
            data += request.chunk
            if len(data) > LARGEST_LISTING:
                await context.abort(_INVALID, f"a listing has more than {LARGEST_LISTING} bytes")
        tracked = desk.memory.get(key)
        job = tracked.survey.job if tracked is not None else None
        outcome = await asyncio.to_thread(outcome_of, job.request, bytes(data)) if job is not None else None
        if tracked is None or outcome is None or not desk.listed(tracked, node, id, outcome):
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"node {node} is not asked what {str(key)[:320]!r} is made of"
            )
        return pb.TellListingResponse()

    async def _node(self, desk: Desk, context: aio.ServicerContext[Any, Any]) -> str:
        """The node of the agent that makes this call. Ends the call when there is none."""
        caller = await self._caller(context)
        # Without certificates, the connection is what tells who asks: it is the one of the agent's Sync stream.
        session = None if caller else desk.registry.session_at(context.peer())
        node = caller.identity.node if caller else session.node if session else None
        if node is None:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "open a Sync stream on this connection before any other call"
            )
        return node

    async def _caller(self, context: aio.ServicerContext[Any, Any]) -> Presented | None:
        """What the certificate of this connection says; None without certificates. Ends the call when that is no agent."""
        if not self._certified:
            return None
        # What the handshake has verified, in PEM; the name is TSI_X509_PEM_CERT_PROPERTY of gRPC's core.
        certificates = list(context.auth_context().get("x509_pem_cert", ()))
        try:
            caller = presented(certificates[0]) if certificates else None
        except CertificateError:
            caller = None
        if caller is None or caller.identity.node is None:
            await _refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the certificate is not that of an agent")
        if self._wall() >= caller.not_after.timestamp():
            await _refuse(context, grpc.StatusCode.UNAUTHENTICATED, EXPIRED)
        return caller

    def _end_with(self, caller: Presented, session: Session, clock: Clock) -> Timer:
        """Ends the stream with the certificate. An agent renews long before, and begins a new stream with the new one."""
        seconds = max(caller.not_after.timestamp() - self._wall(), 0.0)
        return clock.call_later(seconds, lambda: session.end(grpc.StatusCode.UNAUTHENTICATED, EXPIRED))

    async def _register(
        self, desk: Desk, requests: AsyncIterator[pb.SyncRequest], context: Context, caller: Presented | None
    ) -> Session:
        try:
            async with asyncio.timeout(HELLO_WAIT):
                first = await anext(aiter(requests), None)
        except TimeoutError:
            await self._turn_away(context, _INVALID, f"no Hello within {HELLO_WAIT:.0f} s")
        if first is None or first.WhichOneof("message") != "hello":
            await self._turn_away(context, _INVALID, "the first message of a stream has to be a Hello")
        hello = first.hello
        if not is_node_name(hello.node):
            await self._turn_away(context, _INVALID, f"{hello.node[:80]!r} cannot be the name of a Node")
        if caller and caller.identity.node != hello.node:
            _log.warning("the agent of node %s claims to be on node %s: refused", caller.identity.node, hello.node)
            text = f"the certificate is for node {caller.identity.node}, but the Hello names {hello.node}; check --node"
            await self._turn_away(context, grpc.StatusCode.PERMISSION_DENIED, text)
        if not hello.instance:
            await self._turn_away(context, _INVALID, "the Hello has no instance")
        if desk.nodes.get(ObjectKey("", hello.node)) is None:
            _log.warning("an agent at %s claims to be on node %s, which does not exist", context.peer(), hello.node)
            text = f"there is no Node {hello.node} in the cluster; check the agent's --node"
            await self._turn_away(context, grpc.StatusCode.NOT_FOUND, text)
        if self.desk is not desk:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE, NOT_SERVING)
        return desk.registry.connect(hello, context.peer())

    async def _turn_away(self, context: Context, code: grpc.StatusCode, message: str) -> Never:
        """`_refuse` somebody who would be refused by every controller."""
        self.on_refused(code.name)
        await _refuse(context, code, message)

    async def _read(self, desk: Desk, session: Session, requests: AsyncIterator[pb.SyncRequest]) -> None:
        """Reports, until the agent closes its side or the connection breaks."""
        try:
            async for request in requests:
                message = request.WhichOneof("message")
                if message == "report":
                    number = _number(request.report.nonce, desk.term, session.arrival)
                    desk.registry.take_report(session, request.report, number)
                    desk.questions.take(session, request.report.uses_question)
                elif message == "answer":
                    desk.relay.take(session, request.answer)
        except Exception:  # noqa: BLE001 -- logged, and the stream is ended
            # A bug on this side must be seen, and must not leave a stream that nobody reads.
            _log.exception("reading the reports of node %s failed", session.node)
            session.end(grpc.StatusCode.INTERNAL, "the controller could not read a report; see its log")
        finally:
            session.end(grpc.StatusCode.OK, "the agent has closed the stream")

    async def _responses(self, desk: Desk, session: Session) -> AsyncIterator[pb.SyncResponse]:
        """Desired states, each when it differs from the one before, and commands, until the stream is to end."""
        last: list[pb.DesiredModel] | None = None
        last_pods: _Pods = (None, None, NO_ANSWER)
        deadline = desk.clock.now() + FIRST_WAIT
        told_peers_at, interval = float("-inf"), 0.0
        patience = desk.clock.call_later(FIRST_WAIT, session.wake.set)
        later: Timer | None = None
        pause = COALESCE

        def peers_changed() -> None:
            nonlocal later
            if later is None:
                later = desk.clock.call_later(max(0.0, told_peers_at + interval - desk.clock.now()), wake_for_peers)

        def wake_for_peers() -> None:
            nonlocal later
            later = None
            session.wake.set()

        session.on_peers = peers_changed
        session.wake.set()
        try:
            while True:
                await session.wake.wait()
                if session.ending is None:
                    await desk.clock.sleep(pause)
                session.wake.clear()
                if session.ending is not None:
                    return
                if last is None and not desk.is_settled(session) and desk.clock.now() < deadline:
                    continue
                for command in desk.relay.due(session):
                    yield pb.SyncResponse(command=command)
                began = desk.clock.now()
                models = desk.message(session)
                pods = (desk.workers_on(session), desk.uses_on(session), desk.questions.answer(session))
                pause = pause_after(desk.clock.now() - began, least=COALESCE)
                if models == last and pods == last_pods:
                    continue
                early = desk.clock.now() < told_peers_at + interval
                if early and last is not None and pods == last_pods and without_peers(models) == without_peers(last):
                    peers_changed()
                    continue
                last, last_pods, told_peers_at = models, pods, desk.clock.now()
                interval = peers_interval(sum(len(model.peers) for model in models))
                number = session.sending(ObjectKey(model.model.namespace, model.model.name) for model in models)
                if session.unconfirmed_since is None:
                    session.unconfirmed_since = desk.clock.now()
                _log.debug("node %s: desired state %d with %d models", session.node, number, len(models))
                desired = pb.DesiredState(
                    nonce=_nonce(desk.term, session.arrival, number),
                    models=models,
                    heartbeat_seconds=round(desk.heartbeat),
                    workers=pods[0],
                    workers_known=pods[0] is not None,
                    uses=pods[1],
                    uses_known=pods[1] is not None,
                    uses_answers=True,
                    uses_answer=pods[2].number,
                    uses_problem=pods[2].problem,
                )
                yield pb.SyncResponse(desired=desired)
        finally:
            patience.cancel()
            session.on_peers = lambda: None
            if later is not None:
                later.cancel()


async def _refuse(context: aio.ServicerContext[Any, Any], code: grpc.StatusCode, message: str) -> Never:
    """End a stream at its beginning.

    Not at once: agents write a Hello and a report in one go, and a grpc.aio client whose write fails because the stream has
    ended says "Internal error from Core" instead of what it was told (grpcio 1.85).
    """
    await asyncio.sleep(REFUSAL_DELAY)
    await context.abort(code, message)


def _nonce(term: str, arrival: int, number: int) -> str:
    return f"{term}.{arrival}.{number}"


def _number(nonce: str, term: str, arrival: int) -> int:
    """Which desired state of this very stream a nonce stands for; 0 for that of another one, or none."""
    prefix, _, number = nonce.rpartition(".")
    return int(number) if prefix == f"{term}.{arrival}" and number.isdecimal() and len(number) < 18 else 0
