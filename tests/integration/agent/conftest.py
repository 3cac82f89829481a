"""A real agent process between a scripted controller, an API server, and a hub."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.hub.hub import Hub
from local.hub.repository import Commit, Repository
from local.hub.server import HubServer
from modelcache.api.labels import is_ours
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from tests.support.api import MERGE_PATCH, Api, Json, Watch
from tests.support.controller import ScriptedController
from tests.support.process import Process

CANARY = "hf_canary_that_must_never_be_seen"


@dataclass
class TestNode:
    """A Node object of its own for one test."""

    __test__ = False

    name: str
    api: Api

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/api/v1/nodes/{self.name}"

    def labels(self) -> dict[str, str]:
        """Its labels now."""
        found: dict[str, str] = self.api.get(self.path).expect(200)["metadata"].get("labels") or {}
        return found

    def label(self, labels: Mapping[str, str | None]) -> None:
        """Change labels as `kubectl label` does; None removes one."""
        self.api.patch(self.path, {"metadata": {"labels": dict(labels)}}, MERGE_PATCH).expect(200)

    def version(self) -> str:
        """Its resource version: changes with every write."""
        return str(self.api.get(self.path).expect(200)["metadata"]["resourceVersion"])

    @contextmanager
    def watch(self) -> Iterator[LabelWatch]:
        """Every change of its labels from now on."""
        with self.api.watch(
            "/api/v1/nodes", fieldSelector=f"metadata.name={self.name}", resourceVersion=self.version()
        ) as events:
            yield LabelWatch(events)


class LabelWatch:
    """Our labels of one node, state after state."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
        """All states up to the first for which `wanted` is true."""
        seen: list[dict[str, str]] = []

        def take(event: Json) -> bool:
            labels = event["object"]["metadata"].get("labels") or {}
            seen.append({key: value for key, value in labels.items() if is_ours(key)})
            return wanted(seen[-1])

        self._watch.until(take)
        return seen


@pytest.fixture
def node(api: Api) -> Iterator[TestNode]:
    name = f"node-{secrets.token_hex(4)}"
    labels = {"topology.kubernetes.io/zone": "zone-a", "kubernetes.io/hostname": name}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    api.post("/api/v1/nodes", body).expect(201)
    yield TestNode(name, api)
    api.delete(f"/api/v1/nodes/{name}")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(Hub()) as server:
        yield server


@pytest.fixture
async def controller() -> AsyncIterator[ScriptedController]:
    async with ScriptedController() as scripted:
        yield scripted


StartAgent = Callable[..., Process]


@pytest.fixture
def start_agent(
    node: TestNode, hub: HubServer, controller: ScriptedController, kubeconfig: Path, tmp_path: Path
) -> Iterator[StartAgent]:
    """Starts the agent of `node` with its cache in `tmp_path / "cache"`; every process is ended after the test."""
    started: list[Process] = []

    def start(*arguments: str, kubeconfig: Path = kubeconfig) -> Process:
        process = Process(
            [sys.executable, "-m", "cli.main", "agent", "--node", node.name, "--controller", controller.address,
             "--root", tmp_path / "cache", "--kubeconfig", kubeconfig, "--insecure", "--log-format", "text", *arguments],
            env={**os.environ, "HF_ENDPOINT": hub.url},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def manifest_of(repository: Repository, revision: str = "main", *, complete: bool = True) -> Manifest:
    """What a controller makes of a revision; incomplete: with only the digests that the hub publishes."""
    commit = repository.find(revision)
    assert commit is not None
    files = []
    for file in commit.files.values():
        with file.open() as content:
            sha256 = hashlib.sha256(content.read()).hexdigest()
        known = file.sha256 or (sha256 if complete else None)
        oid = GitOid(file.blob_id) if file.sha256 is None else None
        files.append(ManifestFile(path=file.path, size=file.size, sha256=Sha256(known) if known else None, git_oid=oid))
    return Manifest.build(f"hf://{repository.name}", commit.id, files)


def commit_of(repository: Repository, revision: str = "main") -> Commit:
    """One commit; it has to exist."""
    commit = repository.find(revision)
    assert commit is not None
    return commit
