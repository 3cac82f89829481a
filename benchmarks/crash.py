"""What does `kill -9` at any moment leave behind? Nothing that is wrong, nothing that takes room, and nothing is missing.

A process works on a cache (it downloads, publishes, deletes, evicts, or repairs damage) and is killed at a moment that is
random in time, between its first step and somewhat after its last. Then the cache is opened as the next agent opens it,
tidied up as that agent does, and judged from outside, by reading the disk:

    corrupt        published files, in both views, whose content is not what their model should have, or of which the agent's
                   own quick check would say so
    leaked_bytes   bytes of the disk that neither a published model needs nor the download that goes on
    lost           revisions that were published before, were not to be removed, and are not there

One cache goes through all points, so that what a crash leaves is there at the next one. A repair is killed over damage that
it was to mend: everything else is judged at once, the damaged content after the next repair, which is not disturbed.

Content comes from a directory in the place of an origin: fetching, checking, journals and commits are the same.

    python -m benchmarks.crash [--points N] [--seed N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agent.content import Known, needed_by
from agent.room import Room, Storage
from agent.store import Hold, HubClaim, Keep, Store
from agent.transfer import Downloader, TransferSettings
from benchmarks import report
from modelcache.kube.clock import LoopClock
from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.paths import CachePaths
from modelcache.sources.base import Location

NAMESPACE = "bench"
PIECE = 64 * 1024
SIZES = (20 * PIECE + 11, 7 * PIECE, PIECE, 3000, 40, 0)
"""Bytes of the files of a model: many pieces, some, one, and small ones."""
MODELS = 6
EXCESS = 10 * PIECE
"""Bytes that an eviction has to free: what one revision has for itself is enough."""
LATE = 1.15
"""The last moment of a kill, in times that the work takes undisturbed."""


Key = tuple[str, str]
"""Name and snapshot of a model."""


class Model(NamedTuple):
    """A model as its source has it. Two revisions share half of their files; all models share one."""

    name: str
    manifest: Manifest
    contents: Mapping[str, bytes]

    @property
    def key(self) -> Key:
        """Its name and snapshot."""
        return (self.name, self.manifest.snapshot)


class World(NamedTuple):
    """The cache, the directory that stands for the origin, and all models."""

    root: Path
    origin: Path
    models: Sequence[Model]

    def locate(self, file: ManifestFile) -> Location:
        """Where a file is read."""
        return Location((self.origin / str(file.sha256)).as_uri(), {})


class Findings(NamedTuple):
    """What was found after a kill; see the module."""

    corrupt: int
    leaked_bytes: int
    lost: int


class Point(NamedTuple):
    """One kill. `too_late`: the work had ended before."""

    work: str
    too_late: bool
    found: Findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    given = _parser().parse_args(arguments)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="bench-crash-", dir=given.directory) as name:
        points = crash(make_world(Path(name), rng), given.points, rng)
    rows = []
    for work in sorted(WORK):
        of_work = [point for point in points if point.work == work]
        late = sum(point.too_late for point in of_work)
        rows.append([work, len(of_work), late, *total(of_work)])
    columns = ["killed during", "kills", "too late", "corrupt files", "leaked bytes", "lost revisions"]
    report.show(f"{len(points)} kills, seed {given.seed}", columns, rows)
    report.finish({"points": len(points), **total(points)._asdict(), "seed": given.seed})
    return 0


def total(points: Sequence[Point]) -> Findings:
    """All findings together."""
    return Findings(*(sum(values) for values in zip((0, 0, 0), *(point.found for point in points), strict=True)))


def make_world(directory: Path, rng: random.Random) -> World:
    """Models of random content, two revisions of each."""
    origin = directory / "origin"
    origin.mkdir()
    shared = rng.randbytes(5 * PIECE)
    models = []
    for number in range(MODELS):
        common = {f"common-{index}": rng.randbytes(size) for index, size in enumerate(SIZES[::2])}
        for revision in ("a", "b"):
            own = {f"own/{index}": rng.randbytes(size) for index, size in enumerate(SIZES)}
            contents = {"shared": shared, **common, **own}
            entries = [
                ManifestFile(path=path, size=len(data), sha256=Sha256(hashlib.sha256(data).hexdigest()))
                for path, data in contents.items()
            ]
            for data in contents.values():
                (origin / hashlib.sha256(data).hexdigest()).write_bytes(data)
            manifest = Manifest.build(f"hf://bench/{number}", revision * 40, entries)
            models.append(Model(f"model-{number}", manifest, contents))
    return World(directory / "cache", origin, models)


def crash(world: World, points: int, rng: random.Random) -> list[Point]:
    """Kills so many pieces of work, one after the other, on one cache."""
    seconds = dict.fromkeys(WORK, 0.1)
    found: list[Point] = []
    wanted: Model | None = None
    while len(found) < points:
        work = rng.choice(sorted(WORK))
        before = published(world)
        fitting = [model for model in world.models if (model.key in before) != (work in ("download", "publish"))]
        if not fitting:
            continue
        model = wanted if wanted in fitting and rng.random() < 0.5 else rng.choice(fitting)
        damaged = ""
        if work == "download":
            wanted = model
        elif work == "publish":
            killed_after(math.inf, partial(download, world, model))
            wanted = model
        elif work == "repair":
            damaged = damage(world, model, rng)
        gone: set[Key] = set()
        if work == "evict":
            gone = victims(world, model)
        elif work == "delete":
            gone = {key for key in before if key[0] == model.name}
        began = time.perf_counter()
        too_late = killed_after(rng.uniform(0.0, seconds[work] * LATE), partial(WORK[work], world, model))
        # How long the work takes undisturbed is only seen when the kill comes too late; so some of them have to.
        seconds[work] = time.perf_counter() - began if too_late else seconds[work] * 1.1
        findings = judge(world, before - gone, wanted, damaged)
        if damaged:
            killed_after(math.inf, partial(repair, world, model))
            findings = Findings(*map(sum, zip(findings, judge(world, before, wanted, ""), strict=True)))
        found.append(Point(work, too_late, findings))
    return found


def published(world: World) -> set[Key]:
    """What is published, as the disk says."""
    with Store.open(world.root) as store:
        return {(row.name, row.snapshot) for row in store.published()}


def killed_after(seconds: float, work: Callable[[], None]) -> bool:
    """Runs `work` in a fork that is killed after so many seconds; whether it had ended before. RuntimeError if it failed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # the fork must not go on as its parent
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    until = time.perf_counter() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or time.perf_counter() >= until:
            break
        time.sleep(0.0005)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("the work failed; what it said is above")
    return True


