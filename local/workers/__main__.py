"""`python -m local.workers --kubeconfig FILE WORKER=NODE...`: run inference workers, as far as LoRA adapters see them.

Prints the address of the control API (see `local.workers.control`) as its first line, once all workers are there, and runs
until SIGTERM or SIGINT. Without a kubeconfig there are no Pods.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from aiohttp import web

from local.workers.container import PORTS
from local.workers.control import application
from local.workers.switches import Switches
from local.workers.workers import Workers
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import ConfigError, KubeError

HOST = "127.0.0.1"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 after a signal, 1 when the workers cannot be started."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_serve(options))
    except (OSError, ConfigError, KubeError, ValueError) as error:
        print(f"local.workers: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _client(options.kubeconfig) as client:
        workers = Workers(
            client,
            namespace=options.namespace,
            base_model=options.base_model,
            engine=options.engine,
            mounts=dict(options.mount),
            port=options.port,
            switches=options.switches,
            annotate_engine=options.annotate_engine,
            delete_pods=not options.keep_pods,
        )
        async with workers:
            for name, node in options.worker:
                await workers.add(name, node)
            runner = web.AppRunner(application(workers), access_log=None)
            await runner.setup()
            try:
                await web.TCPSite(runner, HOST, options.control_port).start()
                print(f"http://{HOST}:{runner.addresses[0][1]}", flush=True)
                await stop.wait()
            finally:
                await runner.cleanup()


@contextlib.asynccontextmanager
async def _client(kubeconfig: Path | None) -> AsyncIterator[KubeClient | None]:
    if kubeconfig is None:
        yield None
        return
    async with KubeClient.connect(kubeconfig, user_agent="modelcache-workers") as client:
        yield client


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.workers",
        description="Run stand-ins for inference workers on loopback addresses of their own.",
        epilog="The first line printed is the address of the control API; GET /workers there tells everything.",
    )
    parser.add_argument("worker", nargs="+", type=_pair, metavar="WORKER=NODE", help="name of a worker and its node")
    parser.add_argument("--kubeconfig", type=Path, help="where to register the workers as Pods (default: nowhere)")
    parser.add_argument("--namespace", default="default", help="of the Pods (default: default)")
    parser.add_argument("--base-model", default="Qwen/Qwen3-0.6B", help="what they serve (default: Qwen/Qwen3-0.6B)")
    parser.add_argument("--engine", choices=sorted(PORTS), default="dynamo", help="their protocol (default: dynamo)")
    parser.add_argument("--annotate-engine", action="store_true", help="name the protocol in an annotation of the Pods")
    parser.add_argument("--port", type=int, help="where they listen (default: that of the protocol)")
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        type=_pair,
        metavar="PATH=DIRECTORY",
        help="directory of the host at a path in the containers; {node} and {namespace} in it stand for the worker's own",
    )
    parser.add_argument("--switches", type=_switches, default=Switches(), metavar="JSON", help="how they misbehave")
    parser.add_argument("--control-port", type=int, default=0, help="of the control API; 0 (the default): any free one")
    parser.add_argument(
        "--keep-pods", action="store_true", help="leave the Pods behind at the end, as a lost node does"
    )
    return parser


def _pair(text: str) -> tuple[str, str]:
    left, found, right = text.partition("=")
    if not (left and found and right):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LEFT=RIGHT")
    return left, right


def _switches(text: str) -> Switches:
    try:
        return msgspec.json.decode(text, type=Switches)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
