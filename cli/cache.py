"""`modelcache du`, `gc`, `evict` and `verify`: the cache of this node, or those of all nodes through the controller.

On a node they ask the agent on the socket in its cache directory. Where no agent runs, `du` and `verify` read the cache
themselves (its lock keeps an agent from starting meanwhile); `gc` and `evict` need one, because only it knows what is wanted
and used. With `--controller` they ask the agents of the cluster, see `cli.through`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.cache_view import Answers, outcome_of, show
from cli.through import CommandFailed, Through, ask_nodes
from modelcache.paths import DEFAULT_ROOT, PROJECTED, CachePaths

if TYPE_CHECKING:
    from modelcache.rpc.modelcache_pb2 import RunRequest, RunResponse

Root = Annotated[Path, typer.Option(help="Cache directory.", envvar="MODELCACHE_ROOT")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the DynamoModel.")]
Output = Annotated[str, typer.Option("--output", "-o", help="table or json.", metavar="FORMAT")]
Controller = Annotated[
    str,
    typer.Option(
        help="Ask the nodes of the cluster through its controller, host:port, instead of this node.",
        envvar="MODELCACHE_COMMANDS_CONTROLLER",
        metavar="ADDRESS",
    ),
]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", help="With --controller: only this node; may be repeated.", metavar="NODE"),
]
TokenFile = Annotated[
    Path,
    typer.Option(help="With --controller: token for the audience modelcache-commands.", envvar="MODELCACHE_TOKEN_FILE"),
]
CaFile = Annotated[
    Path,
    typer.Option(help="With --controller: ca.crt of the ConfigMap modelcache-ca.", envvar="MODELCACHE_CA_FILE"),
]
Timeout = Annotated[int, typer.Option(help="With --controller: seconds for the nodes to answer.", min=1, max=86_400)]
TOKEN, CA = PROJECTED / "token", PROJECTED / "ca.crt"

RESULT = 3
"""Exit code when the answer is the one that scripts look for: `gc --dry-run` found something to delete, `evict` had to leave
something or found nothing, `verify` found damage."""
INCOMPLETE = 4
"""Exit code when a node has not answered, whatever the others have said."""


def add_to(app: typer.Typer) -> None:
    """Make the commands a part of `app`."""
    for command in (du, gc, evict, verify):
        app.command()(command)


def du(
    root: Root = DEFAULT_ROOT,
    controller: Controller = "",
    node: Nodes = None,
    token_file: TokenFile = TOKEN,
    ca_file: CaFile = CA,
    timeout: Timeout = 60,
    output: Output = "table",
) -> None:
    """Show what is in the cache, how large it is, when it was used, and why it stays."""
    from modelcache.rpc.modelcache_pb2 import DiskUsage, RunRequest

    through = Through(controller, node or (), token_file, ca_file, timeout)
    _finish(_run(root, through, RunRequest(disk_usage=DiskUsage()), output), 0)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would go. The exit code is 3 when that is something.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    controller: Controller = "",
    node: Nodes = None,
    token_file: TokenFile = TOKEN,
    ca_file: CaFile = CA,
    timeout: Timeout = 60,
    output: Output = "table",
) -> None:
    """Delete content that nothing needs, and above the high watermark revisions that nothing wants."""
    from modelcache.rpc.modelcache_pb2 import Collect, RunRequest

    through = Through(controller, node or (), token_file, ca_file, timeout)
    answers = _run(root, through, RunRequest(collect=Collect(dry_run=dry_run)), output)
    would_go = dry_run and any(answer.freed_bytes or answer.revisions for _, answer in answers.each())
    _finish(answers, RESULT if would_go else 0)


def evict(
    model: Annotated[str, typer.Argument(help="Name of the DynamoModel that the files are, or were, of.")],
    revision: Annotated[str, typer.Option(help="Beginning of one revision; without it, all.")] = "",
    namespace: Namespace = "default",
    root: Root = DEFAULT_ROOT,
    controller: Controller = "",
    node: Nodes = None,
    token_file: TokenFile = TOKEN,
    ca_file: CaFile = CA,
    timeout: Timeout = 60,
    output: Output = "table",
) -> None:
    """Remove files of a model that nothing wants or uses. The exit code is 3 when some had to stay, or there were none."""
    from modelcache.rpc.modelcache_pb2 import Evict, ModelKey, RunRequest

    request = RunRequest(evict=Evict(model=ModelKey(namespace=namespace, name=model), revision=revision))
    answers = _run(root, Through(controller, node or (), token_file, ca_file, timeout), request, output)
    results = [outcome_of(line) for _, line in answers.lines()]
    _finish(answers, 0 if results and set(results) == {"removed"} else RESULT)


def verify(
    model: Annotated[str, typer.Argument(help="Name of a DynamoModel; without it, everything.")] = "",
    namespace: Namespace = "default",
    root: Root = DEFAULT_ROOT,
    controller: Controller = "",
    node: Nodes = None,
    token_file: TokenFile = TOKEN,
    ca_file: CaFile = CA,
    timeout: Timeout = 86_400,
    output: Output = "table",
) -> None:
    """Read published files again and compare them with their digests. The exit code is 3 when something is damaged."""
    from modelcache.rpc.modelcache_pb2 import ModelKey, RunRequest, Verify

    asked = Verify(model=ModelKey(namespace=namespace, name=model)) if model else Verify()
    through = Through(controller, node or (), token_file, ca_file, timeout)
    answers = _run(root, through, RunRequest(verify=asked), output)
    lines = list(answers.lines())
    if model and not lines and not answers.failures:
        _fail(
            f"nothing of {namespace}/{model} is in {'any cache that was asked' if controller else f'the cache {root}'}"
        )
    damaged = [(where, line) for where, line in lines if outcome_of(line) == "damaged"]
    for where, line in damaged:
        for problem in line.problems:
            sys.stderr.write(
                (f"{where}: " if where else "") + (problem if problem.isprintable() else repr(problem)) + "\n"
            )
    _finish(answers, RESULT if damaged else 0)


def _run(root: Path, through: Through, request: RunRequest, output: str) -> Answers:
    if output not in ("table", "json"):
        _refuse(f"--output is {output!r}; it must be table or json")
    if through.nodes and not through.controller:
        _refuse("--node needs --controller: without it, this node alone is asked")
    try:
        if through.controller:
            answers = Answers(None, asyncio.run(ask_nodes(through, request)))
        else:
            answers = Answers(asyncio.run(ask(root.absolute(), request)))
    except CommandFailed as error:
        _fail(str(error))
    show(answers, output)
    return answers


def _finish(answers: Answers, code: int) -> NoReturn:
    raise typer.Exit(INCOMPLETE if answers.failures else code)


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


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"modelcache: {message}\n")
    raise typer.Exit(2)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"modelcache: {message}\n")
    raise typer.Exit(1)