# The work


def download(world: World, model: Model) -> None:
    """Brings the content of a model into the store."""
    with Store.open(world.root) as store, store.hold() as hold:
        _fetch(store, world, model, hold)


def publish(world: World, model: Model) -> None:
    """Publishes a model whose content is there."""
    with Store.open(world.root) as store:
        claim = HubClaim(repo_id=f"bench/{model.name}", commit=model.manifest.revision, ref="main")
        store.publish(NAMESPACE, model.name, model.manifest, claim)
        store.set_current(NAMESPACE, model.name, model.manifest.snapshot)


def delete(world: World, model: Model) -> None:
    """Removes a model with all of its revisions, and what only they needed."""
    with Store.open(world.root) as store:
        store.remove_model(NAMESPACE, model.name)
        store.collect_garbage()


def evict(world: World, model: Model) -> None:
    """Leaves a model to the cache, and makes room: what goes, and how, is the business of `agent.room`."""
    with Store.open(world.root) as store:
        store.release(NAMESPACE, model.name)
        room = _room(store)
        asyncio.run(room.evict(asyncio.run(room.excess()).victims))


def victims(world: World, model: Model) -> set[Key]:
    """The revisions that `evict` removes, as the agent chooses them: least recently used first."""
    with Store.open(world.root) as store:
        chosen = asyncio.run(_room(store, model.name).excess())
    return {(name, snapshot) for _, name, snapshot in chosen.victims}


def _room(store: Store, released: str = "") -> Room:
    """The room of a node that lacks EXCESS bytes. Revisions in force stay, but for those of the model `released`."""

    async def drop(keys: Iterable[tuple[str, str, str]]) -> None:
        for key in keys:
            store.remove_snapshot(*key, spare_current=True)
        store.collect_garbage()

    room = Room(Storage(store.census.snapshots, lambda: 0, lambda: EXCESS), LoopClock())
    room.attach(kept=lambda row: "in force" if row.current and row.name != released else "", drop=drop, refused=list)
    return room


def repair(world: World, model: Model) -> None:
    """Reads a model, fetches what is bad in it, and puts good files in place wherever the content is published."""
    with Store.open(world.root) as store:
        for sha256 in sorted({str(file.sha256) for file in model.manifest.files}):
            store.patrol.scrub(sha256, lambda count: None)
        for each in world.models:
            key = (NAMESPACE, *each.key)
            problems = store.patrol.look(key)
            for sha256 in {problem.sha256 for problem in problems if problem.sha256}:
                store.verify_blob(sha256)
            if problems:
                with store.hold() as hold:
                    _fetch(store, world, each, hold)
                    store.restore(*key)


