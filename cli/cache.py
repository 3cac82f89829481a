"""`modelcache du`, `gc`, `evict` and `verify`: the cache of the node on which they run.

They ask the agent on the socket in its cache directory. Where no agent runs, `du` and `verify` read the cache themselves (its
lock keeps an agent from starting meanwhile); `gc` and `evict` need one, because only it knows what is wanted and used.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.terminal import human_bytes
from modelcache.paths import DEFAULT_ROOT, CachePaths

if TYPE_CHECKING:
    from modelcache.rpc.modelcache_pb2 import RevisionLine, RunRequest, RunResponse

Root = Annotated[Path, typer.Option(help="Cache directory.", envvar="MODELCACHE_ROOT")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the DynamoModel.")]
Output = Annotated[str, typer.Option("--output", "-o", help="table or json.", metavar="FORMAT")]

STAYS = 3
"""Exit code of `evict` when something had to stay, and of `verify` when something is damaged."""

_OUTCOMES = {0: "", 1: "kept", 2: "removed", 3: "sound", 4: "damaged"}
"""The words for `Outcome`."""


class CommandFailed(Exception):
    """A command could not be carried out; the message says why and what to do."""


def add_to(app: typer.Typer) -> None:
    """Make the commands a part of `app`."""
    for command in (du, gc, evict, verify):
        app.command()(command)


def du(root: Root = DEFAULT_ROOT, output: Output = "table") -> None:
    """Show what is in this node's cache, how large it is, when it was used, and why it stays."""
    from modelcache.rpc.modelcache_pb2 import DiskUsage, RunRequest

    _show(_run(root, RunRequest(disk_usage=DiskUsage()), output), output)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    root: Root = DEFAULT_ROOT,
    output: Output = "table",
) -> None:
    """Delete content that nothing needs, and above the high watermark revisions that nothing wants."""
    from modelcache.rpc.modelcache_pb2 import Collect, RunRequest

    _show(_run(root, RunRequest(collect=Collect(dry_run=dry_run)), output), output)


def evict(
    model: Annotated[str, typer.Argument(help="Name of the DynamoModel that the files are, or were, of.")],
    revision: Annotated[str, typer.Option(help="Beginning of one revision; without it, all.")] = "",
    namespace: Namespace = "default",
    root: Root = DEFAULT_ROOT,
    output: Output = "table",
) -> None:
    """Remove files of a model that nothing wants or uses. The exit code is 3 when some had to stay, or there were none."""
    from modelcache.rpc.modelcache_pb2 import Evict, ModelKey, RunRequest

    request = Evict(model=ModelKey(namespace=namespace, name=model), revision=revision)
    answer = _run(root, RunRequest(evict=request), output)
    _show(answer, output)
    removed = [line for line in answer.revisions if _outcome(line) == "removed"]
    raise typer.Exit(0 if removed and len(removed) == len(answer.revisions) else STAYS)


def verify(
    model: Annotated[str, typer.Argument(help="Name of a DynamoModel; without it, everything.")] = "",
    namespace: Namespace = "default",
    root: Root = DEFAULT_ROOT,
    output: Output = "table",
) -> None:
    """Read published files again and compare them with their digests. The exit code is 3 when something is damaged."""
    from modelcache.rpc.modelcache_pb2 import ModelKey, RunRequest, Verify

    asked = Verify(model=ModelKey(namespace=namespace, name=model)) if model else Verify()
    answer = _run(root, RunRequest(verify=asked), output)
    _show(answer, output)
    if model and not answer.revisions:
        _fail(f"nothing of {namespace}/{model} is in the cache {root}")
    damaged = [line for line in answer.revisions if _outcome(line) == "damaged"]
    for line in damaged:
        for problem in line.problems:
            sys.stderr.write(f"{problem}\n")
    raise typer.Exit(STAYS if damaged else 0)


def _run(root: Path, request: RunRequest, output: str) -> RunResponse:
    if output not in ("table", "json"):
        sys.stderr.write(f"modelcache: --output is {output!r}; it must be table or json\n")
        raise typer.Exit(2)
    try:
        return asyncio.run(ask(root.absolute(), request))
    except CommandFailed as error:
        _fail(str(error))
        raise  # _fail does not return


