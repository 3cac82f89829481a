"""`python -m local.kubelet`: project tokens and authorities for the agents of some nodes, until a signal."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from local.kubelet.projection import Projection
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import LoopClock


async def _project(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with KubeClient.connect(arguments.kubeconfig, user_agent="modelcache-kubelet") as client:
        projection = Projection(
            client, arguments.namespace, arguments.node, arguments.directory, LoopClock(), operator=arguments.operator
        )
        await projection.prepare()
        print(arguments.directory, flush=True)
        running = asyncio.create_task(projection.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()


def main(argv: list[str]) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, metavar="FILE", help="an administrator's kubeconfig")
    parser.add_argument("--namespace", default="modelcache-system", help="that of controller and agents")
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR", help="files go to DIR/NODE/")
    parser.add_argument("--operator", action="store_true", help="also those of who gives commands, to DIR/operator/")
    parser.add_argument("node", nargs="+", help="a node whose agent gets its files")
    asyncio.run(_project(parser.parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
