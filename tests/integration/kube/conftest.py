"""A misbehaving API server and a client of it for each test; a recorder for what an informer reports."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from modelcache.kube.backoff import Backoff
from modelcache.kube.client import KubeClient
from modelcache.kube.informer import Informer
from modelcache.kube.resources import CONFIG_MAPS, ObjectKey
from tests.support.fake_clock import FakeClock
from tests.support.faulty_api import FaultyApi
from tests.support.waiting import PATIENCE


class Metadata(msgspec.Struct, rename="camel"):
    """As much as the tests compare."""

    name: str
    uid: str
    resource_version: str
    namespace: str = ""


class Config(msgspec.Struct):
    """A ConfigMap; its values must be strings, which the misbehaving server does not care about."""

    metadata: Metadata
    data: dict[str, str] | None = None


class Recorder:
    """Everything an informer reports, and a way to wait until it has reported something."""

    def __init__(self, informer: Informer[Config]) -> None:
        self.informer = informer
        self.changes: list[tuple[Config | None, Config | None]] = []
        self.keys: list[ObjectKey] = []
        self._reported = asyncio.Event()
        informer.on_change(self._on_change)
        informer.on_key(self._on_key)

    def _on_change(self, old: Config | None, new: Config | None) -> None:
        self.changes.append((old, new))

    def _on_key(self, key: ObjectKey) -> None:
        self.keys.append(key)
        self._reported.set()

    def names(self) -> set[str]:
        """Names in the informer's copy."""
        return {config.metadata.name for config in self.informer.values()}

    def data(self) -> dict[str, dict[str, str]]:
        """The informer's copy, by name."""
        return {config.metadata.name: config.data or {} for config in self.informer.values()}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` is true; it is looked at after each reported change."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._reported.clear()
                await self._reported.wait()


@pytest.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[FaultyApi]:
    async with FaultyApi(tmp_path) as faulty:
        yield faulty


@pytest.fixture
async def client(faulty: FaultyApi) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(faulty.kubeconfig) as client:
        yield client


Follow = Callable[..., Any]


@pytest.fixture
def follow(client: KubeClient) -> Follow:
    """`async with follow(...) as recorder`: a running informer of ConfigMaps whose waits are short."""

    @asynccontextmanager
    async def follow(using: KubeClient = client, **options: Any) -> AsyncIterator[Recorder]:
        rng = Random(7)
        settings: dict[str, Any] = {"rng": rng, "backoff": Backoff(rng, base=0.01, cap=0.05), **options}
        informer = Informer(using, CONFIG_MAPS, Config, **settings)
        recorder = Recorder(informer)
        task = asyncio.create_task(informer.run())
        try:
            yield recorder
            assert not task.done(), "an informer never ends by itself"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return follow


Synced = Callable[[Recorder], Awaitable[None]]


@pytest.fixture
def synced() -> Synced:
    """Wait, with a limit, until the informer has its first complete list."""

    async def wait(recorder: Recorder) -> None:
        async with asyncio.timeout(PATIENCE):
            await recorder.informer.wait_synced()

    return wait


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
