"""Sockets and threads: two listeners in one process, the hub itself and, as another origin, its CDN.

One thread per connection on blocking sockets, the content of files by `sendfile`: the kernel copies from the page cache to
the socket and Python only counts, so that a benchmark measures its client and not this server.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import TracebackType
from typing import Any, BinaryIO, Self

from local.hub import api, content, control, message
from local.hub.faults import Status, Target
from local.hub.hub import Hub
from local.hub.message import FileBody, Request, Response

log = logging.getLogger(__name__)

_LARGEST_BODY = 16 * 1024 * 1024
"""Bytes of a request's body; clients send lists of paths, tests send faults."""


class HubServer:
    """Serves a Hub on loopback until it is closed; a context manager."""

    def __init__(self, hub: Hub, port: int = 0) -> None:
        """Listen at once, on `port` (0: any free one) for the hub and on some free port for the CDN."""
        self.hub = hub
        self._listeners = [_Listener(port, self._answer), _Listener(0, self._answer_cdn)]
        self.url, hub.cdn_url = (f"http://127.0.0.1:{listener.server_port}" for listener in self._listeners)
        for listener in self._listeners:
            listener.hub = hub
        self._threads = [
            threading.Thread(target=listener.serve_forever, args=(0.05,), name=f"hub :{listener.server_port}")
            for listener in self._listeners
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop listening, break all connections, and return when no thread is left."""
        self.hub.faults.clear()
        self.hub.limits.stop()
        for listener in self._listeners:
            listener.shutdown()
            listener.close_connections()
            listener.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: Request) -> tuple[Target | None, Response]:
        segments = request.segments
        if segments[0].startswith("_"):
            return None, control.answer(self.hub, request)
        if segments[0] == "api":
            target = api.target_of(request)
            return target, self._failure(target) or api.answer(self.hub, request)
        if len(segments) >= 5 and segments[2] == "resolve":
            target = content.resolve_target(request)
            return target, self._failure(target) or content.answer_resolve(self.hub, request)
        return Target("api"), message.page_not_found()

    def _answer_cdn(self, request: Request) -> tuple[Target | None, Response]:
        target = content.cdn_target(request)
        return target, self._failure(target) or content.answer_cdn(self.hub, request)

    def _failure(self, target: Target) -> Response | None:
        failure = self.hub.faults.take(Status, target, lambda fault: target.stage in fault.on)
        if failure is None:
            return None
        wait = failure.fault.retry_after
        headers = {} if wait is None else {"Retry-After": str(wait)}
        return message.error(failure.fault.status, None, "A fault was asked for.", headers)


Answerer = Callable[[Request], tuple[Target | None, Response]]


class _Listener(ThreadingHTTPServer):
    """One listening socket, which knows its connections so that it can break them."""

    request_queue_size = 256
    daemon_threads = False
    hub: Hub

    def __init__(self, port: int, answer: Answerer) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                # Wakes the thread that reads from it or writes to it; the thread then closes it.
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    log.debug("a connection was gone before it was broken")

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("request of %s failed", client_address)


class _Handler(BaseHTTPRequestHandler):
    """From bytes to a Request, from a Response to bytes."""

    protocol_version = "HTTP/1.1"
    # Headers and body are separate writes: Nagle's algorithm would hold back the second one of each small answer.
    disable_nagle_algorithm = True
    server: _Listener

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            log.debug("the client has gone")

    def do_GET(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _LARGEST_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return self._write(message.bad_request("the body needs a Content-Length of at most 16 MiB"))
        path, query = message.parse_target(self.path)
        request = Request(
            method=self.command,
            path=path,
            query=query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(length)),
        )
        target, response = self.server.answer(request)
        if target is not None:
            hub = self.server.hub
            hub.limits.delay_answer()
            hub.stats.request(target, path, response.status, "authorization" in request.headers)
        return self._write(response)

    do_HEAD = do_POST = do_DELETE = do_GET

    def _write(self, response: Response) -> None:
        body = response.body
        chunked = response.headers.get("Transfer-Encoding") == "chunked"
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Date", formatdate(usegmt=True))
        if not chunked:
            self.send_header("Content-Length", str(len(body) if isinstance(body, bytes) else body.stop - body.start))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, FileBody):
            self._send_file(body)
        elif chunked:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            self.wfile.write(body)

    def _send_file(self, body: FileBody) -> None:
        hub = self.server.hub
        hub.stats.body_begins(body.repository, body.file.path)
        try:
            with body.file.open() as file:
                self._send_spans(hub, body, file)
        finally:
            hub.stats.body_ends()

    def _send_spans(self, hub: Hub, body: FileBody, file: BinaryIO) -> None:
        for start, stop in spans(body):
            if start == body.stall_at and body.stall_ends is not None:
                body.stall_ends()
            if start == body.close_at:
                self.close_connection = True
                return
            if start in body.flips:
                file.seek(start)
                self._send_counted(hub, body, bytes([file.read(1)[0] ^ body.flips[start]]))
            else:
                self._send_range(hub, body, file, start, stop)

    def _send_range(self, hub: Hub, body: FileBody, file: BinaryIO, start: int, stop: int) -> None:
        while start < stop:
            step = min(hub.limits.step(), stop - start)
            hub.limits.wait_for(step)
            if isinstance(body.file.content, bytes):
                sent = self._send_counted(hub, body, body.file.content[start : start + step])
            else:
                sent = self._sendfile_counted(hub, body, file, start, step)
            if sent == 0:
                # The file has become shorter than it was when it was committed.
                log.error("%s ends at byte %d of %d", body.file.content, start, body.file.size)
                self.close_connection = True
                return
            start += sent

    # Bytes are counted before they are sent, and what was not sent is taken back: a client that has a byte can rely on
    # finding it in the counters.

    def _send_counted(self, hub: Hub, body: FileBody, content: bytes) -> int:
        hub.stats.body_bytes(body.repository, body.file.path, len(content))
        self.connection.sendall(content)
        return len(content)

    def _sendfile_counted(self, hub: Hub, body: FileBody, file: BinaryIO, start: int, step: int) -> int:
        hub.stats.body_bytes(body.repository, body.file.path, step)
        sent = 0
        try:
            # Less than `step` if the client goes away meanwhile; only the next call fails then.
            sent = os.sendfile(self.connection.fileno(), file.fileno(), start, step)
        finally:
            if sent < step:
                hub.stats.body_bytes(body.repository, body.file.path, sent - step)
        return sent

    def log_message(self, format: str, *args: object) -> None:
        """Requests are counted (`/_stats`), and logged only for debugging."""
        log.debug(format, *args)


def spans(body: FileBody) -> Iterator[tuple[int, int]]:
    """Cut a body at the offsets where a fault happens: each span is sent whole, after the fault at its start."""
    marks = {body.start, body.stop, *body.flips, *(offset + 1 for offset in body.flips)}
    marks |= {offset for offset in (body.close_at, body.stall_at) if offset is not None}
    cuts = sorted(mark for mark in marks if body.start <= mark <= body.stop)
    return pairwise(cuts)
