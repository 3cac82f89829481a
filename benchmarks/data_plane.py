"""Which way should pieces travel between agents? The same bytes, over loopback, by four kinds of servers in one run.

    sendfile, threads    what `agent.peers.server` does: a thread for each connection, blocking sockets, the kernel copies
    write, threads       the same, but the bytes go through a buffer of this process (what TLS has to do)
    sendfile, asyncio    aiohttp, one thread, `loop.sendfile`
    gRPC, asyncio        a stream of messages of 1 MiB

Each server is a process of its own, and so is the client: blocking sockets and threads with a reused buffer for HTTP, the
blocking client of grpcio for gRPC. Data is in the page cache. `--connections` requests run at a time, each for a piece.
Ratios are to the first line: rate above 1 is faster, CPU above 1 costs more.

    python -m benchmarks.data_plane [--bytes N] [--connections N] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.origin import REPOSITORY, environment, random_files

MIB = 1 << 20
PIECE = 16 * MIB
STEP = MIB
KINDS = ("sendfile, threads", "write, threads", "sendfile, asyncio", "gRPC, asyncio")
METHOD = "/bench.Pieces/Get"


class Sample(NamedTuple):
    """One way, once: bytes/s, and the CPU seconds of server and client for each GiB."""

    rate: float
    server_cpu: float
    client_cpu: float


def serve_threads(path: Path, *, copying: bool) -> None:
    """A thread for each connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            """One piece."""
            number = int(self.path[1:])
            count = min(PIECE, size - number * PIECE)
            self.send_response(206)
            self.send_header("Content-Length", str(count))
            self.end_headers()
            self.wfile.flush()
            with path.open("rb", buffering=0) as file:
                if not copying:
                    self.connection.sendfile(file, number * PIECE, count)
                    return
                buffer = memoryview(bytearray(STEP))
                file.seek(number * PIECE)
                while count and (got := file.readinto(buffer[: min(STEP, count)])):
                    self.connection.sendall(buffer[:got])
                    count -= got

    size = path.stat().st_size
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _until_told(server.server_port)


def serve_aiohttp(path: Path) -> None:
    """One thread; aiohttp sends files with `loop.sendfile`."""
    from aiohttp import web

    async def piece(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, chunk_size=STEP)

    async def run() -> None:
        application = web.Application()
        application.router.add_get("/{number}", piece)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await asyncio.to_thread(_until_told, runner.addresses[0][1])
        await runner.cleanup()

    asyncio.run(run())


