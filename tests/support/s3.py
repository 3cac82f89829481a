"""S3 for tests: the real `moto_server` and `nanio`, the real client `s5cmd`, and a server of ours that misbehaves when told."""

from __future__ import annotations

import http.server
import os
import secrets
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import boto3
from botocore.config import Config

from local.ports import free_port
from modelcache.sources.base import Credential
from tests.support.process import Process
from tests.support.waiting import PATIENCE

REGION = "us-east-1"


@dataclass(frozen=True)
class S3:
    """One running S3 and an identity that may do everything there."""

    url: str
    key_id: str = "AKIAIOSFODNN7EXAMPLE"
    secret: str = field(default_factory=lambda: secrets.token_hex(20))

    @property
    def secret_values(self) -> dict[str, str]:
        """What a Secret for it contains."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
        }

    @property
    def credential(self) -> Credential:
        return Credential(self.secret_values)

    @cached_property
    def client(self) -> Any:
        """The official client."""
        return boto3.client(
            "s3", endpoint_url=self.url, region_name=REGION, aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def s5cmd(self, *arguments: str | Path) -> None:
        """Run the real s5cmd."""
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **self.secret_values}
        command = [Path(sys.executable).with_name("s5cmd"), "--endpoint-url", self.url, "--log", "error", *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE)


@contextmanager
def moto() -> Iterator[S3]:
    """`moto_server` in this process, with nothing in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def nanio(directory: Path) -> Iterator[S3]:
    """`nanio` in a process of its own; it checks every signature."""
    port = free_port()
    s3 = S3(f"http://127.0.0.1:{port}")
    environment = {**os.environ, "NANIO_ACCESS_KEY": s3.key_id, "NANIO_SECRET_KEY": s3.secret}
    program = Path(sys.executable).with_name("nanio")
    arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory), "--region", REGION]
    process = Process([program, *arguments], env=environment)
    try:
        # uvicorn says it once it listens.
        process.stderr.wait_for(lambda line: "Uvicorn running" in line or "running on" in line)
        yield s3
    finally:
        process.close()


@dataclass(frozen=True)
class Listed:
    """An object of `OwnS3`, as its listing says."""

    key: str
    size: int
    etag: str = '"00000000000000000000000000000000-2"'
    content: bytes = b""
    """What a GET of it gives, as a whole: it knows no ranges."""
    storage_class: str = ""
    restore: str = ""
    """What a question about it says about its way back from an archive."""


class OwnS3:
    """Lists what it is told to, however long or wrong, and can answer every request with an error.

    `refuse(method, path)` returns (status, code, headers) for a request that is to fail, else None; `path` with the query.
    """

    def __init__(self, objects: Sequence[Listed], certificate: Path | None = None) -> None:
        """`certificate`: serves HTTPS with it; its key lies beside it as `.key`."""
        self.objects = objects
        self._scheme = "http" if certificate is None else "https"
        self.refuse: Callable[[str, str], tuple[int, str, dict[str, str]] | None] = lambda method, path: None
        self.body: bytes | None = None
        """Answered to every GET, when set."""
        self.requests: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def s3(self) -> S3:
        return S3(f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, query: dict[str, list[str]]) -> bytes:
        """One page of ListObjectsV2, 1000 keys as S3 has it."""
        prefix = query.get("prefix", [""])[0]
        start = int(query.get("continuation-token", ["0"])[0])
        found = [one for one in self.objects if one.key.startswith(prefix)]
        part = found[start : start + 1000]
        truncated = start + 1000 < len(found)
        token = f"<NextContinuationToken>{start + 1000}</NextContinuationToken>" if truncated else ""
        contents = "".join(
            f"<Contents><Key>{escape(urllib.parse.quote(one.key))}</Key><Size>{one.size}</Size>"
            f"<ETag>{escape(one.etag)}</ETag><StorageClass>{one.storage_class}</StorageClass></Contents>"
            for one in part
        )
        return (
            f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(truncated).lower()}</IsTruncated>"
            f"{token}{contents}</ListBucketResult>"
        ).encode()


def _handler(own: OwnS3) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            own.requests.append(f"{self.command} {parts.path}")
            refused = own.refuse(self.command, self.path)
            if refused is not None:
                status, code, headers = refused
                text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                return self._send(status, text if self.command == "GET" else b"", headers)
            if own.body is not None:
                return self._send(200, own.body, {})
            query = urllib.parse.parse_qs(parts.query)
            if self.command == "GET" and "list-type" in query:
                return self._send(200, own.page(query), {})
            key = urllib.parse.unquote(parts.path).split("/", 2)[2]
            found = next((one for one in own.objects if one.key == key), None)
            if self.command == "GET" and found is not None:
                return self._send(200, found.content, {"ETag": found.etag})
            if found is None:
                return self._send(404, b"", {})
            more = {"x-amz-storage-class": found.storage_class, "x-amz-restore": found.restore}
            more = {name: value for name, value in more.items() if value}
            self._send(200, b"", {"ETag": found.etag, "Content-Length": str(found.size), **more})
            return None

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/xml", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
