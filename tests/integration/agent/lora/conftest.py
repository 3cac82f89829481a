"""Adapters against stand-in engines on loopback: everything between instructions and reports is real."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.lora.adapters import Adapters, Disk
from agent.lora.arrangement import Files
from agent.lora.desired import Instructions, Mount, Pod, WantedAdapter
from agent.lora.record import Record
from local.workers.container import Container, EngineName
from local.workers.switches import Switches
from local.workers.workers import Workers
from modelcache.kube.clock import LoopClock
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from tests.support.waiting import wait_until_async
from tests.support.workers import BASE_MODEL, adapter_files, write_files

LORA = ObjectKey("team", "lora")


class Node:
    """The adapters of a node: what the controller and the disk would say about them, and workers to load them into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "adapters.json"
        self.published: dict[ObjectKey, Files] = {}
        self.leaving: dict[ObjectKey, frozenset[str]] = {}
        self.instructions = Instructions(pods={})
        self.changes = 0
        self._stack: list[Workers] = []
        self._task: asyncio.Task[None] | None = None
        self.adapters = self._make()

    def _make(self) -> Adapters:
        return Adapters(
            "node-0",
            self.record,
            Record.load(self.record),
            disk=Disk(
                files=self._files,
                leaving=lambda key: self.leaving.get(key, frozenset()),
                has=lambda key: key in self.published,
            ),
            needed=lambda key: None,
            changed=self._note,
            clock=LoopClock(),
            unix=time.time,
            rng=Random(1),
        )

    def _files(self, key: ObjectKey, digest: str) -> Files | None:
        files = self.published.get(key)
        return files if files is not None and files.manifest_digest == digest else None

    def _note(self) -> None:
        self.changes += 1

    def start(self) -> None:
        self._task = asyncio.create_task(self.adapters.run())
        self.adapters.take(self.instructions)

    async def restart(self) -> None:
        """The agent ends and another one takes over: only the record stays."""
        await self.stop()
        self.adapters = self._make()
        self.start()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def close(self) -> None:
        await self.stop()
        for workers in self._stack:
            await workers.__aexit__(None, None, None)

    # Workers

    async def worker(
        self, name: str = "worker-0", engine: EngineName = "dynamo", mounted: bool = True, **switches: Any
    ) -> Container:
        mounts = {"/models": str(self.root / "models/team")} if mounted else {}
        made = Switches(**switches)
        workers = await Workers(engine=engine, mounts=mounts, switches=made).__aenter__()
        self._stack.append(workers)
        return await workers.add(name, "node-0")

    def pod(self, container: Container, ready: bool = True) -> Pod:
        spec = container.spec
        mounts = tuple(Mount(mount.host_path, mount.mount_path) for mount in spec.mounts)
        start = container.state.container_id
        return Pod(f"uid-{spec.name}", "team", spec.name, spec.ip, spec.port, ready, start, mounts=mounts)

    # What the controller and the disk say

    def publish(self, key: ObjectKey, snapshot: str, weights: bytes = b"weights", **config: object) -> Files:
        """The files of an adapter are there, with a manifest digest of their own."""
        directory = self.root / "models" / key.namespace / key.name / snapshot
        write_files(directory, adapter_files(weights, **config))  # type: ignore[arg-type]  # as in `adapter_files`
        files = Files((snapshot * 64)[:64], snapshot, str(directory))
        self.published[key] = files
        self.adapters.poke()
        return files

    def want(
        self, *pods: Pod, digest: str | None = "1" * 64, key: ObjectKey = LORA, name: str = "a", **more: str
    ) -> None:
        """The adapter of a model belongs into these pods, beside what is wanted already."""
        adapter = WantedAdapter(key, "uid-1", name, BASE_MODEL, "hf://org/lora", digest, frozenset(p.uid for p in pods))
        adapters = {**self.instructions.adapters, key: replace(adapter, **more)}  # type: ignore[arg-type]  # all are texts
        kept = frozenset({*self.instructions.kept, key} if digest is None else self.instructions.kept - {key})
        self.say(replace(self.instructions, adapters=adapters, kept=kept), *pods)

    def say(self, instructions: Instructions, *pods: Pod) -> None:
        known = {**(instructions.pods or {}), **{pod.uid: pod for pod in pods}}
        self.instructions = replace(instructions, pods=known)
        self.adapters.take(self.instructions)

    def see(self, *pods: Pod) -> None:
        """How pods are now."""
        self.say(self.instructions, *pods)

    def unlist(self, key: ObjectKey = LORA) -> None:
        """The model is deleted."""
        adapters = {each: adapter for each, adapter in self.instructions.adapters.items() if each != key}
        self.say(replace(self.instructions, adapters=adapters))

    # What is reported

    def in_pod(self, uid: str = "uid-worker-0", key: ObjectKey = LORA) -> pb.AdapterInPod:
        report = self.adapters.reports().get(key)
        assert report is not None
        return next((pod for pod in report.pods if pod.pod_uid == uid), pb.AdapterInPod())

    async def until(
        self, state: pb.AdapterState.ValueType, uid: str = "uid-worker-0", key: ObjectKey = LORA
    ) -> pb.AdapterInPod:
        async def reached() -> bool:
            return self.adapters.reports().get(key) is not None and self.in_pod(uid, key).state == state

        await wait_until_async(reached, what=f"{pb.AdapterState.Name(state)} in {uid}")
        return self.in_pod(uid, key)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node without pods, running."""
    made = Node(tmp_path)
    made.start()
    yield made
    await made.close()