def serve_grpc(path: Path) -> None:
    """Bytes as they are, without protobuf around them: the best that gRPC can do."""
    import grpc
    from grpc import aio

    async def get(request: bytes, context: Any) -> AsyncIterator[bytes]:
        with path.open("rb", buffering=0) as file:
            file.seek(int(request) * PIECE)
            left = PIECE
            while left and (data := file.read(min(STEP, left))):
                yield data
                left -= len(data)

    class Pieces(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_stream_rpc_method_handler(get)

    async def run() -> None:
        server = aio.server()
        server.add_generic_rpc_handlers((Pieces(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await asyncio.to_thread(_until_told, port)
        await server.stop(1)

    asyncio.run(run())


def fetch_http(port: int, pieces: Iterator[int], size: int) -> int:
    """Fetches pieces on one connection, into a reused buffer, until there are none left; bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    buffer, total = memoryview(bytearray(STEP)), 0
    for number in pieces:
        last = min(size, (number + 1) * PIECE) - 1
        connection.request("GET", f"/{number}", headers={"Range": f"bytes={number * PIECE}-{last}"})
        with connection.getresponse() as response:
            while got := response.readinto(buffer):
                total += got
    connection.close()
    return total


def fetch_grpc(port: int, pieces: Iterator[int], size: int) -> int:
    """The same from a stream of messages."""
    import grpc

    options = [("grpc.max_receive_message_length", 2 * STEP), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        get: Any = channel.unary_stream(METHOD)
        return sum(len(data) for number in pieces for data in get(str(number).encode()))


SERVERS: dict[str, Callable[[Path], None]] = {
    KINDS[0]: lambda path: serve_threads(path, copying=False),
    KINDS[1]: lambda path: serve_threads(path, copying=True),
    KINDS[2]: serve_aiohttp,
    KINDS[3]: serve_grpc,
}


def measure(kind: str, path: Path, connections: int) -> Sample:
    """Starts a server of this kind, and a client. Raises RuntimeError when bytes are missing."""
    size = path.stat().st_size
    command = [sys.executable, "-m", "benchmarks.data_plane", "--bytes", str(size), "--connections", str(connections)]
    with (
        _process([*command, "--serve", kind, "--file", str(path)]) as server,
        _process([*command, "--fetch", kind, "--file", str(path)]) as client,
    ):
        port = _line(server)
        _tell(client, port)
        total, seconds, client_cpu = map(float, _line(client).split())
        _tell(server, "")
        server_cpu = float(_line(server))
    if total != size:
        raise RuntimeError(f"{kind}: {total:.0f} bytes came, not {size}")
    gib = size / (1 << 30)
    return Sample(size / seconds, server_cpu / gib, client_cpu / gib)


def fetch(kind: str, path: Path, connections: int) -> None:
    """The client's process: is told a port, says bytes, seconds and CPU seconds."""
    size = path.stat().st_size
    way = fetch_grpc if kind == KINDS[3] else fetch_http
    port = int(sys.stdin.readline())
    numbers = iter(range(-(-size // PIECE)))
    before, began = _cpu(), time.perf_counter()
    with futures.ThreadPoolExecutor(connections) as pool:
        total = sum(pool.map(lambda _: way(port, numbers, size), range(connections)))
    print(total, time.perf_counter() - began, _cpu() - before, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The benchmark, and its processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_plane", description=__doc__)
    parser.add_argument("--bytes", type=int, default=1024 * MIB)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None)
    for hidden in ("--serve", "--fetch"):
        parser.add_argument(hidden, choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        SERVERS[options.serve](options.file)
        return 0
    if options.fetch:
        fetch(options.fetch, options.file, options.connections)
        return 0
    samples: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        random_files(Path(directory) / "files", {"data": options.bytes})
        for number in range(options.rounds):
            for kind in KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]:
                samples[kind].append(measure(kind, Path(directory) / "files" / "data", options.connections))
    medians = {kind: Sample(*map(statistics.median, zip(*found, strict=True))) for kind, found in samples.items()}
    first = medians[KINDS[0]]
    rates = {kind: sample.rate / first.rate for kind, sample in medians.items()}
    costs = {
        kind: (sample.server_cpu + sample.client_cpu) / (first.server_cpu + first.client_cpu)
        for kind, sample in medians.items()
    }
    report.show(
        f"{options.bytes / MIB:.0f} MiB in pieces of 16 MiB, {options.connections} at a time, medians of {options.rounds}",
        ("", "MB/s", "server CPU s/GiB", "client CPU s/GiB", "rate ratio", "CPU ratio"),
        [
            (kind, one.rate / 1e6, one.server_cpu, one.client_cpu, rates[kind], costs[kind])
            for kind, one in medians.items()
        ],
    )
    keys = dict(zip(KINDS, ("threads_sendfile", "threads_write", "asyncio_sendfile", "grpc"), strict=True))
    report.finish(
        {f"rate_ratio_{keys[kind]}": rates[kind] for kind in KINDS}
        | {f"cpu_ratio_{keys[kind]}": costs[kind] for kind in KINDS}
    )
    return 0


def _process(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("a process ended before its time; what it said is above")
    return line


def _tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def _until_told(port: int) -> None:
    """Says where the server is, and when told that it is enough, the CPU seconds since."""
    before = _cpu()
    print(port, flush=True)
    sys.stdin.readline()
    print(_cpu() - before, flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    # What is running in threads is given up.
    sys.stdout.flush()
    code = main()
    sys.stdout.flush()
    os._exit(code)
