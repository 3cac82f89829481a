"""A controller in this process, against an API server of its own, with a hub and agents that do as they are told.

The API server is not the one of the other tests: this controller takes care of every DynamoModel that it sees.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from controller.main import run
from controller.registry import Registry, Session
from controller.settings import Settings
from local.hub.repository import Repository
from local.hub.server import HubServer
from local.ports import free_port
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.address import Address
from tests.support.api import Api
from tests.support.cluster import Model
from tests.support.fake_agent import FakeAgent
from tests.support.hub import hubs
from tests.support.kube import KubeServer, start_kube
from tests.support.shifted_clock import ShiftedClock
from tests.support.waiting import PATIENCE, wait_until_async

HEALTH_WATCH, SERVING = "/grpc.health.v1.Health/Watch", b"\x08\x01"
_NAME = b"modelcache.v1.ModelCacheService"
AGENTS_SERVED = b"\x0a" + bytes([len(_NAME)]) + _NAME
"""The question of the health protocol (field 1: the name of the service) that is about serving agents."""
CRD = Path(__file__).parents[3] / "manifests" / "crd" / "dynamomodels.nvidia.com.yaml"
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "nested/tokenizer.json": b"[]"}


@pytest.fixture(scope="session")
def own_kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    server = start_kube(tmp_path_factory.mktemp("controller-kube"))
    try:
        api = Api(server.kubeconfig)
        crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dynamomodels.nvidia.com"
        api.apply(crd, CRD.read_text(), "tests", force=True).expect(200, 201)
        api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leases"}})
        yield server
    finally:
        server.close()


TIMEOUT = 4000.0
"""Agent timeout in these tests, of the clock that tests move: so long that real time does not matter beside it."""
BRIEFLY, FOR_GOOD = 3000.0, 1100.0
"""A silence that is shorter than the timeout, and one that makes it longer."""


class World:
    """One test's part of the cluster: a namespace, nodes, models, agents, controllers."""

    def __init__(self, kube: KubeServer, hub: HubServer) -> None:
        self.kube = kube
        self.api = Api(kube.kubeconfig)
        self.hub = hub
        self.clock = ShiftedClock()
        self.namespace = f"test-{secrets.token_hex(4)}"
        self.address = f"127.0.0.1:{free_port()}"
        self.enrolment = f"127.0.0.1:{free_port()}"
        self.nodes: list[str] = []
        self.agents: list[FakeAgent] = []
        self.heard: Counter[str] = Counter()
        self._hearing = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self.api.post("/api/v1/namespaces", body).expect(201)

    # -- the controller ------------------------------------------------------------------------------------------

    def settings(self, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "listen": self.address,
            "insecure": True,
            "leader_elect": False,
            "kubeconfig": self.kube.kubeconfig,
            "agent_timeout": TIMEOUT,
        }
        return Settings(**{**values, **changes})

    async def start(self, **changes: Any) -> None:
        """Start the controller, on the same address each time; returns when it serves."""
        listening: asyncio.Future[tuple[Address, Address]] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        running = run(
            self.settings(**changes),
            self._stop,
            on_listening=lambda *addresses: listening.set_result(addresses),
            clock=self.clock,
        )
        self._running = asyncio.create_task(running)
        # What ends it before it listens is raised here, instead of being waited for.
        waited: set[asyncio.Future[Any]] = {self._running, listening}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            self._running.result()
        # With TLS it answers probes elsewhere.
        async with aio.insecure_channel(changes.get("health_listen") or self.address) as channel:
            watch: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(HEALTH_WATCH)
            async for status in watch(AGENTS_SERVED):
                if status == SERVING:
                    return

    async def stop(self) -> None:
        """End the controller as a SIGTERM does."""
        if self._running is not None:
            self._stop.set()
            running, self._running = self._running, None
            await running

    # -- nodes and agents ----------------------------------------------------------------------------------------

    def node(self, **labels: str) -> str:
        """Register a Node; its name."""
        name = f"{self.namespace}-{len(self.nodes)}"
        metadata = {"name": name, "labels": {"test": self.namespace, **labels}}
        self.api.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata}).expect(201)
        self.nodes.append(name)
        return name

    async def agent(self, node: str = "", *, behave: Callable[[FakeAgent], None] = lambda agent: None) -> FakeAgent:
        """Connect an agent, on a new node unless one is named."""
        agent = FakeAgent(self.address, node or self.node())
        behave(agent)
        self.agents.append(agent)
        await agent.start()
        # The controller may not have seen a Node yet that was made a moment ago; agents then try again.
        while not await agent.is_served() and agent.node in self.nodes:
            await agent.restart()
        return agent

    def took_report(self, session: Session) -> None:
        """The controller has read a report."""
        self.heard[session.node] += 1
        self._hearing.set()

    async def hears(self, agent: FakeAgent) -> None:
        """Let an agent report, and wait until the controller has read it."""
        before = self.heard[agent.node]
        await agent.report()
        async with asyncio.timeout(PATIENCE):
            while self.heard[agent.node] == before:
                self._hearing.clear()
                await self._hearing.wait()

    def labels(self, node: str) -> dict[str, str]:
        """All labels of a Node."""
        found: dict[str, str] = self.api.get(f"/api/v1/nodes/{node}").expect(200)["metadata"]["labels"]
        return found

    def set_labels(self, node: str, labels: dict[str, str | None]) -> None:
        """Change labels of a Node, as an agent does."""
        self.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}}).expect(200)

    # -- models --------------------------------------------------------------------------------------------------

    def model(self, name: str = "m", uri: str = "hf://org/name", **spec: Any) -> Model:
        """Create a DynamoModel."""
        model = Model(self.api, self.namespace, name)
        model.create(uri, **spec)
        return model

    def key(self, model: Model) -> ObjectKey:
        """Its name on the wire."""
        return ObjectKey(model.namespace, model.name)

    async def condition(
        self, model: Model, kind: str, status: str, reason: str | None = None, *, generation: bool = True
    ) -> dict[str, Any]:
        """Wait for a condition, of the present generation unless told otherwise; returns it."""

        async def reached() -> dict[str, Any] | None:
            found = model.api.get(model.path).expect(200)
            for entry in found.get("status", {}).get("conditions", []):
                about = not generation or entry.get("observedGeneration") == found["metadata"]["generation"]
                if entry["type"] == kind and entry["status"] == status and about:
                    return entry if reason in (None, entry["reason"]) else None
            return None

        try:
            return await wait_until_async(reached, what=f"{kind} of {model.name} is {status} ({reason})")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{json.dumps(model.status(), indent=2)}") from None

    async def ready(self, model: Model) -> dict[str, Any]:
        """Wait until it is Ready; its status."""
        await self.condition(model, "Ready", "True")
        return model.status()

    def asked(self) -> int:
        """How many requests the hub has had."""
        return int(self.hub.hub.stats.describe()["requests"]["total"])

    async def gone(self, model: Model) -> None:
        """Wait until the API server has forgotten it."""
        await wait_until_async(lambda: _as_coroutine(model.gone()), what=f"{model.name} is gone")

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something that is seen at the API server."""
        return await wait_until_async(lambda: _as_coroutine(condition()), what=what)

    def config_maps(self) -> list[dict[str, Any]]:
        """All ConfigMaps of the namespace."""
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps").expect(200)["items"]
        return [item for item in found if item["metadata"]["name"] != "kube-root-ca.crt"]

    async def close(self) -> None:
        for agent in self.agents:
            await agent.stop()
        await self.stop()
        for item in self.api.get("/apis/nvidia.com/v1alpha1/dynamomodels").expect(200)["items"]:
            path = f"/apis/nvidia.com/v1alpha1/namespaces/{item['metadata']['namespace']}/dynamomodels"
            path += f"/{item['metadata']['name']}"
            self.api.patch(path, {"metadata": {"finalizers": None}})
            self.api.delete(path)
        for node in self.nodes:
            self.api.delete(f"/api/v1/nodes/{node}")
        self.api.delete(f"/api/v1/namespaces/{self.namespace}").expect(200, 202)


async def _as_coroutine(value: Any) -> Any:
    return value


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the repository `org/name`; HF_ENDPOINT points at it."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hubs() as serve:
        server = serve(Repository("org/name", dict(FILES)))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
async def world(own_kube: KubeServer, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A cluster without nodes, its controller running."""
    world = World(own_kube, hub)
    take_report = Registry.take_report

    def taking(registry: Registry, session: Session, report: pb.Report, acknowledged: int) -> None:
        take_report(registry, session, report, acknowledged)
        world.took_report(session)

    monkeypatch.setattr(Registry, "take_report", taking)
    try:
        await world.start()
        yield world
    finally:
        await world.close()
