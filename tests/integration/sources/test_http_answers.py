"""`https://` against servers that answer what no nginx would: each answer leads to a reason and a sentence."""

import hashlib
import socket
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from modelcache.sources import errors, http_client
from modelcache.sources.base import Credential, Resolution
from modelcache.sources.http import HttpSource
from modelcache.sources.limit import Limit
from modelcache.sources.uri import parse_uri
from tests.support.origin import Fault, Origin, redirect, stalls, status
from tests.support.waiting import PATIENCE

CONTENT = b"weights"
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({"/m/file": CONTENT}) as running:
        yield running


def resolve(origin: Origin, path: str, credential: Credential | None = None) -> Resolution:
    return HttpSource({}).resolve(parse_uri(origin.url(path)), None, credential, (), ())


def encoded(encoding: str) -> Fault:
    return lambda request, content: request.status(200, {"Content-Encoding": encoding, "ETag": '"1"'}, content)


@pytest.mark.parametrize(
    ("fault", "reason", "says"),
    [
        (redirect("http://a..b/x"), "Unsupported", "cannot exist"),
        (redirect(f"http://{'a' * 64}.example/x"), "Unsupported", "cannot exist"),
        (redirect("//[::1/x"), "Unsupported", "check the address"),
        (encoded("gzip"), "Unsupported", "compressed ('gzip')"),
        (status(451), "Unsupported", "451"),
    ],
)
def test_an_answer_that_is_no_file(origin: Origin, fault: Fault, reason: str, says: str) -> None:
    origin.fail("/m/file", fault)
    with pytest.raises(errors.SourceError) as caught:
        resolve(origin, "/m/file")
    assert caught.value.reason == reason
    assert says in caught.value.message


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"Token": "canary"},
        {"token": "canary\nx"},
        {"token": "\ufeffcanary"},
        {"username": "canary"},
        {"username": "user:canary", "password": "canary"},
    ],
)
def test_a_credential_that_cannot_be_sent_is_not_tried(origin: Origin, values: dict[str, str]) -> None:
    with pytest.raises(errors.Unauthorized, match=r"spec\.source\.secretRef") as caught:
        resolve(origin, "/m/file", Credential(values))
    assert "canary" not in caught.value.message
    assert origin.seen == []


def test_the_time_to_wait_may_be_a_date(origin: Origin) -> None:
    origin.fail("/m/file", status(429, Retry_After=formatdate(4_000_000_000, usegmt=True)))
    with pytest.raises(errors.RateLimited) as caught:
        resolve(origin, "/m/file")
    assert caught.value.retry_after == 86_400.0


@pytest.mark.parametrize("path", ["../m/file", "/m/file", "a//b", "a/../../b", "a/", "\x01", "n" * 256])
def test_a_path_that_could_not_be_stored_is_not_asked_for(origin: Origin, path: str) -> None:
    origin.files["/m/SHA256SUMS"] = f"{SUM}  {path}\n".encode()
    with pytest.raises(errors.UnsafePath, match="correct the list"):
        resolve(origin, "/m/")
    assert [seen.path for seen in origin.seen] == ["/m/SHA256SUMS"]


def test_a_list_of_nothing_is_no_model(origin: Origin) -> None:
    origin.files["/m/SHA256SUMS"] = b"\r\n"
    with pytest.raises(errors.EmptyRepository, match="lists no files"):
        resolve(origin, "/m/")


def test_a_server_that_never_comes_to_an_end_is_left(origin: Origin) -> None:
    origin.files["/m/SHA256SUMS"] = f"{SUM}  file\n".encode()
    moments = iter([0.0, 1.0, 2.0])
    source = HttpSource({}, clock=lambda: next(moments, 601.0))
    with pytest.raises(errors.Unreachable, match="600 s") as caught:
        source.resolve(parse_uri(origin.url("/m/")), None, None, (), ())
    assert caught.value.retryable
    assert [seen.path for seen in origin.seen] == ["/m/SHA256SUMS"]


@pytest.mark.parametrize("after", [0, 3])
def test_a_server_that_falls_silent_is_left(origin: Origin, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(http_client, "_DEADLINE", 0.05)
    origin.files["/m/SHA256SUMS"] = f"{SUM}  file\n".encode()
    origin.fail("/m/SHA256SUMS", stalls(after))
    source = HttpSource({}, timeout=PATIENCE, clock=lambda: 0.0)
    with pytest.raises(errors.Unreachable):
        source.resolve(parse_uri(origin.url("/m/")), None, None, (), ())


def test_connections_that_the_server_ends_leave_nothing_behind(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"f{number}" for number in range(400)]
    origin.files["/m/SHA256SUMS"] = "".join(f"{SUM}  {name}\n" for name in names).encode()
    for name in names:
        origin.always[f"/m/{name}"] = lambda request, content: request.status(200, {"Connection": "close"}, CONTENT)
    there: set[Limit] = set()
    most = 0

    class Counted(Limit):
        def __init__(self, connection: socket.socket, seconds: float) -> None:
            nonlocal most
            super().__init__(connection, seconds)
            there.add(self)
            most = max(most, len(there))

        def lift(self) -> None:
            super().lift()
            there.discard(self)

    monkeypatch.setattr(http_client, "Limit", Counted)
    assert len(resolve(origin, "/m/").files) == len(names) + 1
    assert most < 200
    assert not there
