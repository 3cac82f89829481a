"""The agent process between a controller, an API server and a hub that do what the test says."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from local.hub.faults import Flip, Stall
from local.hub.repository import Repository
from local.hub.server import HubServer
from local.ports import free_port
from modelcache.api.labels import is_ours, model_labels
from modelcache.manifest import Manifest
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_FAILED,
    PHASE_READY,
    PHASE_VERIFIED,
    ModelReport,
)
from tests.integration.agent.conftest import CANARY, StartAgent, TestNode, manifest_of
from tests.support.controller import ScriptedController, model_in, wish
from tests.support.faulty_api import FaultyApi
from tests.support.process import Process
from tests.support.waiting import wait_until_async

SMALL = {"config.json": b'{"model_type": "test"}', "sub/tokenizer.json": b"{}", "empty.txt": b""}


def weights(seed: int, size: int = 300_000) -> bytes:
    """Content that exists only once."""
    return random.Random(seed).randbytes(size)


def repository(hub: HubServer, name: str = "acme/small", *, seed: int = 1, tokens: tuple[str, ...] = ()) -> Repository:
    """A model of a few files, one of them in LFS."""
    files = {**SMALL, "model.safetensors": weights(seed)}
    return hub.hub.add(Repository(name, files, private=bool(tokens), tokens=tokens))


def large_repository(hub: HubServer) -> Repository:
    """A model that takes a while at a limited rate: 24 files of 1 MiB."""
    return hub.hub.add(Repository("acme/large", {f"part-{n:02}.bin": weights(n, 1 << 20) for n in range(24)}))


def is_ready(model: ModelReport) -> bool:
    return model.phase == PHASE_READY


def ours(node: TestNode) -> dict[str, str]:
    return {key: value for key, value in node.labels().items() if is_ours(key)}


def assert_published(cache: Path, namespace: str, name: str, manifest: Manifest) -> None:
    """Exactly the files of the manifest, with their content, under `current`."""
    current = cache / "models" / namespace / name / "current"
    found = {p.relative_to(current).as_posix(): p for p in current.rglob("*") if p.is_file()}
    assert {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in found.items()} == {
        file.path: file.sha256 for file in manifest.files
    }
    assert current.readlink() == Path(manifest.snapshot)


def blob_bytes(cache: Path) -> int:
    """Bytes of finished content on the node's disk."""
    return sum(blob.stat().st_size for blob in (cache / "blobs").rglob("*") if blob.is_file())


async def until_logged(agent: Process, *steps: str) -> None:
    """Return when the agent's worker has logged one of these steps. In a thread: the controller needs the event loop."""
    wanted = [f"agent.worker: {step}" for step in steps]
    await asyncio.to_thread(agent.stderr.wait_for, lambda line: any(each in line for each in wanted))


def published_models(cache: Path) -> list[str]:
    return os.listdir(cache / "models")


def lose_index(cache: Path) -> None:
    """Delete the index, as an administrator does who follows bad advice."""
    for part in cache.glob("state.sqlite3*"):
        part.unlink()


async def test_a_model_arrives_verified_and_labelled_and_leaves_without_a_trace(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    source = repository(hub, tokens=(CANARY,))
    manifest = manifest_of(source)
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest, token=CANARY, hub_ref="main"))
    agent = start_agent("--log-level", "debug")
    ready = await controller.until_model("team-a", "small", is_ready)
    assert (ready.bytes_done, ready.bytes_total) == (manifest.size, manifest.size)
    assert ready.origin_bytes == manifest.size
    assert (ready.current_revision, ready.tree_digest) == (manifest.revision, manifest.tree_digest())
    assert ours(node) == model_labels("team-a", "small", manifest.revision)
    assert_published(cache, "team-a", "small", manifest)
    snapshot = cache / "hub" / "team-a" / "models--acme--small" / "snapshots" / manifest.revision
    assert (snapshot / "model.safetensors").read_bytes() == weights(1)
    hello = controller.hellos[0]
    assert (hello.node, hello.zone, hello.cache_root) == (node.name, "zone-a", str(cache))
    assert controller.reports[-1].capacity.cached_bytes == manifest.size

    nonce = await controller.want()
    await controller.until_gone("team-a", "small", nonce)
    assert ours(node) == {}
    assert list((cache / "models").iterdir()) == []
    assert list((cache / "hub").iterdir()) == []
    assert list((cache / "partial").iterdir()) == []
    assert blob_bytes(cache) == 0
    assert agent.terminate() == 0
    assert CANARY not in agent.logs()


