"""How fast does a group of nodes get a model, and how often is the origin read for it?

Every node is a process with the real store, transfer engine and peer server, in a network namespace of its own with a link of
`--rate`; the origin has a link of the same rate, so that N nodes without each other have to share it. Where there can be no
namespaces (they need root and iproute2), all is on loopback, and nodes and origin limit themselves. Measured, one after
the other:

    one            one node alone
    together       N nodes as a swarm
    independent    N nodes, each for itself (`--no-independent` leaves it out: it takes N times as long as one)
    faults         (with `--faults`) a swarm in which one node is killed in the middle and another serves garbage with
                   digests that fit, so that only the digest of the whole file tells

The ideal is the time that the link of one node needs for the model, and nothing else.

    python -m benchmarks.fanout [--nodes N] [--bytes N] [--rate BYTES_PER_SECOND] [--faults] [--loopback] [--no-independent]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks import netns, report
from benchmarks.origin import REPOSITORY, environment, random_files
from benchmarks.plain_origin import PlainOrigin
from modelcache.manifest import Manifest, ManifestFile, Sha256

MIB = 1 << 20
FILE = "model.safetensors"
KILLED, LIAR = 1, 2
"""Numbers of the nodes that go bad with `--faults`."""


class Setting(NamedTuple):
    """What is the same in all runs. `network` None: loopback."""

    directory: Path
    manifest: Path
    size: int
    sha256: str
    rate: float
    network: netns.Network | None

    def address(self, number: int) -> str:
        """Of node `number`; 0 is the origin."""
        return self.network.address(number) if self.network is not None else "127.0.0.1"

    def inside(self, number: int) -> list[str]:
        """What to put in front of a command of node `number`."""
        return self.network.inside(number) if self.network is not None else []

    @property
    def own_limit(self) -> float | None:
        """What processes have to hold to because no link does."""
        return self.rate if self.network is None else None


class Run(NamedTuple):
    """One run. `seconds` is until the last node had verified everything."""

    seconds: float
    origin_bytes: int
    dropped: frozenset[str]


class Node:
    """A node's process; a context manager."""

    def __init__(self, setting: Setting, number: int, url: str, root: Path, *, garbage: bool) -> None:
        self.name = f"node-{number}"
        options = ["--garbage"] if garbage else []
        if setting.own_limit is not None:
            options += ["--rate", str(setting.own_limit)]
        self._process = subprocess.Popen(
            [
                *setting.inside(number), sys.executable, "-m", "benchmarks.fanout_node", self.name, str(root / self.name),
                setting.address(number), str(setting.manifest), url, *options,
            ],
            cwd=REPOSITORY, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = ""

    def __enter__(self) -> Self:
        self.address = str(self.said()["address"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def tell(self, message: str) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(message + "\n")
        self._process.stdin.flush()

    def said(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError when the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended before its time; what it said is above")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


def run(setting: Setting, count: int, *, together: bool, faults: bool = False) -> Run:
    """`count` nodes download the model. Raises RuntimeError when one of those that are to finish does not, or not rightly."""
    with (
        tempfile.TemporaryDirectory(dir=setting.directory) as root,
        PlainOrigin(setting.manifest.parent, setting.address(0), setting.own_limit, setting.inside(0)) as origin,
        contextlib.ExitStack() as stack,
    ):
        made = [
            Node(setting, number, origin.url, Path(root), garbage=faults and number == LIAR)
            for number in range(1, count + 1)
        ]
        nodes = [stack.enter_context(node) for node in made]
        for node in nodes:
            peers = [(other.name, other.address) for other in nodes if other is not node] if together else []
            node.tell(json.dumps({"peers": peers}))
        started = time.perf_counter()
        for node in nodes:
            node.tell("go")
        if faults:
            while origin.bytes < setting.size // 2:
                time.sleep(0.05)
            nodes[KILLED - 1].kill()
        staying = [node for number, node in enumerate(nodes, 1) if not (faults and number == KILLED)]
        done = [node.said() for node in staying]
        seconds = time.perf_counter() - started
        for node, result in zip(staying, done, strict=True):
            if result["digests"] != {FILE: setting.sha256}:
                raise RuntimeError(f"{node.name} has {result['digests']}, not {setting.sha256}")
        dropped = frozenset(name for result in done for name in result["dropped"])
        return Run(seconds, origin.bytes, dropped)


def main(arguments: Sequence[str] | None = None) -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--bytes", type=int, default=256 * MIB)
    parser.add_argument("--rate", type=float, default=20.0 * MIB, help="of every link, bytes/s each way")
    parser.add_argument("--faults", action="store_true", help="also kill a node and let another one serve garbage")
    parser.add_argument("--loopback", action="store_true", help="no network namespaces")
    parser.add_argument("--no-independent", dest="independent", action="store_false")
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args(arguments)
    if options.faults and options.nodes < LIAR + 1:
        parser.error("--faults needs three nodes at least")
    obstacle = "--loopback was given" if options.loopback else netns.available()
    rates = (options.rate,) * (options.nodes + 1)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory, contextlib.ExitStack() as stack:
        network = stack.enter_context(netns.Network(rates)) if not obstacle else None
        setting = _prepare(Path(directory), options.bytes, options.rate, network)
        one = run(setting, 1, together=False)
        together = run(setting, options.nodes, together=True)
        independent = run(setting, options.nodes, together=False) if options.independent else None
        faults = run(setting, options.nodes, together=True, faults=True) if options.faults else None
    ideal = options.bytes / options.rate
    rows = [("one alone", one), ("together", together), ("independent", independent), ("together, faults", faults)]
    report.show(
        f"{options.nodes} nodes, {options.bytes / MIB:.0f} MiB, every link {options.rate / MIB:.0f} MiB/s, ideal {ideal:.1f} s",
        ("", "seconds", "x one", "x ideal", "origin bytes / model"),
        [
            (name, done.seconds, done.seconds / one.seconds, done.seconds / ideal, done.origin_bytes / options.bytes)
            for name, done in rows
            if done is not None
        ],
        [
            "Links: network namespaces, limited with tc."
            if network is not None
            else f"Links: loopback, processes limit themselves ({obstacle}).",
            *([f"With faults, dropped as liars: {', '.join(sorted(faults.dropped)) or 'nobody'}."] if faults else []),
        ],
    )
    result: dict[str, object] = {
        "nodes": options.nodes,
        "origin_ratio": together.origin_bytes / options.bytes,
        "wall_ratio_one": together.seconds / one.seconds,
        "wall_ratio_ideal": together.seconds / ideal,
        "wall_ratio_independent": together.seconds / independent.seconds if independent is not None else None,
        "links": "netns" if network is not None else "process",
    }
    if faults is not None:
        result["faults"] = {
            "nodes": options.nodes,
            "finished": options.nodes - 1,
            "origin_ratio": round(faults.origin_bytes / options.bytes, 4),
            "wall_ratio_one": round(faults.seconds / one.seconds, 4),
            "wall_ratio_ideal": round(faults.seconds / ideal, 4),
            "dropped": sorted(faults.dropped),
        }
    report.finish(result)
    return 0


def _prepare(directory: Path, size: int, rate: float, network: netns.Network | None) -> Setting:
    """Makes the model and its manifest."""
    files = directory / "files"
    random_files(files, {FILE: size})
    with (files / FILE).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest.build(
        "hf://bench/fanout", "0" * 40, [ManifestFile(path=FILE, size=size, sha256=Sha256(sha256))]
    )
    path = files / "manifest.json"
    path.write_bytes(manifest.encode())
    return Setting(directory, path, size, sha256, rate, network)


if __name__ == "__main__":
    sys.exit(main())
