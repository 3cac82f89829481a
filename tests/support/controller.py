"""A controller that does what the test says: the other end of an agent's stream, on a real gRPC server.

It keeps the contract (state of the world, a nonce for each message, manifests in chunks) and decides nothing. Runs in the
test's own event loop; the agent may be anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from local.ports import free_port
from modelcache.manifest import Manifest
from modelcache.rpc.modelcache_pb2 import (
    Credential,
    DesiredModel,
    DesiredState,
    GetManifestRequest,
    GetManifestResponse,
    Hello,
    ModelKey,
    ModelReport,
    PodUse,
    Report,
    SyncRequest,
    SyncResponse,
    TellListingRequest,
    TellListingResponse,
)
from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceServicer, add_ModelCacheServiceServicer_to_server
from tests.support.waiting import PATIENCE

T = TypeVar("T")

CHUNK_BYTES = 1000
"""Small, so that every manifest comes in several."""


def wish(
    namespace: str,
    name: str,
    manifest: Manifest | str = "",
    *,
    token: str = "",
    hub_ref: str = "",
    tree_digest: str = "",
    attempt: str = "",
) -> DesiredModel:
    """An entry of a desired state; `manifest` may be a digest, empty for "keep what you have"."""
    return DesiredModel(
        model=ModelKey(namespace=namespace, name=name),
        manifest_digest=manifest.digest if isinstance(manifest, Manifest) else manifest,
        credential=Credential(values={"token": token}) if token else None,
        hub_ref=hub_ref,
        tree_digest=tree_digest,
        attempt=attempt,
    )


def model_in(report: Report, namespace: str, name: str) -> ModelReport | None:
    """What a report says about one model."""
    wanted = (namespace, name)
    return next((model for model in report.models if (model.model.namespace, model.model.name) == wanted), None)


class ScriptedController(ModelCacheServiceServicer):
    """Serves agents on loopback. `want` and `send` say what they should hold, `until` waits for what they report.

    `hellos` and `reports` are everything received, in order, over all streams. `refusal` is the status with which new
    streams are refused, None to accept them.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.hellos: list[Hello] = []
        self.reports: list[Report] = []
        self.refusal: grpc.StatusCode | None = None
        self.refused = 0
        self.listings: dict[str, bytes] = {}
        """What agents have told, by the id of the question."""
        self.manifest_gate: asyncio.Event | None = None
        """When there is one, manifests stop after their first chunk until it is set."""
        self.manifests: dict[str, bytes] = {}
        self.manifest_requests: list[GetManifestRequest] = []
        self.manifests_under_way = 0
        self.most_manifests = 0
        """The most of them at any moment."""
        self.desired: DesiredState | None = None
        self._nonces = 0
        self._outboxes: dict[int, asyncio.Queue[SyncResponse]] = {}
        self._endings: dict[int, asyncio.Event] = {}
        self._changed = asyncio.Condition()
        self._server: aio.Server | None = None

    @property
    def address(self) -> str:
        """host:port, the same over a restart."""
        return f"127.0.0.1:{self.port}"

    @property
    def streams(self) -> int:
        """How many agents are connected."""
        return len(self._outboxes)

    async def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        add_ModelCacheServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Break all connections, as a killed controller does."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def know(self, *manifests: Manifest) -> None:
        """Answer requests for these manifests."""
        self.manifests |= {manifest.digest: manifest.encode() for manifest in manifests}

    async def want(self, *models: DesiredModel, heartbeat: int = 1, uses: Sequence[PodUse] = ()) -> str:
        """Make this the desired state, now and for every new stream; its nonce. `uses` are those of the node's pods."""
        self._nonces += 1
        self.desired = DesiredState(
            nonce=f"n{self._nonces}", models=models, heartbeat_seconds=heartbeat, uses=uses, uses_known=True
        )
        await self.send(SyncResponse(desired=self.desired))
        return self.desired.nonce

    async def send(self, response: SyncResponse) -> None:
        """Send any message to all agents."""
        for outbox in self._outboxes.values():
            await outbox.put(response)

    async def until(self, wanted: Callable[[Report], bool], *, after: int = 0, timeout: float = PATIENCE) -> Report:
        """The first report for which `wanted` is true, from number `after` on (`len(self.reports)`: only future ones)."""
        position = after

        def found() -> Report | None:
            nonlocal position
            while position < len(self.reports):
                position += 1
                if wanted(self.reports[position - 1]):
                    return self.reports[position - 1]
            return None

        async with self._changed:
            try:
                return await asyncio.wait_for(self._wait_for(found), timeout)
            except TimeoutError:
                last = self.reports[-1] if self.reports else None
                raise AssertionError(
                    f"no such report in {timeout:g} s; {len(self.reports)} came, the last: {last}"
                ) from None

    async def until_model(
        self, namespace: str, name: str, wanted: Callable[[ModelReport], bool], *, after: int = 0
    ) -> ModelReport:
        """The first report about a model that satisfies `wanted`."""

        def fits(report: Report) -> bool:
            model = model_in(report, namespace, name)
            return model is not None and wanted(model)

        found = model_in(await self.until(fits, after=after), namespace, name)
        assert found is not None
        return found

    async def until_gone(self, namespace: str, name: str, nonce: str) -> Report:
        """The first report that has taken `nonce` over and does not mention the model."""
        return await self.until(lambda report: report.nonce == nonce and model_in(report, namespace, name) is None)

    async def until_connected(self, count: int = 1) -> None:
        """Return when `count` streams have said hello in total."""

        await self.until_true(lambda: len(self.hellos) >= count)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        """Return when the condition is true; looked at whenever anything has arrived."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(condition)

    def end_streams(self) -> None:
        """End every stream properly, as a controller that steps down does."""
        for ending in self._endings.values():
            ending.set()

    async def _wait_for(self, found: Callable[[], T | None]) -> T:
        while (value := found()) is None:
            await self._changed.wait()
        return value

    # The service

    async def Sync(
        self,
        request_iterator: AsyncIterator[SyncRequest],
        context: aio.ServicerContext[SyncRequest, SyncResponse],
    ) -> AsyncIterator[SyncResponse]:
        if self.refusal is not None:
            async with self._changed:
                self.refused += 1
                self._changed.notify_all()
            await context.abort(self.refusal, "refused by the test")
        outbox: asyncio.Queue[SyncResponse] = asyncio.Queue()
        ending = asyncio.Event()
        number = id(outbox)
        reading = asyncio.create_task(self._read(request_iterator))
        until_end = asyncio.create_task(ending.wait())
        try:
            if self.desired is not None:
                outbox.put_nowait(SyncResponse(desired=self.desired))
            self._outboxes[number], self._endings[number] = outbox, ending
            while True:
                getting = asyncio.create_task(outbox.get())
                await asyncio.wait([getting, reading, until_end], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    return
                yield getting.result()
        finally:
            del self._outboxes[number], self._endings[number]
            for task in (reading, until_end):
                task.cancel()
            # How reading ended is told by `yield` as well; here it is only taken notice of.
            await asyncio.gather(reading, until_end, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[SyncRequest]) -> None:
        async for request in requests:
            async with self._changed:
                if request.HasField("hello"):
                    self.hellos.append(request.hello)
                else:
                    self.reports.append(request.report)
                self._changed.notify_all()

    async def GetManifest(
        self,
        request: GetManifestRequest,
        context: aio.ServicerContext[GetManifestRequest, GetManifestResponse],
    ) -> AsyncIterator[GetManifestResponse]:
        async with self._changed:
            self.manifest_requests.append(request)
            self.manifests_under_way += 1
            self.most_manifests = max(self.most_manifests, self.manifests_under_way)
            self._changed.notify_all()
        try:
            data = self.manifests.get(request.digest)
            if data is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, "the test has no such manifest")
            for start in range(0, len(data), CHUNK_BYTES):
                yield GetManifestResponse(chunk=data[start : start + CHUNK_BYTES])
                if self.manifest_gate is not None:
                    await self.manifest_gate.wait()
        finally:
            self.manifests_under_way -= 1

    async def TellListing(
        self,
        request_iterator: AsyncIterator[TellListingRequest],
        context: aio.ServicerContext[TellListingRequest, TellListingResponse],
    ) -> TellListingResponse:
        id, data = "", bytearray()
        async for request in request_iterator:
            id = id or request.id
            data += request.chunk
        async with self._changed:
            self.listings[id] = bytes(data)
            self._changed.notify_all()
        return TellListingResponse()
