"""An origin that serves one directory by range over HTTP on any address, with `sendfile`, and counts what it serves.

`local.hub` stays on loopback on purpose; this one is for network namespaces. A process of its own: it prints its URL, then
answers every line on its standard input with the number of bytes served so far, and ends with its input.

    python -m benchmarks.plain_origin DIRECTORY ADDRESS [--rate BYTES_PER_SECOND]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.transfer.cancel import CancelToken
from agent.transfer.clock import SystemClock
from agent.transfer.limiter import TokenBucket
from benchmarks.origin import REPOSITORY, environment

STEP = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


class PlainOrigin:
    """The parent's side; a context manager. `inside` is a command that runs others in a namespace."""

    def __init__(self, directory: Path, address: str, rate: float | None = None, inside: Sequence[str] = ()) -> None:
        command = [*inside, sys.executable, "-m", "benchmarks.plain_origin", str(directory), address]
        if rate is not None:
            command += ["--rate", str(rate)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    @property
    def bytes(self) -> int:
        """Served so far."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return int(json.loads(self._line()))

    def _line(self) -> str:
        line = self._process.stdout.readline().strip() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError("the origin ended before its time; what it said is above")
        return line


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, directory: Path, address: str, rate: float | None) -> None:
        self.directory = directory
        self.limiter = TokenBucket(rate, SystemClock())
        self.never = CancelToken()
        self.bytes = 0
        self._lock = threading.Lock()
        super().__init__((address, 0), _Handler)

    def count(self, number: int) -> None:
        """Adds to what was served."""
        with self._lock:
            self.bytes += number


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        """Answers one request."""
        path = self.server.directory / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        first, last = (int(match[1]), int(match[2])) if match else (0, size - 1)
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.flush()
        with path.open("rb") as file:
            while first <= last:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), first, min(STEP, last + 1 - first))
                if sent == 0:
                    self.close_connection = True
                    return
                first += sent
                self.server.count(sent)
                self.server.limiter.pay(sent, self.server.never)


def main(arguments: list[str] | None = None) -> int:
    """The process itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_origin", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("address")
    parser.add_argument("--rate", type=float)
    options = parser.parse_args(arguments)
    server = _Server(options.directory, options.address, options.rate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://{options.address}:{server.server_port}", flush=True)
    for _ in sys.stdin:
        print(server.bytes, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