async def ask(root: Path, request: RunRequest) -> RunResponse:
    """The answer of the agent, or of the cache itself where there is none. Raises CommandFailed."""
    import grpc
    from grpc import aio

    from modelcache.rpc.modelcache_pb2_grpc import NodeServiceStub

    paths = CachePaths(root)
    if paths.socket.exists():
        async with aio.insecure_channel(f"unix:{paths.socket}") as channel:
            try:
                return await NodeServiceStub(channel).Run(request)
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise CommandFailed(error.details() or error.code().name) from error
    return await _without_agent(paths, request)


async def _without_agent(paths: CachePaths, request: RunRequest) -> RunResponse:
    from agent.commands import Commands, NotKnown
    from agent.room import Room, Storage
    from agent.store import Store, StoreError
    from agent.transfer.space import free_bytes
    from modelcache.kube.clock import LoopClock

    if not paths.lock.exists():
        raise CommandFailed(f"there is no cache in {paths.root}; give its directory with --root or MODELCACHE_ROOT")
    try:
        with Store.open(paths.root) as store:
            storage = Storage(store.census.snapshots, lambda: free_bytes(paths.root), lambda: 0)
            room = Room(storage, LoopClock())
            commands = Commands(store, room, limit=lambda: None, usable=lambda: free_bytes(paths.root))
            return await commands.run(request)
    except (StoreError, OSError, NotKnown) as error:
        raise CommandFailed(str(error)) from error


def _show(answer: RunResponse, output: str) -> None:
    if output == "json":
        sys.stdout.write(json.dumps(described(answer), indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("MODEL", "REVISION", "SIZE", "LAST USED", "LAST VERIFIED", "RESULT", "STAYS BECAUSE"):
        table.add_column(title, no_wrap=True, justify="right" if title == "SIZE" else "left")
    for line in answer.revisions:
        table.add_row(
            f"{line.model.namespace}/{line.model.name}",
            line.snapshot[:12] + (" *" if line.current else ""),
            human_bytes(line.bytes),
            _moment(line, "last_used"),
            _moment(line, "last_verified"),
            _outcome(line),
            line.kept,
        )
    # In a pipe nothing is cut off: lines are as long as they have to be.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    if answer.revisions:
        console.print(table)
    limit = f" of {human_bytes(answer.limit_bytes)}" if answer.HasField("limit_bytes") else ""
    summary = f"{human_bytes(answer.occupied_bytes)}{limit} taken, {human_bytes(answer.free_bytes)} free"
    freed = f", {human_bytes(answer.freed_bytes)} freed" if answer.freed_bytes else ""
    unneeded = f", {human_bytes(answer.unneeded_bytes)} unneeded" if answer.unneeded_bytes else ""
    console.print(f"{summary}{unneeded}{freed}", highlight=False)


def described(answer: RunResponse) -> dict[str, Any]:
    """An answer as `-o json` prints it. Bytes are numbers, times are RFC 3339 or null."""
    return {
        "occupiedBytes": answer.occupied_bytes,
        "limitBytes": answer.limit_bytes if answer.HasField("limit_bytes") else None,
        "freeBytes": answer.free_bytes,
        "unneededBytes": answer.unneeded_bytes,
        "freedBytes": answer.freed_bytes,
        "revisions": [
            {
                "namespace": line.model.namespace,
                "name": line.model.name,
                "revision": line.snapshot,
                "bytes": line.bytes,
                "lastUsed": _moment(line, "last_used") or None,
                "lastVerified": _moment(line, "last_verified") or None,
                "current": line.current,
                "kept": line.kept,
                "result": _outcome(line),
                "problems": list(line.problems),
            }
            for line in answer.revisions
        ],
    }


def _moment(line: RevisionLine, name: str) -> str:
    return str(getattr(line, name).ToJsonString()) if line.HasField(name) else ""  # type: ignore[arg-type]  # see both uses


def _outcome(line: RevisionLine) -> str:
    return _OUTCOMES.get(line.outcome, "unknown")


def _fail(message: str) -> None:
    sys.stderr.write(f"modelcache: {message}\n")
    raise typer.Exit(1)
