"""Asking the agents of a cluster through its controller.

There are several replicas of the controller, of which one leads: all addresses are tried until one answers, as agents do. The
controller shows a certificate of its authority, whose certificate is in `ca_file`; whoever asks shows the token in
`token_file`. It is read from a file because a command line can be seen by everybody on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from modelcache.rpc.address import Address
    from modelcache.rpc.modelcache_pb2 import RunOnNodesResponse, RunRequest

GRACE_SECONDS = 15
"""For the controller to tell who has not answered in time."""
_QUOTED = 500


class CommandFailed(Exception):
    """A command could not be carried out; the message says why and what to do."""


class Through(NamedTuple):
    """How to reach the controller, whom to ask (empty: all nodes), and how many seconds they have."""

    controller: str
    nodes: Sequence[str]
    token_file: Path
    ca_file: Path
    seconds: int


async def ask_nodes(through: Through, request: RunRequest) -> list[RunOnNodesResponse]:
    """What the nodes answer, sorted by their names. Raises CommandFailed."""
    from agent.controllers import finder
    from modelcache.rpc.address import AddressError, parse_addresses

    token, authorities = _read(through.token_file, "--token-file").strip(), _read(through.ca_file, "--ca-file")
    try:
        find = finder(parse_addresses(through.controller), Random())  # noqa: S311  # which replica is asked first
    except AddressError as error:
        raise CommandFailed(f"--controller {error}") from error
    problems = [f"--controller is {through.controller!r}, which stands for no address"]
    for address in await find():
        answer = await _ask(address, through, request, token, authorities)
        if not isinstance(answer, str):
            return sorted(answer, key=lambda each: each.node)
        problems.append(f"{address}: {answer}")
    raise CommandFailed("; ".join(problems[1:] or problems))


async def _ask(
    address: Address, through: Through, request: RunRequest, token: str, authorities: str
) -> list[RunOnNodesResponse] | str:
    """The answers, or why this replica gives none and another one may. Raises CommandFailed."""
    import grpc
    from grpc import aio

    from agent.channel import open_channel
    from modelcache.kube.errors import printable
    from modelcache.rpc.modelcache_pb2 import RunOnNodesRequest
    from modelcache.rpc.modelcache_pb2_grpc import ClusterServiceStub

    message = RunOnNodesRequest(command=request, nodes=through.nodes, seconds=through.seconds)
    answers: list[RunOnNodesResponse] = []
    async with open_channel(address, grpc.ssl_channel_credentials(authorities.encode())) as channel:
        call = ClusterServiceStub(channel).RunOnNodes(
            message, timeout=through.seconds + GRACE_SECONDS, metadata=(("authorization", f"Bearer {token}"),)
        )
        try:
            async for answer in call:
                answers.append(answer)
        except aio.AioRpcError as error:
            details = printable(error.details() or error.code().name, _QUOTED).replace(token, "***")
            if error.code() is grpc.StatusCode.UNAVAILABLE and not answers:
                return details
            raise CommandFailed(f"the controller at {address}: {error.code().name}: {details}") from None
    return answers


def _read(path: Path, option: str) -> str:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{option} is {path}, which cannot be read: {error}") from error
    if not text.strip():
        raise CommandFailed(f"{option} is {path}, which is empty")
    return text
