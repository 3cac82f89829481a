"""The bytes of files: headers, redirects, ranges, signatures, and everything that can go wrong on purpose."""

import gzip
import http.client
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from local.hub.faults import Close, Flip, Gzip, IgnoreRange, Stall, Status, Truncate
from local.hub.repository import Repository
from local.hub.server import HubServer
from local.hub.signing import Signer
from tests.support.hub import Serve, ask
from tests.support.waiting import PATIENCE, wait_until

CONTENT = bytes(range(256)) * 1024
TEXT = b'{"a": 1}\n' * 100


@pytest.fixture(params=["memory", "disk"])
def server(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> HubServer:
    """Two files, one in LFS; from memory and from disk they must look the same."""
    files = {"model.safetensors": CONTENT, "dir/config.json": TEXT}
    if request.param == "memory":
        return serve(Repository("o/n", dict(files)))
    for path, content in files.items():
        (tmp_path / "repo" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / path).write_bytes(content)
    return serve(Repository("o/n", tmp_path / "repo"))


def small(server: HubServer) -> str:
    return f"{server.url}/o/n/resolve/main/dir/config.json"


def signed(server: HubServer) -> str:
    """The address to which the large file's redirects."""
    return ask(f"{server.url}/o/n/resolve/main/model.safetensors").headers["location"]


def test_headers_of_a_file_in_git(server: HubServer) -> None:
    commit = server.hub.repositories["o/n"].find("main")
    assert commit is not None
    head, get = ask(small(server), "HEAD"), ask(small(server))
    for answer in (head, get):
        assert answer.status == 200
        assert answer.headers["x-repo-commit"] == commit.id
        assert answer.headers["content-length"] == str(len(TEXT))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["etag"] == f'"{commit.files["dir/config.json"].blob_id}"'
        assert "x-linked-size" not in answer.headers
    assert head.body == b""
    assert get.body == TEXT


def test_headers_of_a_file_in_lfs(server: HubServer) -> None:
    for method in ("HEAD", "GET"):
        answer = ask(f"{server.url}/o/n/resolve/main/model.safetensors", method)
        assert answer.status == 302
        assert answer.headers["x-linked-size"] == str(len(CONTENT))
        assert len(answer.headers["x-linked-etag"].strip('"')) == 64
        assert answer.headers["x-repo-commit"] == server.hub.repositories["o/n"].refs()[0]["main"]
        assert not any("xet" in name for name in answer.headers)
        location = urlsplit(answer.headers["location"])
        assert location.netloc != urlsplit(server.url).netloc
        assert "Expires=" in location.query
        assert ask(answer.headers["location"]).body == CONTENT


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-70000", 1000, 70001),
        ("bytes=262143-", 262143, 262144),
        ("bytes=-5", 262139, 262144),
        ("bytes=262000-999999", 262000, 262144),
    ],
)
def test_ranges(server: HubServer, header: str, start: int, stop: int) -> None:
    answer = ask(signed(server), headers={"Range": header})
    assert answer.status == 206
    assert answer.body == CONTENT[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert server.hub.stats.bytes_of("o/n", "model.safetensors") == stop - start


def test_ranges_of_small_files_and_outside(server: HubServer) -> None:
    assert ask(small(server), headers={"Range": "bytes=2-5"}).body == TEXT[2:6]
    outside = ask(small(server), headers={"Range": f"bytes={len(TEXT)}-"})
    assert outside.status == 416
    assert outside.headers["content-range"] == f"bytes */{len(TEXT)}"


def test_a_connection_serves_many_requests(server: HubServer) -> None:
    parts = urlsplit(signed(server))
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    for start in range(0, len(CONTENT), 65536):
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"Range": f"bytes={start}-{start + 65535}"})
        assert connection.getresponse().read() == CONTENT[start : start + 65536]
    connection.close()


def test_a_token_at_the_cdn_is_refused_and_counted(server: HubServer) -> None:
    answer = ask(signed(server), headers={"Authorization": "Bearer hf_leaked"})
    assert answer.status == 400
    assert server.hub.stats.describe()["tokens_on_cdn"] == 1


def test_signed_addresses_expire(serve: Serve) -> None:
    now = [1e9]
    server = serve(Repository("o/n", {"model.safetensors": CONTENT}), signer=Signer(60, lambda: now[0]))
    location = signed(server)
    assert ask(location).status == 200
    now[0] += 60
    assert ask(location).status == 403
    assert ask(signed(server)).status == 200
    location = signed(server)
    server.hub.signer.revoke()
    assert ask(location).status == 403
    assert ask(location.partition("?")[0]).status == 403


def test_a_flipped_byte_is_in_every_range_that_has_it(server: HubServer) -> None:
    number = server.hub.faults.add(Flip(file="*.safetensors", offset=1000, xor=0xFF))
    wrong = bytearray(CONTENT)
    wrong[1000] ^= 0xFF
    assert ask(signed(server)).body == wrong
    assert ask(signed(server), headers={"Range": "bytes=1000-1000"}).body == wrong[1000:1001]
    assert ask(signed(server), headers={"Range": "bytes=1001-2000"}).body == CONTENT[1001:2001]
    assert server.hub.faults.applied(number) == 2
    assert server.hub.stats.bytes_of("o/n", "model.safetensors") == len(CONTENT) + 1 + 1000


def test_a_truncated_body_looks_complete(server: HubServer) -> None:
    server.hub.faults.add(Truncate(length=100, times=1))
    short = ask(signed(server))
    assert (short.status, short.headers["content-length"], short.body) == (200, "100", CONTENT[:100])
    assert ask(signed(server)).body == CONTENT


