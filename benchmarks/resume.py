"""What does `kill -9` cost? An agent process is killed at random moments, and started again until the model is there.

The moments are random in time, from when the process is told to fetch until somewhat after an undisturbed download would
have ended: so they hit resolving, moving bytes, syncing and publishing, and few of them come when nothing is lost.
When a model is complete, all its files are hashed by this program and the next one is begun in an empty cache, until there
were enough kills.

Bytes fetched twice are counted where they come from: everything the origin handed to the kernel beyond once the model for
each cache. That includes what was in socket buffers when the process died.

    python -m benchmarks.resume [--kills N] [--bytes N] [--files N] [--file-bytes N] [--seed N] [--directory DIR]

`refetched_bytes_per_kill` is to be compared with `piece_bytes` times `connections`; `corrupt` counts files of wrong content.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import report
from benchmarks.agent_process import DEFAULTS, NAME, NAMESPACE, AgentProcess, Done
from benchmarks.origin import Origin, random_files
from modelcache.paths import CachePaths

MIB, GIB = 1 << 20, 1 << 30
REPOSITORY = "bench/resume"
LATE = 1.1
"""The last moment of a kill, in times that an undisturbed download takes."""


class Kill(NamedTuple):
    """One run of the process that ended with SIGKILL, so many seconds after it was told to fetch."""

    seconds: float
    fetched: int
    """Bytes from the origin between this start and the kill."""


class Options(NamedTuple):
    """How the process is started."""

    connections: int
    piece_bytes: int

    def agent(self, root: Path, origin: Origin) -> AgentProcess:
        """Starts it."""
        return AgentProcess(
            root, REPOSITORY, origin.url, f"--connections={self.connections}", f"--piece-bytes={self.piece_bytes}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    given = _parser().parse_args(arguments)
    options = Options(given.connections, given.piece_bytes)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="bench-resume-", dir=given.directory) as name:
        directory = Path(name)
        sizes = {f"model-{number:05}.safetensors": given.file_bytes for number in range(given.files)}
        size = random_files(directory / "origin" / REPOSITORY, {"model.safetensors": given.bytes, **sizes})
        with Origin(directory / "origin") as origin:
            undisturbed, corrupt = _undisturbed(options, origin, directory)
            overhead = origin.file_bytes - size
            kills: list[Kill] = []
            models = 1
            while len(kills) < given.kills:
                root = directory / f"cache-{models}"
                more, done = _model(options, origin, root, rng, undisturbed * LATE, given.kills - len(kills))
                kills += more
                models += 1
                corrupt += _corrupt(root, done, directory / "origin" / REPOSITORY)
                shutil.rmtree(root)
            refetched = origin.file_bytes - models * size
    allowed = options.piece_bytes * options.connections
    per_kill = refetched / len(kills) if kills else 0.0
    report.show(
        f"{len(kills)} kills during {models - 1} downloads of {size / MIB:,.0f} MiB, seed {given.seed}",
        ["what", "value"],
        [
            ["undisturbed download, s", undisturbed],
            ["fetched twice without a kill, MiB", overhead / MIB],
            ["seconds until the kill, mean", sum(kill.seconds for kill in kills) / len(kills) if kills else None],
            ["kills before the first byte", sum(not kill.fetched for kill in kills)],
            ["fetched twice, all kills, MiB", refetched / MIB],
            ["fetched twice per kill, MiB", per_kill / MIB],
            ["one piece per connection, MiB", allowed / MIB],
            ["files of wrong content", corrupt],
        ],
    )
    report.finish(
        {
            "kills": len(kills),
            "refetched_bytes_per_kill": per_kill,
            "piece_bytes": options.piece_bytes,
            "connections": options.connections,
            "corrupt": corrupt,
            "seed": given.seed,
        }
    )
    return 0


def _undisturbed(options: Options, origin: Origin, directory: Path) -> tuple[float, int]:
    """Seconds from when a process is told to fetch to its end, and how many files were wrong."""
    root = directory / "cache-0"
    with options.agent(root, origin) as agent:
        agent.ready()
        before = time.perf_counter()
        agent.go()
        done = agent.done()
        seconds = time.perf_counter() - before
    corrupt = _corrupt(root, done, directory / "origin" / REPOSITORY)
    shutil.rmtree(root)
    return seconds, corrupt


def _model(
    options: Options, origin: Origin, root: Path, rng: random.Random, latest: float, most: int
) -> tuple[list[Kill], Done]:
    """Downloads into `root` with up to `most` kills until it is complete."""
    kills: list[Kill] = []
    while len(kills) < most:
        before = origin.file_bytes
        moment = rng.uniform(0.0, latest)
        with options.agent(root, origin) as agent:
            agent.ready()
            started = time.perf_counter()
            agent.go()
            if agent.ended_within(moment):
                return kills, agent.done()
            agent.kill()
            seconds = time.perf_counter() - started
        _settled(origin)
        kills.append(Kill(seconds, origin.file_bytes - before))
    with options.agent(root, origin) as agent:
        agent.ready()
        agent.go()
        return kills, agent.done()


def _settled(origin: Origin) -> None:
    """Waits until the origin has noticed that its client is gone, and has taken back what it could not send."""
    pause = threading.Event()
    deadline = time.monotonic() + 60
    while origin.open_bodies:
        if time.monotonic() > deadline:
            raise RuntimeError("the origin still sends, 60 s after its client was killed")
        pause.wait(0.005)


def _corrupt(root: Path, done: Done, origin: Path) -> int:
    """How many files of a published model are missing or differ from those of the origin."""
    published = CachePaths(root).snapshot(NAMESPACE, NAME, done["snapshot"])
    wrong = 0
    for file in origin.iterdir():
        copy = published / file.name
        wrong += not copy.is_file() or _sha256(copy) != _sha256(file)
    return wrong


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resume",
        description="Kill an agent at random moments and count what is fetched twice.",
    )
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--bytes", type=int, default=2 * GIB, help="of the large file of the model (default 2 GiB)")
    parser.add_argument("--files", type=int, default=40, help="smaller files beside it (default 40)")
    parser.add_argument("--file-bytes", type=int, default=10 * MIB, help="of each of them (default 10 MiB)")
    parser.add_argument("--connections", type=int, default=DEFAULTS.connections, help="of the agent")
    parser.add_argument("--piece-bytes", type=int, default=DEFAULTS.piece_bytes, help="of the agent")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments (default 1)")
    parser.add_argument("--directory", type=Path, help="where to put everything (default: for temporary files)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
