"""What do 10,000 connections of strangers to each port do to those who mean it?

A whole local cluster with TLS (`cli.cluster`). For each port in turn: somebody opens connections and keeps them, every second
one sends bytes that are no TLS; meanwhile one who means it does what the port is for, again and again until it succeeds.

    python -m benchmarks.flood [--connections N] [--directory DIR]

Printed for each port: how long the one who means it took, how many connections the server had left open at the end, how
much the server's memory has grown at its peak, and how many lines it has logged. `served` is 1 when every port went on, and
`peak_mib` the largest growth. The limit of open files (`ulimit -n`) has to be above N.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import select
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from grpc import aio

from agent.channel import open_channel
from agent.controllers import Registrar, finder
from agent.enrolment import EnrolmentError
from agent.peers.client import PeerAway, PeerClient, PeerStranger
from agent.peers.keys import ContentKey, TenantKey
from agent.threads import in_thread
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import SystemClock
from agent.transfer.limiter import TokenBucket
from benchmarks import report
from cli.cluster import LocalCluster
from local.ports import free_port
from modelcache.rpc.address import Address, parse_address
from modelcache.rpc.modelcache_pb2 import Hello, SyncRequest
from modelcache.rpc.modelcache_pb2_grpc import ModelCacheServiceStub
from modelcache.tls.certificates import key_pem, new_key, signing_request
from modelcache.tls.credentials import Credentials, der_to_pem
from modelcache.tls.wallet import Wallet

CONNECT_SECONDS = 5.0
PATIENCE = 60.0
"""Seconds for the one who means it."""
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
Act = Callable[[], Awaitable[None]]


@dataclass
class Port:
    """A port under attack: which process has it, and what it is for. `act` raises OSError while that does not work."""

    name: str
    process: str
    address: Address
    act: Act


class Friend:
    """One who means it: a second agent of the last node, made by hand."""

    def __init__(
        self, cluster: LocalCluster, enrolment: Address, stream: Address, peer: Address, health: Address
    ) -> None:
        self._files = cluster.directory / "projected" / cluster.nodes[-1]
        self._node, self._peer_node = cluster.nodes[-1], cluster.nodes[0]
        self._enrolment, self._stream, self._peer, self._health = enrolment, stream, peer, health
        self.wallet = Wallet()

    async def enrol(self) -> None:
        """Get a certificate."""
        key, authorities = new_key(), (self._files / "ca.crt").read_bytes()
        registrar = Registrar(finder([self._enrolment], Random(0)))
        try:
            found = await registrar.ask(authorities, signing_request(key), (self._files / "token").read_text().strip())
        except EnrolmentError as error:
            raise OSError(str(error)) from error
        self.wallet.replace(Credentials(key_pem(key), der_to_pem(found), authorities))

    async def sync(self) -> None:
        """Open a stream and get a desired state."""
        async with open_channel(self._stream, self.wallet.current.channel_credentials()) as channel:
            call = ModelCacheServiceStub(channel).Sync()
            try:
                await call.write(SyncRequest(hello=Hello(node=self._node, instance="flood")))
                await call.read()
            except (aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise OSError(str(error)) from error

    async def ask_peer(self) -> None:
        """Ask another agent for content, and be told that we have no business with it."""
        clock = SystemClock()
        client = PeerClient(self._node, TokenBucket(None, clock), clock, self.wallet)
        content = TenantKey("default", ContentKey("sha256:" + "0" * 64))
        try:
            await in_thread(lambda: client.holding(self._peer_node, str(self._peer), content, 1, CancelToken()))
        except PeerStranger:
            return
        except PeerAway as error:
            raise OSError(str(error)) from error
        finally:
            client.close()

    async def probe(self) -> None:
        """What the kubelet does."""
        async with aio.insecure_channel(str(self._health), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            check: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(HEALTH_CHECK)
            try:
                await check(b"", timeout=5)
            except aio.AioRpcError as error:
                raise OSError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="to each port (default 10,000)")
    parser.add_argument("--directory", type=Path, help="where everything lies (default: the system's)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-flood-", dir=options.directory) as name:
        asyncio.run(_run(Path(name), options.connections))
    return 0


async def _run(directory: Path, count: int) -> None:
    health = Address("127.0.0.1", free_port())
    os.environ["MODELCACHE_HEALTH_LISTEN"] = str(health)
    cluster = LocalCluster(directory, 2, lambda text: print(text, file=sys.stderr))
    try:
        await cluster.start(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        rows, served, peak = [], True, 0.0
        for port in await _ports(cluster, health):
            row = await _attack(cluster, port, count)
            served, peak = served and row.seconds is not None, max(peak, row.grown)
            rows.append(row)
    finally:
        await cluster.stop()
    columns = ["port", "served after, s", "left open", "memory grew, MiB", "memory, MiB", "lines logged"]
    report.show(f"{count:,} connections of strangers to each port", columns, rows)
    report.finish({"served": int(served), "peak_mib": peak, "connections": count})


async def _ports(cluster: LocalCluster, health: Address) -> list[Port]:
    listening = re.search(r"listening for agents at (\S+), enrolment at (\S+);", cluster.log("controller").read_text())
    peers = re.search(r"listening for other agents at (\S+)", cluster.log(f"agent-{cluster.nodes[0]}").read_text())
    assert listening is not None
    assert peers is not None
    stream, enrolment, peer = (parse_address(text) for text in (*listening.groups(), peers.group(1)))
    friend = Friend(cluster, enrolment, stream, peer, health)
    await friend.enrol()
    return [
        Port("stream", "controller", stream, friend.sync),
        Port("enrolment", "controller", enrolment, friend.enrol),
        Port("health", "controller", health, friend.probe),
        Port("peers", f"agent-{cluster.nodes[0]}", peer, friend.ask_peer),
    ]


class Row(NamedTuple):
    """What came of one port, as it is printed. Memory is in MiB."""

    name: str
    seconds: float | None
    left_open: int
    grown: float
    peak: float
    lines: int


async def _attack(cluster: LocalCluster, port: Port, count: int) -> Row:
    pid = cluster.pid(port.process)
    log = cluster.log(port.process)
    lines, before = log.read_text().count("\n"), _memory(pid, "VmRSS")
    connections = await in_thread(lambda: _connect(port.address, count))
    try:
        seconds = await _until_served(port.act)
        left = await in_thread(lambda: sum(map(_is_open, connections)))
    finally:
        for connection in connections:
            connection.close()
    assert cluster.pid(port.process) == pid, f"{port.process} has died"
    peak = _memory(pid, "VmHWM")
    return Row(port.name, seconds, left, max(peak - before, 0.0), peak, log.read_text().count("\n") - lines)


def _connect(address: Address, count: int) -> list[socket.socket]:
    connections = []
    for number in range(count):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(address, timeout=CONNECT_SECONDS)
            connections.append(connection)
            if number % 2:
                connection.sendall(os.urandom(300))
    return connections


async def _until_served(act: Act) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        try:
            await act()
        except OSError:
            await asyncio.sleep(0.2)
        else:
            return time.monotonic() - began
    return None


def _is_open(connection: socket.socket) -> bool:
    """Whether the server has not closed it."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    with contextlib.suppress(OSError):
        while poll.poll(0):
            if not connection.recv(65536):
                return False
        return True
    return False


def _memory(pid: int | None, key: str) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", text)
    assert found is not None
    return int(found.group(1)) / 1024


if __name__ == "__main__":
    sys.exit(main())
