"""`modelcache status`: what every DynamoModel is doing, once, or live until it is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from cli.models import list_models
from cli.terminal import Row, follow, polled, row_of, table_of
from modelcache.kube.client import KubeClient

_INTERVAL = 1.0


async def status(
    console: Console,
    kubeconfig: Path | None,
    *,
    namespace: str,
    name: str,
    watch: bool,
    wait: bool,
    output: str,
) -> int:
    """Print the state of one model or all; an empty `namespace` means all namespaces.

    `watch` keeps the display until interrupted, `wait` until every model shown is Ready. Returns the exit code: 0 when
    every model shown is Ready, 3 when one is not, so that scripts can use it. Raises KubeError.
    """
    async with KubeClient.connect(kubeconfig) as client:
        if watch or wait:
            updates = polled(lambda: list_models(client, namespace, name), _INTERVAL)
            rows = await follow(
                console, updates, namespaces=not namespace, finished=lambda rows: wait and _all_ready(rows)
            )
        else:
            models = await list_models(client, namespace, name)
            rows = [row_of(model) for model in models]
            _print(console, rows, output, namespaces=not namespace)
    return 0 if _all_ready(rows) else 3


def _all_ready(rows: Sequence[Row]) -> bool:
    return bool(rows) and all(row.phase == "Ready" for row in rows)


def _print(console: Console, rows: Sequence[Row], output: str, *, namespaces: bool) -> None:
    if output == "json":
        console.file.write(json.dumps([msgspec.to_builtins(row) for row in rows], indent=2) + "\n")
    elif rows:
        # In a pipe nothing is cut off: lines are as long as they have to be.
        width = console.width if console.is_terminal else 10_000
        console.print(table_of(rows, namespaces=namespaces, width=width), width=width)
    else:
        console.print("No DynamoModels found.")
