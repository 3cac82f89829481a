"""How long does it take from a worker that is Ready to an adapter that is loaded, and does a restless fleet settle?

A local cluster of real processes (controller, one agent for each node, an API server, a hub); the workers are the stand-ins of
`local.workers`, each refusing what goes beyond `--engine-limit` loads at once. Every adapter belongs into every worker.

    first     all adapters are fetched and loaded into all workers; how long that takes is told, not judged
    ready     one worker after the other is restarted; for each adapter, the time from the worker being Ready until its
              engine has it. The files are on the node's disk by then. `p50_s` and `p99_s` are of these
    churn     (with `--churn SECONDS`) restarts, moves, deletions and updates at random, then the time until the status of
              every DynamoModel and the workers' own lists are the same

    python -m benchmarks.lora [--adapters N] [--pods N] [--nodes N] [--restarts N] [--churn SECONDS] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks import report
from benchmarks.churn import BASE_MODEL, Adapter, Fleet, until, write_adapters
from cli.cluster import LocalCluster
from local.hub.hub import Hub
from local.hub.layout import load
from local.hub.server import HubServer
from local.supervisor import log_tail
from local.workers.container import Container
from local.workers.switches import Switches
from local.workers.workers import Workers
from modelcache.kube.client import KubeClient

NAMESPACE = "default"
TIMEOUT = 600.0


async def main() -> int:
    """Run it; 0 when everything was loaded, and agreed upon in the end."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="lora-benchmark-") as text:
        directory = Path(text)
        versions = ("main", "v2") if options.churn else ("main",)
        adapters = write_adapters(directory / "repositories", options.adapters, versions)
        with HubServer(Hub(load([str(directory / "repositories")]))) as hub:
            os.environ["HF_ENDPOINT"] = hub.url
            async with _cluster(directory / "cluster", options.nodes) as cluster:
                try:
                    result = await _measure(options, cluster, adapters)
                except TimeoutError as error:
                    print(
                        f"{error}\nEnd of the controller's log:\n{log_tail(cluster.log('controller'), 40)}",
                        file=sys.stderr,
                    )
                    return 1
    return _tell(options, result)


class Result(NamedTuple):
    """What was measured, in seconds. `times` are from Ready to loaded; `settled` None without churn."""

    loaded: int
    first: float
    times: list[float]
    peak: int
    disturbances: dict[str, int]
    settled: float | None


async def _measure(options: argparse.Namespace, cluster: LocalCluster, adapters: Sequence[Adapter]) -> Result:
    """Raises TimeoutError when not everything gets loaded, or there is no agreement."""
    mounts = {"/models": str(cluster.directory.resolve() / "nodes" / "{node}" / "models" / "{namespace}")}
    switches = Switches(max_loads=options.engine_limit, load_seconds=options.load_seconds)
    async with KubeClient.connect(cluster.kubeconfig, user_agent="modelcache-benchmark") as client:
        workers = Workers(client, namespace=NAMESPACE, base_model=BASE_MODEL, mounts=mounts, switches=switches)
        async with workers:
            fleet = Fleet(client, NAMESPACE, workers, cluster.nodes, adapters)
            started = time.monotonic()
            await fleet.populate(options.pods)
            await fleet.until_agreed(TIMEOUT)
            first = time.monotonic() - started
            loaded = sum(len(container.engine.adapters) for container in workers.containers)
            times: list[float] = []
            for container in workers.containers[: options.restarts or options.pods]:
                times += await _reload(container, len(adapters))
            peak = max(container.engine.counts.peak_loads for container in workers.containers)
            settled = None
            if options.churn:
                await fleet.churn(Random(options.seed), seconds=options.churn, pause=options.pause)
                settled = await fleet.until_agreed(TIMEOUT)
    return Result(loaded, first, times, peak, dict(fleet.done), settled)


async def _reload(container: Container, count: int) -> list[float]:
    """Restart a worker; for each adapter the seconds from the worker being Ready until its engine has it."""
    await container.restart()
    async with asyncio.timeout(TIMEOUT):
        await until(lambda: len(container.engine.adapters) == count)
    ready = container.state.ready_since
    if ready is None:
        raise TimeoutError(f"{container.spec.name} is not Ready any more")
    return [loaded.loaded_at - ready for loaded in container.engine.adapters.values()]


def _tell(options: argparse.Namespace, result: Result) -> int:
    times = sorted(result.times)
    p50, p99 = _percentile(times, 50), _percentile(times, 99)
    wanted = options.adapters * options.pods
    rows: list[tuple[str, float | None]] = [
        ("adapters x pods loaded", float(result.loaded)),
        ("all fetched and loaded, s", result.first),
        ("Ready to loaded, p50, s", p50),
        ("Ready to loaded, p99, s", p99),
        ("most loads at once in one engine", float(result.peak)),
        ("agreement after the churn, s", result.settled),
    ]
    notes = [f"{len(times)} loads after restarts; {options.engine_limit} loads at once allowed by each engine"]
    if result.disturbances:
        notes.append("churn: " + ", ".join(f"{count} {name}" for name, count in sorted(result.disturbances.items())))
    title = f"{options.adapters} adapters, {options.pods} pods, {options.nodes} nodes"
    report.show(title, ("", "measured"), rows, notes)
    report.finish(
        {
            "adapters": options.adapters,
            "pods": options.pods,
            "nodes": options.nodes,
            "loaded": result.loaded,
            "first_s": result.first,
            "p50_s": p50,
            "p99_s": p99,
            "peak_loads": result.peak,
            "disturbances": sum(result.disturbances.values()),
            "agreed_s": result.settled,
        }
    )
    return 0 if result.loaded == wanted and result.peak <= options.engine_limit else 1


def _percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank, of sorted values."""
    return values[max(0, -(-percent * len(values) // 100) - 1)]


@contextlib.asynccontextmanager
async def _cluster(directory: Path, nodes: int) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(directory, nodes, lambda text: print(text, file=sys.stderr))
    try:
        await cluster.start(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        yield cluster
    finally:
        await cluster.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lora", description="LoRA adapters: from Ready to loaded."
    )
    parser.add_argument("--adapters", type=int, default=100, help="adapters, each for every pod (default 100)")
    parser.add_argument("--pods", type=int, default=50, help="worker pods (default 50)")
    parser.add_argument("--nodes", type=int, default=10, help="nodes (default 10)")
    parser.add_argument("--restarts", type=int, default=0, help="workers to restart and time (default: all)")
    parser.add_argument("--engine-limit", type=int, default=4, help="loads at once that an engine takes (default 4)")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="what an engine needs for one load (default 0)")
    parser.add_argument(
        "--churn", type=float, default=0.0, help="seconds of random disturbances at the end (default 0)"
    )
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two disturbances (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