async def test_a_label_that_somebody_removes_comes_back_and_a_false_one_goes(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode
) -> None:
    manifest = manifest_of(repository(hub))
    labels = model_labels("team-a", "small", manifest.revision)
    controller.know(manifest)
    node.label(model_labels("team-z", "left-behind", "f" * 40))
    await controller.want(wish("team-a", "small", manifest))
    start_agent()
    await controller.until_model("team-a", "small", is_ready)
    assert ours(node) == labels
    node.label(dict.fromkeys(labels) | {"modelcache.nvidia.com/team-a.other": "Ready"})

    async def restored() -> bool:
        return ours(node) == labels

    await wait_until_async(restored)


async def test_an_incomplete_manifest_is_published_only_once_it_was_completed(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    source = repository(hub)
    incomplete, complete = manifest_of(source, complete=False), manifest_of(source)
    controller.know(incomplete, complete)
    await controller.want(wish("team-a", "small", incomplete, hub_ref="main"))
    start_agent()
    verified = await controller.until_model("team-a", "small", lambda model: model.phase == PHASE_VERIFIED)
    digests = {digest.path: digest.sha256 for digest in verified.digests}
    assert incomplete.with_sha256(digests) == complete
    assert not list((cache / "models").iterdir())
    assert ours(node) == {}
    fetched = hub.hub.stats.file_bytes
    await controller.want(wish("team-a", "small", complete, hub_ref="main"))
    ready = await controller.until_model("team-a", "small", is_ready)
    assert hub.hub.stats.file_bytes == fetched, "nothing is downloaded a second time"
    assert ready.origin_bytes == fetched
    assert_published(cache, "team-a", "small", complete)


async def test_killed_in_a_download_it_goes_on_where_it_was(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    manifest = manifest_of(large_repository(hub))
    controller.know(manifest)
    await controller.want(wish("team-a", "large", manifest))
    hub.hub.limits.bytes_per_second = 8e6
    first = start_agent()

    async def some_are_finished() -> bool:
        return blob_bytes(cache) >= 4 << 20

    await wait_until_async(some_are_finished)
    first.kill()
    hub.hub.limits.bytes_per_second = None
    finished = blob_bytes(cache)
    assert finished < manifest.size
    assert ours(node) == {}

    async def hung_up() -> bool:
        # The hub counts what it has put into the sockets of the killed process as well.
        return bool(hub.hub.stats.describe()["open_bodies"] == 0)

    await wait_until_async(hung_up)
    hub.hub.stats.reset()
    start_agent()
    ready = await controller.until_model("team-a", "large", is_ready)
    assert hub.hub.stats.file_bytes <= manifest.size - finished
    assert ready.origin_bytes == hub.hub.stats.file_bytes, "counted since the start of the process"
    assert_published(cache, "team-a", "large", manifest)


async def test_killed_at_each_step_it_never_promises_what_is_not_there_and_arrives_all_the_same(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    manifest = manifest_of(repository(hub))
    labels = model_labels("team-a", "small", manifest.revision)
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest, hub_ref="main"))
    for step in ("fetch manifest", "download", "publish", "switch"):
        agent = start_agent()
        # Where an earlier life got further than its last line, this one may be past the step: then it is done.
        await until_logged(agent, step, "done")
        agent.kill()
        if ours(node):
            assert_published(cache, "team-a", "small", manifest)
    last = start_agent()
    await controller.until_model("team-a", "small", is_ready)

    async def labelled() -> bool:
        # A restarted agent goes on with Ready; where the last life was killed just before the label, that follows.
        return ours(node) == labels

    await wait_until_async(labelled)
    last.kill()
    assert_published(cache, "team-a", "small", manifest)

    nonce = await controller.want()
    removing = start_agent()
    await until_logged(removing, "remove model")
    removing.kill()
    assert ours(node) == {}, "label before files"
    start_agent()
    await controller.until_gone("team-a", "small", nonce)
    # Killed in the middle of a removal, it may leave the empty directory of the namespace; never a file or a link.
    assert not [path for path in (cache / "models").rglob("*") if not path.is_dir() or path.is_symlink()]

    async def swept() -> bool:
        # What the former life has left of a model that was gone already is nobody's to report: it goes in passing.
        return blob_bytes(cache) == 0

    await wait_until_async(swept)


async def test_asked_to_stop_in_a_download_it_stops_at_once(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer
) -> None:
    manifest = manifest_of(large_repository(hub))
    controller.know(manifest)
    hub.hub.faults.add(Stall(file="part-12.bin", after=1000))
    await controller.want(wish("team-a", "large", manifest))
    agent = start_agent()
    await controller.until_model("team-a", "large", lambda model: model.bytes_done > manifest.size // 2)
    # Threads wait for bytes that never come; the limit is that of the contract with the kubelet, not a measurement.
    assert agent.terminate(timeout=5) == 0

    async def hung_up() -> bool:
        return controller.streams == 0

    await wait_until_async(hung_up)


async def test_a_restart_without_controller_keeps_the_label_and_mends_what_was_touched(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    manifest = manifest_of(repository(hub))
    labels = model_labels("team-a", "small", manifest.revision)
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest, hub_ref="main"))
    first = start_agent()
    await controller.until_model("team-a", "small", is_ready)
    first.kill()
    await controller.stop()
    version = node.version()
    hub.hub.stats.reset()

    second = start_agent()
    await controller.start()
    before = len(controller.reports)
    controller.desired = None
    ready = await controller.until_model("team-a", "small", lambda model: True, after=before)
    assert ready.phase == PHASE_READY, "from the first report on"
    assert node.version() == version, "the Node was not touched"
    second.kill()

    published = cache / "models" / "team-a" / "small" / "current" / "model.safetensors"
    published.chmod(0o644)
    published.write_bytes(b"somebody has overwritten it")
    before = len(controller.reports)
    start_agent()
    broken = await controller.until_model("team-a", "small", lambda model: model.phase != PHASE_READY, after=before)
    assert broken.problem.reason == "FilesChanged"

    async def withdrawn() -> bool:
        return ours(node) == {}

    await wait_until_async(withdrawn)
    assert hub.hub.stats.file_bytes == 0
    await controller.want(wish("team-a", "small", manifest, hub_ref="main"))
    await controller.until_model("team-a", "small", is_ready, after=len(controller.reports))
    assert hub.hub.stats.file_bytes == len(weights(1)), "only the damaged file is fetched again"
    assert_published(cache, "team-a", "small", manifest)
    assert ours(node) == labels


async def test_a_lost_index_is_rebuilt_and_everything_read_again_before_it_is_announced(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    manifest = manifest_of(repository(hub))
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest, hub_ref="main"))
    first = start_agent()
    await controller.until_model("team-a", "small", is_ready)
    first.kill()
    lose_index(cache)
    hub.hub.stats.reset()
    monitor = f"127.0.0.1:{free_port()}"
    second = start_agent("--metrics-listen", monitor)
    before = len(controller.reports)
    ready = await controller.until_model("team-a", "small", is_ready, after=before)
    assert [finding.reason for finding in ready.findings] == ["IndexRebuilt"]
    assert manifest.revision in ready.findings[0].message
    async with ClientSession() as session, session.get(f"http://{monitor}/metrics") as answer:
        assert "modelcache_index_rebuilds_total 1.0" in await answer.text()
    assert hub.hub.stats.file_bytes == 0
    assert "the cache had to be mended" in second.logs()
    assert "the index of the cache was built anew from the disk" in second.logs()
    assert "mend" in second.logs()
    assert_published(cache, "team-a", "small", manifest)
    assert ours(node) == model_labels("team-a", "small", manifest.revision)


