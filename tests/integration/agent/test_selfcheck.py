"""An agent that watches over what it has published: damage, a root that goes away, and what must not disturb it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.selfcheck import PATROL_SECONDS, SCRUB_FIRST_SECONDS, VITALS_SECONDS, Doubts, ScrubSettings, SelfCheck
from agent.store import Store, StoreIOError, StoreUnusable
from local.hub.repository import Repository
from local.hub.server import HubServer
from modelcache.api.labels import is_ours, model_labels
from modelcache.kube.clock import Clock, LoopClock
from modelcache.rpc.modelcache_pb2 import PHASE_READY, ModelReport
from tests.integration.agent.conftest import StartAgent, TestNode, manifest_of
from tests.support.caching import OLD, digest, publish
from tests.support.controller import ScriptedController, wish
from tests.support.fake_clock import FakeClock
from tests.support.fetching import content
from tests.support.memory import memory_directory
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

PIECE = 16 * 1024 * 1024
WEIGHTS = bytes(range(250)) * 10
FILES = {"config.json": b"{}", "weights/part": WEIGHTS}
KEY = ("team", "model", OLD)


def flip(path: Path, *offsets: int) -> None:
    """Bits of a file turn over, and nothing else about it changes."""
    found = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


async def passing(clock: FakeClock, seconds: float, until: Callable[[], bool]) -> None:
    """Lets time pass in steps of `seconds` until something has happened."""

    async def step() -> bool:
        if not until():
            clock.advance(seconds)
        return until()

    await wait_until_async(step)


class Watched:
    """A store and its self-check; what that finds is put right at once, as the workers do."""

    def __init__(self, root: Path, clock: Clock, interval: float = 0.0) -> None:
        self.store = Store.open(root)
        self.doubts: list[Doubts] = []
        self.found = asyncio.Event()
        self.withdrawn = False
        self.read = 0
        self.check = SelfCheck(
            self.store,
            ScrubSettings(interval, 1e9),
            doubt=self._doubt,
            withdraw=self._withdraw,
            scrubbed=self._scrubbed,
            begin=lambda: asyncio.sleep(0),
            clock=clock,
        )
        self.tasks = [asyncio.create_task(part) for part in self.check.parts()]

    def _doubt(self, doubts: Doubts) -> None:
        self.doubts.append(doubts)
        self.found.set()

    async def _withdraw(self) -> None:
        self.withdrawn = True

    def _scrubbed(self, count: int) -> None:
        self.read += count

    async def until_doubt(self) -> Doubts:
        async with asyncio.timeout(PATIENCE):
            await self.found.wait()
        self.found.clear()
        return self.doubts[-1]

    async def ended(self, clock: FakeClock) -> BaseException | None:
        """How the first part ends."""
        await passing(clock, VITALS_SECONDS, lambda: any(task.done() for task in self.tasks))
        return next(task for task in self.tasks if task.done()).exception()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.store.close()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with memory_directory(tmp_path) as directory:
        with Store.open(directory / "cache") as store:
            publish(store, "model", FILES)
            publish(store, "other", {"x": b"x" * 100}, repo="acme/other")
        yield directory / "cache"


@asynccontextmanager
async def watched(root: Path, clock: Clock | None = None, interval: float = 0.0) -> AsyncIterator[Watched]:
    found = Watched(root, clock or LoopClock(), interval)
    try:
        async with asyncio.timeout(PATIENCE):
            await found.check.watching.wait()
        yield found
    finally:
        await found.close()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a published file is overwritten": lambda top: overwrite(top / "weights/part"),
    "a published file is deleted": lambda top: (top / "config.json").unlink(),
    "a foreign file appears": lambda top: (top / "evil.py").write_bytes(b""),
    "a published file becomes unreadable": lambda top: (top / "config.json").chmod(0),
    "a whole snapshot is deleted": shutil.rmtree,
    "a whole snapshot is moved away": lambda top: top.rename(top.parents[3] / "elsewhere"),
    "current is changed": lambda top: (top.parent / "current").unlink(),
}


def overwrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"!")


@pytest.mark.parametrize("change", CHANGES)
async def test_changes_are_noticed_at_once(root: Path, change: str) -> None:
    async with watched(root) as agent:
        CHANGES[change](agent.store.paths.snapshot(*KEY))
        doubts = await agent.until_doubt()
        assert set(doubts) == {KEY}
        assert doubts[KEY]


async def test_the_hub_view_and_blobs_are_watched_as_well(root: Path) -> None:
    async with watched(root) as agent:
        paths = agent.store.paths
        (paths.hub_repo("team", "acme/other") / "snapshots" / OLD / "x").unlink()
        assert set(await agent.until_doubt()) == {("team", "other", OLD)}
        agent.store.restore("team", "other", OLD)

        blob = paths.blob(digest(WEIGHTS))
        blob.unlink()
        await asyncio.to_thread(wait_until, blob.exists)
        assert blob.samefile(paths.snapshot(*KEY) / "weights/part")
        assert KEY not in {key for doubts in agent.doubts for key in doubts}, "a lost blob is linked back, no more"


async def test_what_the_agent_does_itself_is_no_damage(root: Path) -> None:
    async with watched(root) as agent:
        for number in range(5):
            publish(agent.store, "model", FILES | {"config.json": b"%d" % number}, f"{number:040x}")
        agent.store.remove_model("team", "other")
        agent.store.collect_garbage()
        overwrite(agent.store.paths.snapshot("team", "model", f"{4:040x}") / "config.json")
        await agent.until_doubt()
        assert [set(doubts) for doubts in agent.doubts] == [{("team", "model", f"{4:040x}")}]


async def test_what_events_did_not_tell_is_found_by_looking(root: Path) -> None:
    """A change below a directory that nobody watches, because it was bound over it."""
    clock = FakeClock()
    async with watched(root, clock) as agent:
        os.utime(agent.store.paths.snapshot(*KEY) / "config.json", (1, 1))
        agent.tasks[0].cancel()  # no events any more
        await asyncio.wait([agent.tasks[0]])
        await passing(clock, PATROL_SECONDS, lambda: bool(agent.doubts))
        assert set(agent.doubts[-1]) == {KEY}


async def test_the_scrub_reads_what_is_due_and_finds_what_a_disk_did_by_itself(root: Path) -> None:
    clock = FakeClock()
    async with watched(root, clock, interval=1e-9) as agent:
        flip(agent.store.paths.snapshot(*KEY) / "weights/part", 99)
        agent.doubts.clear()
        await passing(clock, SCRUB_FIRST_SECONDS, lambda: bool(agent.doubts))
        assert set(agent.doubts[0]) == {KEY}
        assert agent.doubts[0][KEY] == ()
        assert agent.read >= len(WEIGHTS)
        assert agent.check.round.ratio is not None


LOSSES: dict[str, Callable[[Path], object]] = {
    "the root is deleted": lambda root: shutil.rmtree(root),
    "the root is renamed": lambda root: root.rename(root.with_name("old")),
    "another directory is in its place": lambda root: root.rename(root.with_name("old")).with_name(root.name).mkdir(),
    "the lock file is deleted": lambda root: (root / "agent.lock").unlink(),
    "the index is deleted": lambda root: (root / "state.sqlite3").unlink(),
    "the models are deleted": lambda root: shutil.rmtree(root / "models"),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_an_agent_whose_root_is_gone_withdraws_and_ends(root: Path, loss: str) -> None:
    clock = FakeClock()
    async with watched(root, clock) as agent:
        LOSSES[loss](root)
        error = await agent.ended(clock)
        assert isinstance(error, StoreUnusable)
        assert str(root) in str(error)
        assert agent.withdrawn


def command(*arguments: str | Path) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(list(map(str, arguments)), capture_output=True, check=False).returncode == 0


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A cache with a model on a file system of its own."""
    place = tmp_path / "mounted"
    place.mkdir()
    if os.geteuid() != 0 or not command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place):
        pytest.skip("needs the right to mount")
    with Store.open(place) as store:
        publish(store, "model", FILES)
    yield place
    while command("umount", place):
        pass


