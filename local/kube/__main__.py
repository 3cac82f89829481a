"""`python -m local.kube`: serve the Kubernetes API on loopback until a signal."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

from aiohttp import web

from local.kube.cluster import Cluster
from local.kube.journal import Journal, JournalError, NoJournal, SqliteJournal
from local.kube.kubeconfig import write_kubeconfig
from local.kube.server import make_runner

HOST = "127.0.0.1"
# Bodies are at most bodies.MAX_DEPTH deep; recursive walks over schemas and patches need several frames a level.
_RECURSION_LIMIT = 10_000


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.kube", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 (the default) takes a free one")
    parser.add_argument(
        "--kubeconfig", type=Path, required=True, metavar="FILE", help="where to write the kubeconfig that leads here"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep all objects in this directory over restarts (default: in memory)"
    )
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port}: must be between 0 and 65535")
    return arguments


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    journal: Journal = SqliteJournal(arguments.data) if arguments.data else NoJournal()
    cluster = Cluster(journal)
    runner = make_runner(cluster)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, arguments.port)
        await site.start()
        address = f"http://{HOST}:{runner.addresses[0][1]}"
        write_kubeconfig(arguments.kubeconfig, address)
        # What exists now lives as long as the process; the collector need not look at it again.
        gc.freeze()
        print(address, flush=True)
        await stop.wait()
    finally:
        cluster.close()
        await runner.cleanup()


def main(argv: list[str]) -> int:
    """Run the server; returns the exit code."""
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    sys.setrecursionlimit(_RECURSION_LIMIT)
    try:
        asyncio.run(_serve(arguments))
    except JournalError as error:
        print(f"local.kube: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"local.kube: cannot serve on {HOST}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
