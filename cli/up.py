"""`modelcache up`: the local cluster, from the command line until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from cli.cluster import LocalCluster, StartError
from cli.kubectl import find_kubectl
from cli.models import list_models
from cli.terminal import follow, polled
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import KubeError

_INTERVAL = 1.0


async def up(directory: Path, nodes: int, files: Sequence[Path], console: Console) -> int:
    """Run a cluster of `nodes` nodes in `directory`, apply `files`, show progress; until SIGINT or SIGTERM.

    Returns the exit code: 0 after a signal, 1 when the cluster does not come up or a file is refused.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    cluster = LocalCluster(directory, nodes, lambda text: console.print(text, highlight=False, soft_wrap=True))
    try:
        await cluster.start(_now())
        console.print(_welcome(cluster), highlight=False, soft_wrap=True)
        for file in files:
            await _apply(file, cluster.kubeconfig, console)
        await _show_until(stop, cluster, console)
    except StartError as error:
        console.print(f"[red]modelcache up:[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    finally:
        await cluster.stop()
    console.print(f"stopped; the models stay in {directory}", highlight=False, soft_wrap=True)
    return 0


def _welcome(cluster: LocalCluster) -> str:
    config = cluster.kubeconfig.resolve()
    exports = "".join(f"    export {name}={value}\n" for name, value in cluster.commands.items())
    return (
        f"{len(cluster.nodes)} nodes are up. In another terminal:\n\n"
        f"    export KUBECONFIG={config}\n"
        f"    kubectl apply -f FILE           # a DynamoModel\n"
        f"    kubectl get dynamomodels -o wide -w\n\n"
        f"and to ask all nodes what is in their caches:\n\n{exports}    modelcache du\n\n"
        f"Logs are in {cluster.directory.resolve() / 'logs'}; Ctrl-C stops everything.\n"
    )


async def _apply(file: Path, kubeconfig: Path, console: Console) -> None:
    kubectl = find_kubectl()
    if kubectl is None:
        raise StartError("kubectl was not found: install it, or apply the files by other means")
    process = await asyncio.create_subprocess_exec(
        str(kubectl), "apply", "-f", str(file),
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise StartError(f"kubectl apply -f {file} failed: {text}")
    console.print(text, highlight=False, soft_wrap=True)


async def _show_until(stop: asyncio.Event, cluster: LocalCluster, console: Console) -> None:
    async with KubeClient.connect(cluster.kubeconfig) as client:
        shown = asyncio.create_task(_show(client, console))
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()
            shown.cancel()
            await shown


async def _show(client: KubeClient, console: Console) -> None:
    while True:
        try:
            updates = polled(lambda: list_models(client), _INTERVAL)
            await follow(console, updates, namespaces=True, finished=lambda _: False)
        except KubeError:
            # local.kube is being restarted; the supervisor has said so.
            await asyncio.sleep(_INTERVAL)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
