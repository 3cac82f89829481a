"""All workers of one process: added, found, moved and removed by name."""

import asyncio
import contextlib
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from local.workers.adapters import Mount
from local.workers.container import PORTS, Container, EngineName, WorkerSpec
from local.workers.kubelet import Kubelet
from local.workers.switches import Switches
from modelcache.kube.client import KubeClient

_TRIES = 20
"""Addresses to try for one worker, should somebody else on this machine have taken the first."""


class Workers:
    """Use as `async with Workers(...) as workers`. Without `client` there are no Pods, only addresses.

    `mounts` maps paths in the containers to directories of the host, in which `{node}` and `{namespace}` stand for the
    worker's own. At the end everything stops; the Pods are deleted with `delete_pods`, and stay otherwise, as they would
    when a node is lost.
    """

    def __init__(
        self,
        client: KubeClient | None = None,
        *,
        namespace: str = "default",
        base_model: str = "Qwen/Qwen3-0.6B",
        engine: EngineName = "dynamo",
        mounts: Mapping[str, str] | None = None,
        port: int | None = None,
        switches: Switches | None = None,
        annotate_engine: bool = False,
        delete_pods: bool = True,
    ) -> None:
        self._namespace = namespace
        self._base_model = base_model
        self._engine: EngineName = engine
        self._mounts = dict(mounts or {})
        self._port = port if port is not None else PORTS[engine]
        self._switches = switches or Switches()
        self._delete_pods = delete_pods
        self._kubelet = (
            Kubelet(client, namespace, deleted=self._pod_deleted, annotate_engine=annotate_engine) if client else None
        )
        self._following: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._containers: dict[str, Container] = {}
        self._next_ip = _random_ip()

    async def __aenter__(self) -> Self:
        if self._kubelet is not None:
            self._following = asyncio.create_task(self._kubelet.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in list(self._containers.values()):
            if self._delete_pods:
                await self.remove(container.spec.name)
            else:
                await self._stop(container)
        for task in [*self._leaving, *([self._following] if self._following else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def containers(self) -> Sequence[Container]:
        """All workers, in the order in which they were added."""
        return tuple(self._containers.values())

    def find(self, name: str) -> Container | None:
        """The worker of this name."""
        return self._containers.get(name)

    async def add(self, name: str, node: str) -> Container:
        """Start a worker on a node. Raises ValueError when there is one of this name, OSError, KubeError."""
        if name in self._containers:
            raise ValueError(f"there is a worker {name} already")
        container = await self._started(name, node)
        self._containers[name] = container
        if self._kubelet is not None:
            await self._kubelet.register(container)
        return container

    async def remove(self, name: str) -> None:
        """Stop a worker and delete its Pod. Raises KeyError, KubeError."""
        container = self._containers.pop(name)
        if self._kubelet is not None:
            await self._kubelet.unregister(container)
        await container.stop()

    async def _started(self, name: str, node: str) -> Container:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(OSError):
                return await self._start(name, node)
        return await self._start(name, node)

    async def _start(self, name: str, node: str) -> Container:
        ip, self._next_ip = self._next_ip, self._next_ip + 1
        spec = WorkerSpec(
            name=name,
            node=node,
            namespace=self._namespace,
            base_model=self._base_model,
            ip=str(ip),
            port=self._port,
            engine=self._engine,
            mounts=tuple(
                Mount(path, where.format(node=node, namespace=self._namespace)) for path, where in self._mounts.items()
            ),
        )
        container = Container(spec, self._switches, lambda: self._changed(name))
        await container.start()
        return container

    async def _stop(self, container: Container) -> None:
        if self._kubelet is not None:
            await self._kubelet.abandon(container.spec.name)
        await container.stop()

    def _changed(self, name: str) -> None:
        if self._kubelet is not None:
            self._kubelet.changed(name)

    def _pod_deleted(self, name: str) -> None:
        """Somebody else has deleted the Pod: the container ends, and then the Pod is gone."""
        if name in self._containers:
            task = asyncio.create_task(self.remove(name), name=f"end of {name}")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


def _random_ip() -> ipaddress.IPv4Address:
    """The first of some addresses on loopback that nobody else is likely to use."""
    return ipaddress.IPv4Address(f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(255)}.1")
