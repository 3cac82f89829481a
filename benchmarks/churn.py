"""A restless fleet of workers with adapters, and the question whether everybody agrees about it in the end.

Workers are restarted, made to forget, moved, deleted and added; adapters are updated, deleted and created again: at random,
from a seed. Then, with nobody disturbing any more, three views have to become the same: the status of every DynamoModel, the
workers' own lists, and what was asked for last. Used by `benchmarks.lora` and by the end-to-end tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from local.workers.container import Container
from local.workers.workers import Workers
from modelcache.api.base import API_VERSION, KIND
from modelcache.api.model import DynamoModel
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import AlreadyExists, KubeError, NotFound
from modelcache.kube.objects import PartialObject
from modelcache.kube.resources import DYNAMO_MODELS, PODS

BASE_MODEL = "Qwen/Qwen3-0.6B"
POLL = 0.2
"""Seconds between two looks at whether all agree."""
REMOVAL_TIMEOUT = 120.0


@dataclass(frozen=True)
class Adapter:
    """A DynamoModel of a lora. `weights` is the sha256 of the weights for each version; the first one is the initial."""

    name: str
    repository: str
    weights: Mapping[str, str]

    @property
    def lora(self) -> str:
        """The name that requests use."""
        return f"lora-of-{self.name}"


def write_adapter(directory: Path, *, weights: bytes, rank: int = 8) -> str:
    """Write an adapter whose weights are these bytes (a safetensors of one vector); their digest in the engine's eyes."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE_MODEL,
        "r": rank,
        "target_modules": ["q_proj", "v_proj"],
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    tensor = {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}
    header = json.dumps({"base_model.model.layers.0.self_attn.q_proj.lora_A.weight": tensor}).encode()
    content = len(header).to_bytes(8, "little") + header + weights
    (directory / "adapter_model.safetensors").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_adapters(root: Path, count: int, versions: Sequence[str] = ("main",)) -> list[Adapter]:
    """Write repositories `loras/adapter-<n>` (and their branches) for `local.hub` to serve."""
    adapters = []
    for index in range(count):
        name = f"adapter-{index}"
        weights = {}
        for version in versions:
            directory = name if version == "main" else f"{name}@{version}"
            weights[version] = write_adapter(root / "loras" / directory, weights=f"{name} {version}".encode() * 64)
        adapters.append(Adapter(name, f"loras/{name}", weights))
    return adapters