@pytest.mark.parametrize("vanish", [("umount", "--lazy"), ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs")])
async def test_a_mount_that_vanishes_or_is_mounted_over_ends_the_agent(mounted: Path, vanish: tuple[str, ...]) -> None:
    clock = FakeClock()
    async with watched(mounted, clock) as agent:
        assert command(*vanish, mounted)
        assert isinstance(await agent.ended(clock), StoreUnusable)
        assert agent.withdrawn


async def test_a_root_that_becomes_read_only_keeps_what_it_has(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    async with watched(mounted, clock) as agent:
        assert command("mount", "--bind", mounted, mounted)
        assert command("mount", "-o", "remount,bind,ro", mounted)
        await passing(clock, VITALS_SECONDS, lambda: "has become read-only" in caplog.text)
        with pytest.raises(StoreIOError, match="remount the file system of the cache root read-write"):
            agent.store.set_current(*KEY)
        assert agent.store.quick_check(*KEY) == []
        assert all(not task.done() for task in agent.tasks)
        assert command("umount", mounted)
        with caplog.at_level("INFO"):
            await passing(clock, VITALS_SECONDS, lambda: "can be written again" in caplog.text)
        agent.store.set_current(*KEY)
        assert agent.doubts == []


# The whole agent


def is_ready(model: ModelReport) -> bool:
    return model.phase == PHASE_READY


def ours(node: TestNode) -> dict[str, str]:
    return {key: value for key, value in node.labels().items() if is_ours(key)}


async def test_damage_under_a_running_agent_is_mended_piece_by_piece_while_readers_keep_theirs(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    data = content(3 * PIECE + 5)
    repository = hub.hub.add(Repository("acme/large", {"config.json": b"{}", "model.safetensors": data}))
    manifest = manifest_of(repository)
    labels = model_labels("team-a", "large", manifest.revision)
    controller.know(manifest)
    await controller.want(wish("team-a", "large", manifest, hub_ref="main"))
    start_agent()
    await controller.until_model("team-a", "large", is_ready)
    assert ours(node) == labels
    hub.hub.stats.reset()
    path = cache / "models/team-a/large/current/model.safetensors"
    with node.watch() as watch, path.open("rb") as reader:
        flip(path, PIECE + 77)
        os.utime(path)  # somebody wrote; without it only the scrub would see
        repaired = await controller.until_model(
            "team-a", "large", lambda model: "FilesRepaired" in {finding.reason for finding in model.findings}
        )
        states = await asyncio.to_thread(watch.until, lambda labels: bool(labels))
        assert {} in states[:-1] or states[0] == {}, "the label was withdrawn"
        assert ours(node) == labels
        assert reader.read() != data
    assert path.read_bytes() == data
    assert hub.hub.stats.file_bytes == PIECE, "one piece was fetched"
    assert [finding.reason for finding in repaired.findings] == ["FilesDamaged", "FilesRepaired"]


async def test_a_deleted_root_takes_the_labels_along(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    repository = hub.hub.add(Repository("acme/small", {"config.json": b"{}"}))
    manifest = manifest_of(repository)
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest))
    agent = start_agent()
    await controller.until_model("team-a", "small", is_ready)
    await asyncio.to_thread(cache.rename, cache.with_name("old"))
    assert await asyncio.to_thread(agent.wait) == 1
    assert ours(node) == {}
    assert "the cache root was deleted" in agent.logs()
    start_agent()
    await controller.until_model("team-a", "small", is_ready, after=len(controller.reports))
    assert ours(node) == model_labels("team-a", "small", manifest.revision)
