"""An HTTP server that serves files by range and misbehaves exactly when told: the origin in tests of the transfer engine.

`local.hub` speaks the protocol of a hub and has faults of its own; this one is below that: it lies about ranges, closes
kept-alive connections, stops in the middle of a piece, and lets a test hold an answer back until it has seen enough.

A fault is a function that is called instead of answering: `fault(request, content)`, with a `Request` that can answer in
every way. Faults of a path are used up one by one; `always` replaces the normal answer for good.
"""

import contextlib
import http.server
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

CHUNK = 64 * 1024
PATIENCE = 60.0


@dataclass(frozen=True)
class Seen:
    """One request as it came. `start` and `end` (exclusive) are the range asked for, None without one."""

    path: str
    headers: Mapping[str, str]
    start: int | None
    end: int | None
    port: int
    """Of the client: requests with the same port came over one connection."""


class Request(http.server.BaseHTTPRequestHandler):
    """One request, with ways to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        origin = self.server.origin
        path = self.path.partition("?")[0]
        if "://" in path:  # asked as a proxy
            path = "/" + path.split("/", 3)[3]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        content = origin.files.get(path, b"")
        self.start = int(match[1]) if match else None
        self.end = (int(match[2]) + 1 if match[2] else len(content)) if match else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = origin.arrived(Seen(path, headers, self.start, self.end, self.client_address[1]))
        if fault is not None:
            fault(self, content)
        elif path not in origin.files:
            self.status(404)
        else:
            self.serve(content)

    def serve(self, content: bytes) -> None:
        """Answers as a good server does."""
        if self.start is None or self.end is None:
            self.head(200, {"Content-Length": str(len(content))})
            self.body(content)
            return
        part = content[self.start : self.end]
        total = f"bytes {self.start}-{self.start + len(part) - 1}/{len(content)}"
        self.head(206, {"Content-Length": str(len(part)), "Content-Range": total})
        self.body(part)

    def status(self, code: int, headers: Mapping[str, str] | None = None, body: bytes = b"sorry") -> None:
        """Answers with a status and a short body."""
        self.head(code, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def head(self, code: int, headers: Mapping[str, str]) -> None:
        """Sends the head of an answer."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, data: bytes) -> None:
        """Sends (a part of) a body, counting what was sent."""
        view = memoryview(data)
        while view:
            self.wfile.write(view[:CHUNK])
            self.server.origin.sent(len(view[:CHUNK]))
            view = view[CHUNK:]

    def hang_up(self) -> None:
        """Closes the connection now."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Fault = Callable[[Request, bytes], None]


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, origin: "Origin", address: str) -> None:
        self.origin = origin
        super().__init__((address, 0), Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


@dataclass
class Origin:
    """Use as a context manager. `address` other than 127.0.0.1 makes it another host for the client."""

    files: dict[str, bytes] = field(default_factory=dict)
    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.seen: list[Seen] = []
        self.bytes_sent = 0
        self.always: dict[str, Fault] = {}
        self.closing = threading.Event()
        self._faults: dict[str, list[Fault]] = {}
        self._changed = threading.Condition()
        self._server = _Server(self, self.address)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "") -> str:
        return f"http://{self.address}:{self.port}{path}"

    def fail(self, path: str, *faults: Fault) -> None:
        """The next requests for `path` are answered by `faults`."""
        with self._changed:
            self._faults.setdefault(path, []).extend(faults)

    def arrived(self, seen: Seen) -> Fault | None:
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()
            waiting = self._faults.get(seen.path)
            return waiting.pop(0) if waiting else self.always.get(seen.path)

    def sent(self, count: int) -> None:
        with self._changed:
            self.bytes_sent += count
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Blocks until `condition` holds; it is looked at after every request and every chunk that was sent."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), "the origin never saw what the test waits for"

    def requests(self, path: str) -> list[Seen]:
        with self._changed:
            return [seen for seen in self.seen if seen.path == path]


def status(code: int, **headers: str) -> Fault:
    """Answers with a status; headers with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, content: request.status(code, named)


def redirect(url: str, code: int = 302) -> Fault:
    return status(code, Location=url)


def flipped(offset: int) -> Fault:
    """Serves the file with one byte changed."""

    def fault(request: Request, content: bytes) -> None:
        changed = bytearray(content)
        changed[offset] ^= 0xFF
        request.serve(bytes(changed))

    return fault


def cut_off(after: int) -> Fault:
    """Promises everything, sends `after` bytes and closes."""

    def fault(request: Request, content: bytes) -> None:
        start, end = request.start or 0, request.end or len(content)
        headers = {"Content-Length": str(end - start)}
        if request.start is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        request.head(200 if request.start is None else 206, headers)
        request.body(content[start : min(end, start + after)])
        request.hang_up()

    return fault


def stalls(after: int) -> Fault:
    """Promises everything, sends `after` bytes and then nothing, until the client gives up or the server ends."""

    def fault(request: Request, content: bytes) -> None:
        start, end = request.start or 0, request.end or len(content)
        headers = {"Content-Length": str(end - start)}
        if request.start is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        request.head(200 if request.start is None else 206, headers)
        request.body(content[start : start + after])
        request.connection.settimeout(PATIENCE)
        with contextlib.suppress(OSError):
            request.connection.recv(1)  # returns when the client closes
        request.close_connection = True

    return fault


def hangs_up(request: Request, content: bytes) -> None:
    """Closes without an answer."""
    request.hang_up()


def ignores_range(request: Request, content: bytes) -> None:
    """Answers every request with the whole file."""
    request.start = request.end = None
    request.serve(content)


def chunked(request: Request, content: bytes) -> None:
    """The whole file without a length, in chunks."""
    request.head(200, {"Transfer-Encoding": "chunked"})
    for start in range(0, len(content), 1000):
        part = content[start : start + 1000]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        request.server.origin.sent(len(part))
    request.wfile.write(b"0\r\n\r\n")


def until_closed(request: Request, content: bytes) -> None:
    """The whole file, HTTP/1.0 style: its end is the end of the connection."""
    request.head(200, {"Connection": "close"})
    request.body(content)
    request.hang_up()