WORK: dict[str, Callable[[World, Model], None]] = {
    "download": download,
    "publish": publish,
    "delete": delete,
    "evict": evict,
    "repair": repair,
}


def _fetch(store: Store, world: World, model: Model, hold: Hold) -> None:
    with Downloader(store, TransferSettings(piece_bytes=PIECE, reserve_bytes=0)) as downloader:
        downloader.fetch(model.manifest, world.locate, namespace=NAMESPACE, hold=hold)


def damage(world: World, model: Model, rng: random.Random) -> str:
    """Damages one published file: a bit turns over without another trace, it is cut off, or another takes its place.

    Returns the sha256 that it should have.
    """
    name = rng.choice([path for path, data in model.contents.items() if data])
    path = CachePaths(world.root).snapshot(NAMESPACE, *model.key) / name
    found, data = path.stat(), bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "replace"])
    path.chmod(0o644)
    if kind == "replace":
        path.unlink()
        path.write_bytes(rng.randbytes(len(data)))
    elif kind == "cut":
        os.truncate(path, rng.randrange(len(data)))
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with path.open("r+b") as file:
            file.write(data)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    path.chmod(0o444)
    return hashlib.sha256(model.contents[name]).hexdigest()


# The judge


def judge(world: World, expected: set[Key], wanted: Model | None, damaged: str) -> Findings:
    """Opens the cache as the next agent does, lets it tidy up, and reads everything but the content `damaged`."""
    keep = needed_by(NAMESPACE, Known.of(wanted.manifest, wanted.manifest.digest), {}) if wanted is not None else Keep()
    with Store.open(world.root) as store:
        store.collect_garbage(keep)
        now = {(row.name, row.snapshot) for row in store.published()}
        # As the agent does at its start: a quick look, and a thorough one at what nobody has read since it was published.
        corrupt = 0
        for row in store.published():
            problems = store.patrol.look(row.key) or (store.deep_check(*row.key) if row.verified_at is None else [])
            corrupt += sum(problem.sha256 != damaged for problem in problems)
    there = [model for model in world.models if model.key in now]
    corrupt += sum(wrong_files(world, model, damaged) for model in there)
    blobs = {str(file.sha256) for model in there for file in model.manifest.files} | keep.blobs
    records = {f"{model.manifest.snapshot}.json" for model in there}
    manifests = {model.manifest.digest for model in there} | keep.manifests
    leak = leaked(CachePaths(world.root), blobs, keep.partials, manifests | records, links=not damaged)
    return Findings(corrupt, leak, len(expected - now))


def wrong_files(world: World, model: Model, damaged: str) -> int:
    """Files of a published model, in both views, whose content is not what it should be."""
    paths = CachePaths(world.root)
    views = [
        paths.snapshot(NAMESPACE, *model.key),
        paths.hub_repo(NAMESPACE, f"bench/{model.name}") / "snapshots" / model.manifest.revision,
    ]
    return sum(
        _content(view / path) != data
        for view in views
        for path, data in model.contents.items()
        if hashlib.sha256(data).hexdigest() != damaged
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def leaked(
    paths: CachePaths, blobs: AbstractSet[str], partials: AbstractSet[str], rest: AbstractSet[str], *, links: bool
) -> int:
    """Bytes of what lies in the cache and is not needed: names that nothing needs, and with `links`, published files that
    are no links to blobs and so take room of their own.
    """
    count = _bytes(paths.staging)
    for top, needed in ((paths.blobs, blobs), (paths.manifests, rest), (paths.records, rest)):
        count += sum(_bytes(path) for path in top.rglob("*") if path.is_file() and path.name not in needed)
    count += sum(_bytes(path) for path in paths.partial.iterdir() if path.name not in partials)
    if links:
        inodes = {path.stat().st_ino for path in paths.blobs.rglob("*") if path.is_file()}
        published = {
            path.stat().st_ino: path
            for top in (paths.models, paths.hub)
            for path in top.rglob("*")
            if path.is_file() and "refs" not in path.parts
        }
        count += sum(_bytes(path) for inode, path in published.items() if inode not in inodes)
    return count


def _bytes(path: Path) -> int:
    """What a file, or all files below a directory, take on the disk."""
    if path.is_dir() and not path.is_symlink():
        return sum(_bytes(below) for below in path.iterdir())
    return path.lstat().st_blocks * 512


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=500, help="how often to kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the cache is made (default: the temporary directory)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