async def test_a_change_and_then_a_deletion_in_the_middle_of_a_download(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    large, small = manifest_of(large_repository(hub)), manifest_of(repository(hub))
    controller.know(large, small)
    hub.hub.limits.bytes_per_second = 4e6

    async def download(name: str) -> None:
        await controller.want(wish("team-a", name, large))
        await controller.until_model("team-a", name, lambda m: m.phase == PHASE_DOWNLOADING and m.bytes_done > 0)

    start_agent()
    await download("changed")
    await controller.want(wish("team-a", "changed", small))
    ready = await controller.until_model("team-a", "changed", is_ready)
    assert ready.manifest_digest == small.digest
    assert_published(cache, "team-a", "changed", small)
    assert ours(node) == model_labels("team-a", "changed", small.revision)

    await download("deleted")
    nonce = await controller.want()
    await controller.until_gone("team-a", "deleted", nonce)
    await controller.until_gone("team-a", "changed", nonce)
    assert hub.hub.stats.file_bytes < large.size * 2, "the download has stopped"
    assert blob_bytes(cache) == 0
    assert list((cache / "partial").iterdir()) == []


async def test_an_update_never_leaves_the_node_without_a_label(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    source = repository(hub)
    old = manifest_of(source)
    source.commit({**SMALL, "model.safetensors": weights(2)})
    new = manifest_of(source)
    controller.know(old, new)
    await controller.want(wish("team-a", "small", old, hub_ref="main"))
    start_agent()
    await controller.until_model("team-a", "small", is_ready)
    hub.hub.stats.reset()
    with node.watch() as events:
        await controller.want(wish("team-a", "small", new, hub_ref="main"))
        await controller.until_model("team-a", "small", lambda m: is_ready(m) and m.current_revision == new.revision)
        seen = events.until(lambda labels: labels == model_labels("team-a", "small", new.revision))
    assert all(labels for labels in seen)
    assert_published(cache, "team-a", "small", new)
    assert hub.hub.stats.file_bytes == len(weights(2)), "unchanged files are not fetched again"

    async def old_is_gone() -> bool:
        return not (cache / "models" / "team-a" / "small" / old.snapshot).exists() and blob_bytes(cache) == new.size

    await wait_until_async(old_is_gone)


@pytest.mark.parametrize("other", ["team-a", "team-b"])
async def test_two_models_share_what_is_the_same(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, cache: Path, other: str
) -> None:
    one, two = manifest_of(repository(hub, "acme/one")), manifest_of(repository(hub, "acme/two"))
    controller.know(one, two)
    await controller.want(wish("team-a", "one", one), wish(other, "two", two))
    start_agent()
    await controller.until(
        lambda report: all(
            (model := model_in(report, *key)) is not None and is_ready(model)
            for key in (("team-a", "one"), (other, "two"))
        )
    )
    assert blob_bytes(cache) == one.size
    # Small files are shown to be the same by reading them.
    assert hub.hub.stats.file_bytes == one.size * (1 if other == "team-a" else 2)
    nonce = await controller.want(wish(other, "two", two))
    await controller.until_gone("team-a", "one", nonce)
    assert_published(cache, other, "two", two)
    assert blob_bytes(cache) == two.size


async def test_a_flipped_byte_at_the_origin_is_never_ready_and_is_named(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    manifest, good = manifest_of(repository(hub)), manifest_of(repository(hub, "acme/good", seed=2))
    fault = hub.hub.faults.add(Flip(repository="acme/small", file="model.safetensors", offset=12345))
    controller.know(manifest, good)
    await controller.want(wish("team-a", "small", manifest), wish("team-a", "good", good))
    start_agent()
    failed = await controller.until_model("team-a", "small", lambda model: model.phase == PHASE_FAILED)
    flipped = bytearray(weights(1))
    flipped[12345] ^= 1
    assert failed.problem.reason == "DigestMismatch"
    for part in ("model.safetensors", hashlib.sha256(weights(1)).hexdigest(), hashlib.sha256(flipped).hexdigest()):
        assert part in failed.problem.message
    await controller.until_model("team-a", "good", is_ready)
    assert ours(node) == model_labels("team-a", "good", good.revision)
    assert not (cache / "models" / "team-a" / "small").exists()
    assert all(model.phase != PHASE_READY for r in controller.reports if (model := model_in(r, "team-a", "small")))

    hub.hub.faults.remove(fault)
    await controller.want(wish("team-a", "small", manifest, attempt="2"), wish("team-a", "good", good))
    await controller.until_model("team-a", "small", is_ready)
    assert_published(cache, "team-a", "small", manifest)


@pytest.fixture
async def lone_api(tmp_path: Path) -> AsyncIterator[FaultyApi]:
    directory = tmp_path / "api"
    directory.mkdir()
    async with FaultyApi(directory) as server:
        yield server


async def test_an_api_server_that_is_away_delays_labels_and_removal_and_nothing_else(
    start_agent: StartAgent,
    controller: ScriptedController,
    hub: HubServer,
    node: TestNode,
    cache: Path,
    lone_api: FaultyApi,
) -> None:
    path = f"/api/v1/nodes/{node.name}"
    manifest = manifest_of(repository(hub))
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest))
    agent = start_agent(kubeconfig=lone_api.kubeconfig)
    missing = await controller.until_model("team-a", "small", lambda model: model.problem.reason == "NodeLabelFailed")
    assert missing.phase == PHASE_VERIFIED
    assert f"no Node '{node.name}'" in missing.problem.message
    assert_published(cache, "team-a", "small", manifest)

    await lone_api.put(path, {"kind": "Node", "metadata": {"labels": {}}})
    await controller.until_model("team-a", "small", is_ready)
    await lone_api.stop()
    nonce = await controller.want()
    away = await controller.until_model(
        "team-a", "small", lambda model: model.problem.reason == "NodeLabelFailed", after=len(controller.reports)
    )
    assert "Cannot label this node" in away.problem.message
    assert_published(cache, "team-a", "small", manifest)
    assert agent.returncode is None
    await lone_api.start()
    await controller.until_gone("team-a", "small", nonce)
    assert lone_api.objects[path]["metadata"]["labels"] == {}
    assert list((cache / "models").iterdir()) == []
