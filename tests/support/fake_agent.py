"""An agent without a disk: speaks the real protocol over a real connection, and does what the test tells it.

By default it obeys: it claims to have every manifest that it is told to hold, with made-up digests where the manifest has
none, to have loaded every adapter into the pods that are ready, and drops what it is not told to hold. A test can make it
cling to what it has, fail, or report by hand.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from agent.channel import open_channel
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.address import parse_address
from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceStub
from modelcache.tls.credentials import Credentials
from tests.support.waiting import PATIENCE

_LOST = (grpc.StatusCode.INTERNAL, "Internal error from Core")
"""What grpc.aio (1.85, `_StreamRequestMixin._write`) puts in the place of the status of a stream that was refused while a
message was being written, which agents do at once. Why a stream was refused is then only known from the next one."""
Behaviour = Callable[[pb.ModelReport, Manifest], None]
"""Changes the report about a manifest that the agent would make by itself."""


def digest_of(path: str) -> str:
    """The sha256 that fake agents find for a file that has none in its manifest."""
    return hashlib.sha256(path.encode()).hexdigest()


def key_of(model: pb.ModelKey) -> ObjectKey:
    """The name of a model on the wire."""
    return ObjectKey(model.namespace, model.name)


class FakeAgent:
    """One agent; `start` and `stop` as often as needed, what it holds stays."""

    def __init__(self, address: str, node: str, *, instance: str = "1", credentials: Credentials | None = None) -> None:
        self.address = address
        self.credentials = credentials
        self.node = node
        self.instance = instance
        self.obeys = True
        self.clings = False
        """Whether it goes on reporting models that it should remove."""
        self.behaviour: Behaviour = lambda report, manifest: None
        self.held: dict[ObjectKey, pb.ModelReport] = {}
        self.unloads: list[pb.AdapterUnload] = []
        self.manifests: dict[str, Manifest] = {}
        self.states: list[pb.DesiredState] = []
        self.ending: tuple[grpc.StatusCode, str] | None = None
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._channel: aio.Channel | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, say hello, report what is held."""
        self.states, self.ending = [], None
        secured = self.credentials.channel_credentials() if self.credentials else None
        self._channel = open_channel(parse_address(self.address), secured)
        self._stub = ModelCacheServiceStub(self._channel)
        self._call = self._stub.Sync()
        hello = pb.Hello(node=self.node, instance=self.instance, version="fake", cache_root="/nowhere")
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            # A refused stream shows in `ending`.
            await self._call.write(pb.SyncRequest(hello=hello))
            await self.report()
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Drop the connection."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def restart(self, instance: str = "") -> None:
        """Connect anew, as another process if `instance` is given."""
        await self.stop()
        self.instance = instance or self.instance
        await self.start()

    @property
    def desired(self) -> dict[ObjectKey, pb.DesiredModel]:
        """The models of the last desired state."""
        return {key_of(model.model): model for model in self.states[-1].models} if self.states else {}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` is true after something has arrived."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def is_served(self) -> bool:
        """Whether the stream brings a desired state, or is ended."""
        await self.until(lambda: bool(self.states) or self.ending is not None)
        while self.ending == _LOST and not self.states:
            await self.restart()
            await self.until(lambda: bool(self.states) or self.ending is not None)
        return self.ending is None

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the controller to end the stream; code and details."""
        if await self.is_served():
            await self.until(lambda: self.ending is not None)
        assert self.ending is not None
        return self.ending

    async def report(self) -> None:
        """Send a report of what is held."""
        nonce = self.states[-1].nonce if self.states else ""
        report = pb.Report(nonce=nonce, models=self.held.values(), unloads=self.unloads)
        async with self._writing:  # a stream takes one write at a time
            await self._call.write(pb.SyncRequest(report=report))

    async def manifest(self, key: ObjectKey, digest: str) -> Manifest:
        """Fetch a manifest. Raises AioRpcError."""
        data = bytearray()
        request = pb.GetManifestRequest(model=pb.ModelKey(namespace=key.namespace, name=key.name), digest=digest)
        async for response in self._stub.GetManifest(request, timeout=PATIENCE):
            assert len(response.chunk) <= 1024 * 1024
            data += response.chunk
        manifest = Manifest.decode(bytes(data))
        assert manifest.digest == digest
        return manifest

    async def _read(self) -> None:
        try:
            async for response in self._call:
                self.states.append(response.desired)
                self._changed.set()
                if self.obeys:
                    await self._obey(response.desired)
            self.ending = (await self._call.code(), await self._call.details() or "")
        except aio.AioRpcError as error:
            self.ending = (error.code(), error.details() or "")
        except asyncio.InvalidStateError:  # the stream ended before a report was sent
            self.ending = (await self._call.code(), await self._call.details() or "")
        self._changed.set()

    async def _obey(self, desired: pb.DesiredState) -> None:
        wanted = {key_of(model.model): model for model in desired.models}
        for key in list(self.held):
            if key not in wanted:
                if self.clings:
                    self.held[key].phase = pb.PHASE_REMOVING
                else:
                    del self.held[key]
        for key, model in wanted.items():
            if model.manifest_digest:
                await self._take(key, model, [worker for worker in desired.workers if worker.ready])
        await self.report()

    async def _take(self, key: ObjectKey, model: pb.DesiredModel, workers: list[pb.WorkerPod]) -> None:
        digest = model.manifest_digest
        if digest not in self.manifests:
            try:
                self.manifests[digest] = await self.manifest(key, digest)
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return  # another desired state is on its way
                raise
        manifest = self.manifests[digest]
        before = self.held.get(key)
        report = pb.ModelReport(
            model=model.model,
            manifest_digest=digest,
            phase=pb.PHASE_READY if manifest.complete else pb.PHASE_VERIFIED,
            bytes_done=manifest.size,
            bytes_total=manifest.size,
            current_revision=manifest.revision if manifest.complete else (before.current_revision if before else ""),
            started_at=Timestamp(seconds=1_700_000_000),
            digests=[pb.FileDigest(path=f.path, sha256=digest_of(f.path)) for f in manifest.files if not f.sha256],
        )
        if model.HasField("adapter") and manifest.complete:
            pods = [worker for worker in workers if worker.uid in model.adapter.pod_uids]
            report.adapter.CopyFrom(pb.AdapterReport(pods=[_loaded(pod, digest) for pod in pods]))
        self.behaviour(report, manifest)
        self.held[key] = report


def _loaded(pod: pb.WorkerPod, digest: str) -> pb.AdapterInPod:
    return pb.AdapterInPod(
        pod_uid=pod.uid,
        state=pb.ADAPTER_STATE_LOADED,
        manifest_digest=digest,
        container_start=pod.container_start,
        engine="dynamo",
        uri="file:///models/adapter",
    )