def manifest(adapter: Adapter, version: str) -> dict[str, Any]:
    """The DynamoModel of an adapter."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": adapter.name},
        "spec": {
            "modelName": adapter.lora,
            "baseModelName": BASE_MODEL,
            "modelType": "lora",
            "version": version,
            "source": {"uri": f"hf://{adapter.repository}"},
        },
    }


@dataclass
class Fleet:
    """Workers in this process, and DynamoModels on an API server. `versions` is what was asked for last."""

    client: KubeClient
    namespace: str
    workers: Workers
    nodes: Sequence[str]
    adapters: Sequence[Adapter]
    versions: dict[str, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    _named: int = 0

    async def populate(self, workers: int) -> None:
        """Start workers, spread over the nodes, and create every adapter. Raises KubeError."""
        for _ in range(workers):
            await self._add()
        for adapter in self.adapters:
            await self._create(adapter, next(iter(adapter.weights)))

    async def churn(self, rng: Random, *, steps: int | None = None, seconds: float | None = None, pause: float) -> None:
        """Disturb: so many times, or for so long; `pause` is the mean time in between. Raises KubeError."""
        acts = [self._restart, self._restart, self._move, self._delete_pod, self._replace, self._update, self._recreate]
        if seconds is not None:
            # Losing adapters without a restart is only noticed at the next check, 30 s later: nothing for a short run.
            acts.append(self._forget)
        deadline = time.monotonic() + seconds if seconds is not None else None
        count = 0
        while (steps is None or count < steps) and (deadline is None or time.monotonic() < deadline):
            act = rng.choice(acts)
            await act(rng)
            self.done[act.__name__.removeprefix("_")] += 1
            count += 1
            await asyncio.sleep(rng.expovariate(1 / pause))

    async def until_agreed(self, timeout: float) -> float:
        """Seconds until all views were the same. Raises TimeoutError, with the difference."""
        started = time.monotonic()
        difference = "nobody has looked yet"
        while time.monotonic() < started + timeout:
            with contextlib.suppress(KubeError):
                difference = await self.difference()
                if not difference:
                    return time.monotonic() - started
            await asyncio.sleep(POLL)
        raise TimeoutError(f"no agreement within {timeout:.0f} s: {difference}")

    async def until_empty(self, timeout: float) -> None:
        """Return when the DynamoModels are gone, and with them all adapters. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            for adapter in self.adapters:
                with contextlib.suppress(NotFound):
                    while True:
                        await self.client.get(DYNAMO_MODELS, adapter.name, self.namespace, into=PartialObject)
                        await asyncio.sleep(POLL)
            await until(lambda: not any(container.engine.adapters for container in self.workers.containers))

    async def difference(self) -> str:
        """The first difference between status, workers and what is wanted; empty when there is none. Raises KubeError."""
        models: dict[str, DynamoModel] = {}
        async for page in self.client.list_pages(DYNAMO_MODELS, self.namespace, into=DynamoModel):
            models |= {model.metadata.name: model for model in page.objects}
        containers = self.workers.containers
        for adapter in self.adapters:
            found = _difference(adapter, self.versions[adapter.name], models.get(adapter.name), containers)
            if found:
                return f"{adapter.name}: {found}"
        names = {adapter.lora for adapter in self.adapters}
        for container in containers:
            strangers = set(container.engine.adapters) - names
            if strangers:
                return f"{container.spec.name} lists {sorted(strangers)}, which nobody asked for"
        return ""

    # -- what happens to them ------------------------------------------------------------------------------------

    async def _restart(self, rng: Random) -> None:
        await rng.choice(self.workers.containers).restart()

    async def _forget(self, rng: Random) -> None:
        rng.choice(self.workers.containers).engine.forget()

    async def _move(self, rng: Random) -> None:
        """A Deployment's pod: gone here, another one of another name on some node."""
        await self.workers.remove(rng.choice(self.workers.containers).spec.name)
        await self._add(rng.choice(self.nodes))

    async def _replace(self, rng: Random) -> None:
        """A StatefulSet's pod: gone, and again under its name on another node."""
        name = rng.choice(self.workers.containers).spec.name
        await self.workers.remove(name)
        await self.workers.add(name, rng.choice(self.nodes))

    async def _delete_pod(self, rng: Random) -> None:
        """Somebody deletes the Pod; its container ends by that."""
        name = rng.choice(self.workers.containers).spec.name
        with contextlib.suppress(NotFound):
            await self.client.delete(PODS, name, self.namespace)
        await until(lambda: self.workers.find(name) is None)
        await self._add(rng.choice(self.nodes))

    async def _update(self, rng: Random) -> None:
        adapter = rng.choice(self.adapters)
        version = rng.choice(list(adapter.weights))
        patch = {"spec": {"version": version}}
        await self.client.merge_patch(DYNAMO_MODELS, adapter.name, patch, self.namespace)
        self.versions[adapter.name] = version

    async def _recreate(self, rng: Random) -> None:
        adapter = rng.choice(self.adapters)
        await self.client.delete(DYNAMO_MODELS, adapter.name, self.namespace)
        await self._create(adapter, rng.choice(list(adapter.weights)))

    async def _create(self, adapter: Adapter, version: str) -> None:
        """Create it, as soon as an earlier one of its name is gone."""
        deadline = time.monotonic() + REMOVAL_TIMEOUT
        while True:
            try:
                await self.client.create(DYNAMO_MODELS, manifest(adapter, version), self.namespace, name=adapter.name)
            except AlreadyExists:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL / 5)
            else:
                self.versions[adapter.name] = version
                return

    async def _add(self, node: str | None = None) -> None:
        await self.workers.add(f"worker-{self._named}", node or self.nodes[self._named % len(self.nodes)])
        self._named += 1


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is true: what stands behind it is another task's, or process's, doing."""
    while True:
        if condition():
            return
        await asyncio.sleep(POLL / 10)


def _difference(adapter: Adapter, version: str, model: DynamoModel | None, containers: Sequence[Container]) -> str:
    """How the views of one adapter differ; empty when they do not."""
    if model is None:
        return "there is no such DynamoModel"
    status = model.last_status()
    if status is None or status.observed_generation != model.metadata.generation:
        return "the status is not about the present spec"
    endpoints = {endpoint.pod_name: endpoint for endpoint in status.endpoints}
    if sorted(endpoints) != sorted(container.spec.name for container in containers):
        return f"the status lists the pods {sorted(endpoints)}"
    if (status.total_endpoints, status.ready_endpoints) != (len(containers), len(containers)):
        unready = [msgspec.to_builtins(endpoint) for endpoint in status.endpoints if not endpoint.ready]
        return f"{status.ready_endpoints} of {status.total_endpoints} endpoints are ready, not {unready[:2]}"
    for container in containers:
        loaded = container.engine.adapters.get(adapter.lora)
        if loaded is None or loaded.sha256 != adapter.weights[version]:
            return f"{container.spec.name} has {loaded}, wanted is version {version}"
    nodes = sorted({container.spec.node for container in containers})
    return "" if sorted(status.assigned_nodes) == nodes else f"it is on {status.assigned_nodes}, the workers on {nodes}"
