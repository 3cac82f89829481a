"""A pod that was bound before the label went, and that the controller has not been shown yet, keeps its files.

The agent is a real process with a real cache; the controller runs here, and its watch of pods is held up by the test.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from modelcache.api.labels import ready_label
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Forbidden
from tests.integration.controller.conftest import World
from tests.integration.controller.test_uses import add_pod
from tests.support.process import Process


class Trouble:
    """What the controller gets of pods: nothing new while `held`; no list of one node while `refused`."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.refused = False


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    trouble = Trouble()
    stream_lines, list_pages = KubeClient.stream_lines, KubeClient.list_pages

    @asynccontextmanager
    async def held(client: KubeClient, path: str, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        async def lines(found: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for line in found:
                await trouble.flowing.wait()
                yield line

        async with stream_lines(client, path, *arguments, **options) as found:
            yield lines(found) if path.endswith("/pods") else found

    async def refused(client: KubeClient, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        if trouble.refused and "spec.nodeName=" in options.get("field_selector", ""):
            raise Forbidden("not today", status=403, verb="list", subject="pods")
        async for page in list_pages(client, *arguments, **options):
            yield page

    monkeypatch.setattr(KubeClient, "stream_lines", held)
    monkeypatch.setattr(KubeClient, "list_pages", refused)
    return trouble


@pytest.fixture
def agent(trouble: Trouble, world: World, tmp_path: Path) -> Iterator[Process]:
    process = Process(
        [sys.executable, "-m", "cli.main", "agent", "--node", world.node(), "--controller", world.address,
         "--root", tmp_path / "cache", "--kubeconfig", world.kube.kubeconfig, "--insecure", "--log-format", "text"],
        env={**os.environ},
    )  # fmt: skip
    yield process
    process.close()


async def test_the_files_of_a_pod_that_nobody_has_seen_yet_stay(
    trouble: Trouble, world: World, agent: Process, tmp_path: Path
) -> None:
    model = world.model()
    await world.until(lambda: model.status().get("readyNodes"), "the node has the model")
    (node,) = world.nodes
    published = tmp_path / "cache" / "models" / world.namespace / model.name
    files = sorted(published.rglob("*"))

    # In this order: bound while the label is there, and the watch says nothing of it.
    trouble.flowing.clear()
    trouble.refused = True
    pod = add_pod(world, "late", node, str(published))
    model.delete()

    def told(text: str) -> bool:
        return text in str(model.condition("Ready").get("message"))

    await world.until(lambda: told("cannot be listed"), "why the files stay")
    assert ready_label(world.namespace, model.name) not in world.labels(node)
    assert told("not today")
    trouble.refused = False
    await world.until(lambda: told(f"in use by pod {world.namespace}/late"), "who uses the files")
    assert sorted(published.rglob("*")) == files
    assert not trouble.flowing.is_set()

    world.api.patch(f"{pod}/status", {"status": {"phase": "Succeeded"}}).expect(200)
    trouble.flowing.set()
    await world.gone(model)
    assert not published.exists()
