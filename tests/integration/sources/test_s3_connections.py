"""`s3://`: who is really connected to, whatever a name has meant before."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelcache.sources import destinations, errors, s3_connections
from modelcache.sources.base import Credential, Resolution
from modelcache.sources.s3 import S3Source
from modelcache.sources.uri import parse_uri
from tests.support.connect_proxy import ConnectProxy
from tests.support.nginx import AUTHORITY
from tests.support.s3 import Listed, OwnS3
from tests.support.waiting import PATIENCE

NAME = "rebinding.example"
OBJECT = Listed("m/a", 1, content=b"a")


def name_means(monkeypatch: pytest.MonkeyPatch, when_asked: str, when_connected: str) -> None:
    """NAME stands for one address when `destinations` asks, and for another one when anybody connects."""
    real = socket.getaddrinfo

    def answering(address: str) -> Callable[..., Any]:
        return lambda host, *arguments, **options: real(address if host == NAME else host, *arguments, **options)

    check = destinations.check_name
    monkeypatch.setattr(destinations, "check_name", lambda host, port: check(host, port, answering(when_asked)))
    monkeypatch.setattr(socket, "getaddrinfo", answering(when_connected))


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # In place of the link-local addresses, which nobody answers at here.
    monkeypatch.setattr(destinations, "_FORBIDDEN", (ipaddress.ip_network("127.0.0.1/32"),))
    # botocore tries again, after a pause.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))


def resolve(server: OwnS3) -> Resolution:
    values = {**server.s3.secret_values, "AWS_ENDPOINT_URL": server.s3.url.replace("127.0.0.1", NAME)}
    return S3Source({}).resolve(parse_uri("s3://bucket/m"), None, Credential(values), (), ())


@pytest.mark.parametrize("certificate", [None, AUTHORITY])
def test_a_name_that_changes_its_mind_before_the_connection_is_of_no_use(
    own: Callable[..., OwnS3], monkeypatch: pytest.MonkeyPatch, certificate: Path | None
) -> None:
    server = own(OBJECT, certificate=certificate)
    name_means(monkeypatch, "127.0.0.2", "127.0.0.1")
    with pytest.raises(errors.Unsupported, match=f"{NAME} means 127.0.0.1"):
        resolve(server)
    assert server.requests == []


def test_a_name_that_means_a_forbidden_address_is_not_connected_to(
    own: Callable[..., OwnS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own(OBJECT)
    name_means(monkeypatch, "127.0.0.1", "127.0.0.2")
    with pytest.raises(errors.Unsupported, match=f"{NAME} means 127.0.0.1"):
        resolve(server)


def test_other_addresses_are_connected_to(own: Callable[..., OwnS3], monkeypatch: pytest.MonkeyPatch) -> None:
    server = own(OBJECT)
    monkeypatch.setattr(destinations, "_FORBIDDEN", (ipaddress.ip_network("127.0.0.2/32"),))
    name_means(monkeypatch, "127.0.0.1", "127.0.0.1")
    assert [file.path for file in resolve(server).files] == ["a"]


def test_whom_a_proxy_connects_to_is_for_the_proxy_to_judge(
    own: Callable[..., OwnS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own(OBJECT)
    name_means(monkeypatch, "127.0.0.2", "127.0.0.1")
    with ConnectProxy() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.netloc}")
        with contextlib.suppress(errors.SourceError):  # this proxy forwards no HEAD
            resolve(server)
    assert server.requests[0] == "GET /bucket"


@pytest.mark.parametrize("status", [200, 404])
def test_an_endless_answer_is_not_taken_into_memory(
    own: Callable[..., OwnS3], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    server = own(OBJECT)
    monkeypatch.setattr(destinations, "_FORBIDDEN", ())
    monkeypatch.setattr(s3_connections, "LARGEST_ANSWER", 100_000)
    name_means(monkeypatch, "127.0.0.1", "127.0.0.1")
    assert [file.path for file in resolve(server).files] == ["a"]
    if status == 200:
        server.body = b" " * 100_001
    else:
        server.refuse = lambda method, path: (status, "x" * 100_001, {})
    with pytest.raises(errors.MalformedListing, match="more than 100000 bytes"):
        resolve(server)


@pytest.mark.parametrize("body", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<"])
def test_a_server_that_never_comes_to_an_end_is_left(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(s3_connections, "LONGEST_ANSWER", 0.05)
    monkeypatch.setattr(destinations, "_FORBIDDEN", ())
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as accepted:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the end of the test
                while True:
                    connection = accepted.enter_context(listening.accept()[0])
                    connection.recv(65536)
                    connection.sendall(body)

        threading.Thread(target=serve, daemon=True).start()
        values = {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listening.getsockname()[1]}",
        }
        source = S3Source({}, timeout=PATIENCE)
        with pytest.raises(errors.Unreachable):
            source.resolve(parse_uri("s3://bucket/m"), None, Credential(values), (), ())
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("certificate", [None, AUTHORITY])
def test_nothing_stays_of_an_exchange_that_fails(certificate: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "_FORBIDDEN", ())
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the end of the test
                while True:
                    listening.accept()[0].close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        scheme = "https" if certificate else "http"
        values = {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_ENDPOINT_URL": f"{scheme}://127.0.0.1:{listening.getsockname()[1]}",
        }
        with pytest.raises(errors.Unreachable):
            S3Source({}).resolve(parse_uri("s3://bucket/m"), None, Credential(values), (), ())
        listening.shutdown(socket.SHUT_RDWR)
    limits = [thread for thread in set(threading.enumerate()) - before if isinstance(thread, threading.Timer)]
    assert all(limit.finished.is_set() for limit in limits)
