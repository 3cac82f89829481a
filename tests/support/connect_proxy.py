"""An HTTP proxy for tests: CONNECT tunnels and plain requests, written down as they come."""

import base64
import http.client
import http.server
import select
import socket
import socketserver
import threading
import urllib.parse
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import PATIENCE


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_CONNECT(self) -> None:
        if not self.server.proxy.allows(f"CONNECT {self.path}", self.headers.get("Proxy-Authorization")):
            self._refuse()
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as target:
            self.send_response(200)
            self.end_headers()
            _pump(self.connection, target)
        self.close_connection = True

    def do_GET(self) -> None:
        if not self.server.proxy.allows(f"GET {self.path}", self.headers.get("Proxy-Authorization")):
            self._refuse()
            return
        parts = urllib.parse.urlsplit(self.path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "proxy-authorization"}
        connection.request("GET", parts.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("server", "date"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    def _refuse(self) -> None:
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _pump(one: socket.socket, other: socket.socket) -> None:
    while True:
        for ready in select.select([one, other], [], [], 60)[0]:
            data = ready.recv(65536)
            if not data:
                return
            (other if ready is one else one).sendall(data)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def __init__(self, proxy: "ConnectProxy") -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)


class ConnectProxy:
    """Use as a context manager. With `user`, requests without this user and password are refused."""

    def __init__(self, user: str = "", password: str = "") -> None:
        self.asked: list[str] = []
        self._wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else None
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def allows(self, request: str, authorization: str | None) -> bool:
        self.asked.append(request)
        return self._wanted is None or authorization == self._wanted

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