@contextmanager
def opened(url: str) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    connection.request("GET", f"{parts.path}?{parts.query}")
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def test_a_closed_connection_breaks_its_promise(server: HubServer) -> None:
    server.hub.faults.add(Close(after=100, times=1))
    with opened(signed(server)) as response:
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        assert response.getheader("Content-Length") == str(len(CONTENT))
        assert caught.value.partial == CONTENT[:100]


def test_a_stalled_body_goes_on_when_the_fault_is_removed(server: HubServer) -> None:
    number = server.hub.faults.add(Stall(after=100))
    with opened(signed(server)) as response:
        assert response.read(100) == CONTENT[:100]
        wait_until(lambda: server.hub.stats.bytes_of("o/n", "model.safetensors") == 100)
        assert server.hub.stats.describe()["open_bodies"] == 1
        server.hub.faults.remove(number)
        assert response.read() == CONTENT[100:]
    wait_until(lambda: server.hub.stats.describe()["open_bodies"] == 0)


def test_an_ignored_range(server: HubServer) -> None:
    server.hub.faults.add(IgnoreRange(times=1))
    answer = ask(signed(server), headers={"Range": "bytes=5-9"})
    assert (answer.status, answer.body) == (200, CONTENT)
    assert "content-range" not in answer.headers
    assert ask(signed(server), headers={"Range": "bytes=5-9"}).status == 206


def test_compressed_text_has_no_length_and_no_ranges(server: HubServer) -> None:
    server.hub.faults.add(Gzip())
    answer = ask(small(server), headers={"Accept-Encoding": "gzip", "Range": "bytes=5-9"})
    assert answer.status == 200
    assert "content-length" not in answer.headers
    assert gzip.decompress(answer.body) == TEXT
    assert ask(small(server), headers={"Accept-Encoding": "identity", "Range": "bytes=5-9"}).body == TEXT[5:10]


@pytest.mark.parametrize("status", [429, 500, 503, 403])
def test_refusals_for_a_while(server: HubServer, status: int) -> None:
    location = signed(server)
    server.hub.faults.add(Status(status=status, retry_after=7, times=2, on=["cdn"]))
    assert ask(small(server)).status == 200
    assert [ask(location).status for _ in range(3)] == [status, status, 200]
    server.hub.faults.add(Status(status=status, retry_after=7, times=1, on=["api"]))
    refused = ask(f"{server.url}/api/models/o/n")
    assert (refused.status, refused.headers["retry-after"]) == (status, "7")


def test_the_limit_counts_all_bodies_together(server: HubServer) -> None:
    waited: list[tuple[int, float]] = []
    limits = server.hub.limits
    limits.bytes_per_second = 10_000_000.0
    limits.wait_for = lambda size: waited.append((size, 0.0))  # type: ignore[method-assign]  # to see it asked, without waiting
    location = signed(server)
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(lambda _: ask(location).body, range(4)))
    assert bodies == [CONTENT] * 4
    assert sum(size for size, _ in waited) == 4 * len(CONTENT)
    assert max(size for size, _ in waited) <= limits.bytes_per_second / 20


def test_closing_leaves_no_thread_and_breaks_stalled_clients(serve: Serve) -> None:
    before = set(threading.enumerate())
    server = serve(Repository("o/n", {"a.txt": b"0123456789"}))
    server.hub.faults.add(Stall(after=5))
    idle = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    idle.request("GET", "/api/models/o/n")
    assert idle.getresponse().read()
    with opened(f"{server.url}/o/n/resolve/main/a.txt") as response:
        assert response.read(5) == b"01234"
        server.close()
    assert set(threading.enumerate()) <= before
    idle.close()


def test_clients_that_vanish_are_no_error(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(Repository("o/n", {"model.safetensors": CONTENT * 64}))
    parts = urlsplit(signed(server))
    for request in (b"", b"GET", f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()):
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE) as connection:
            connection.sendall(request)
            if request.endswith(b"\r\n\r\n"):
                assert connection.recv(100)
            # Closing with unread data, or without lingering, resets the connection instead of ending it.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: server.hub.stats.describe()["open_bodies"] == 0)
    assert ask(signed(server), headers={"Range": "bytes=0-0"}).status == 206
    server.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_file_that_shrinks_ends_the_connection(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    server = serve(Repository("o/n", tmp_path))
    (tmp_path / "a.txt").write_bytes(b"0123")
    with opened(f"{server.url}/o/n/resolve/main/a.txt") as response, pytest.raises(http.client.IncompleteRead):
        response.read()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/nothing", 404),
        ("GET", "/api/models/o/n/nothing", 404),
        ("GET", "/api/models/o/n/revision/%FF", 404),
        ("GET", "/api/models/o/n/tree/main?cursor=nonsense", 400),
        ("GET", "/api/models/o/n/tree/main?limit=x", 400),
        ("POST", "/api/models/o/n/paths-info/main", 200),
        ("GET", "/o/n/resolve/main/../../../etc/passwd", 404),
        ("GET", "/o/n/resolve/main/%0D%0AX-Evil:1", 404),
        ("GET", "/api/datasets/o/n", 401),
    ],
)
def test_strange_requests_are_answered(server: HubServer, method: str, path: str, status: int) -> None:
    answer = ask(server.url + path, method)
    assert answer.status == status
    assert "x-evil" not in answer.headers
