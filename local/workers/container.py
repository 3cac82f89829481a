"""One worker: an address on loopback, behind which an engine is started, restarted and stopped.

Every worker has an IP address of its own in 127.0.0.0/8, all of which Linux answers on loopback without any setup. So workers
listen where real ones do (9090 for Dynamo) and there can be any number of them on one machine.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aiohttp import web

from local.workers import dynamo, sglang, vllm
from local.workers.adapters import Mount
from local.workers.engine import Engine
from local.workers.switches import Switches

EngineName = Literal["dynamo", "vllm", "sglang"]
APPLICATIONS: dict[str, Callable[[Engine], web.Application]] = {
    "dynamo": dynamo.application,
    "vllm": vllm.application,
    "sglang": sglang.application,
}
PORTS: dict[str, int] = {"dynamo": dynamo.PORT, "vllm": vllm.PORT, "sglang": sglang.PORT}

_SHUTDOWN_SECONDS = 0.1
"""For requests that are under way when a worker ends; a container that is killed gives them none."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is, for as long as its pod exists."""

    name: str
    node: str
    namespace: str
    base_model: str
    ip: str
    port: int
    engine: EngineName = "dynamo"
    mounts: Sequence[Mount] = ()


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What the kubelet would see. Times in Unix seconds."""

    running: bool
    ready: bool
    container_id: str
    restarts: int
    started_at: float
    ready_since: float | None


class Container:
    """The container of one worker. `changed` is called whenever `state` differs."""

    def __init__(self, spec: WorkerSpec, switches: Switches, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.engine = Engine(spec.base_model, spec.mounts, switches)
        self._changed = changed
        self._runner: web.AppRunner | None = None
        self._boot: asyncio.Task[None] | None = None
        self._container_id = ""
        self._restarts = 0
        self._started_at = 0.0
        self._ready_since: float | None = None
        self._running = False

    @property
    def state(self) -> ContainerState:
        """How it is at this moment."""
        return ContainerState(
            running=self._running,
            ready=self._ready,
            container_id=self._container_id,
            restarts=self._restarts,
            started_at=self._started_at,
            ready_since=self._ready_since if self._ready else None,
        )

    @property
    def _ready(self) -> bool:
        return self._running and (self.engine.up or self.engine.switches.ready_early)

    async def start(self) -> None:
        """Start the container; the engine gets ready by itself. Raises OSError when the address is taken."""
        self._container_id = f"local://{secrets.token_hex(16)}"
        self._started_at, self._running = time.time(), True
        if self.spec.engine == "dynamo":
            await self._listen()
        self._look()
        self._boot = asyncio.create_task(self._boot_engine())

    async def stop(self) -> None:
        """End the container; what is under way is cut off."""
        self._running = False
        self.engine.end()
        if self._boot is not None:
            self._boot.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._boot
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._look()

    async def restart(self) -> None:
        """What the kubelet does when a container has died: another one, which has forgotten everything."""
        await self.stop()
        old = self.engine
        self.engine = Engine(self.spec.base_model, self.spec.mounts, old.switches, old.counts)
        self._restarts += 1
        await self.start()

    def switch(self, switches: Switches) -> None:
        """Behave like this from now on."""
        self.engine.switch(switches)
        self._look()

    def describe(self) -> dict[str, Any]:
        """State for the control API."""
        return {
            "name": self.spec.name,
            "node": self.spec.node,
            "address": f"http://{self.spec.ip}:{self.spec.port}",
            "engine": self.spec.engine,
            "container": asdict(self.state),
            **self.engine.describe(),
        }

    async def _boot_engine(self) -> None:
        await self.engine.start()
        if self._runner is None:
            await self._listen()
        self._look()

    async def _listen(self) -> None:
        # Handlers that hang end with their connection, so that a worker can always be stopped.
        runner = web.AppRunner(
            APPLICATIONS[self.spec.engine](self.engine),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.spec.ip, self.spec.port, reuse_address=True).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    def _look(self) -> None:
        if not self._ready:
            self._ready_since = None
        elif self._ready_since is None:
            self._ready_since = time.time()
        self._changed()
