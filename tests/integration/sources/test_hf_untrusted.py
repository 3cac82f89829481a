"""`hf://` against servers that are no hub, or want the token: what they answer is scripted byte by byte."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modelcache.sources import errors, hf_client
from modelcache.sources.base import Credential, Resolution
from modelcache.sources.hf import HuggingFaceSource
from modelcache.sources.uri import parse_uri

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISION = "/api/models/o/n/revision/main"
TREE = f"/api/models/o/n/tree/{COMMIT}"
TOKEN = "hf_secret"

ScriptedAnswer = tuple[int, Mapping[str, str], bytes]
NOT_FOUND: ScriptedAnswer = (404, {}, b"{}")


class Script:
    """What a server answers by path, and what it was sent."""

    def __init__(self) -> None:
        self.answers: dict[str, ScriptedAnswer] = {}
        self.seen: list[tuple[str, str | None]] = []
        """Request target and Authorization of each request."""
        self.url = ""

    def answer(self, path: str, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = (status, headers or {}, content)

    def hub(self, *paths: str, next_page: str = "") -> None:
        """Answer like a hub with some files."""
        self.answer(REVISION, {"sha": COMMIT})
        entries = [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in paths]
        self.answer(TREE, entries, headers={"Link": f'<{next_page}>; rel="next"'} if next_page else {})

    @property
    def tokens(self) -> set[str | None]:
        return {authorization for _, authorization in self.seen}


@pytest.fixture
def script() -> Iterator[Callable[[], Script]]:
    """Start scripted servers."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start() -> Script:
        scripted = Script()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                scripted.seen.append((self.path, self.headers.get("Authorization")))
                exact = scripted.answers.get(self.path)
                status, headers, body = exact or scripted.answers.get(self.path.partition("?")[0], NOT_FOUND)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        scripted.url = f"http://127.0.0.1:{server.server_port}"
        return scripted

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


Start = Callable[[], Script]


def resolve(script: Script) -> Resolution:
    source = HuggingFaceSource({"HF_ENDPOINT": script.url})
    return source.resolve(parse_uri("hf://o/n"), None, Credential({"token": TOKEN}), (), ())


def test_the_token_goes_to_the_hub(script: Start) -> None:
    hub = script()
    hub.hub("a", "b")
    assert [file.path for file in resolve(hub).files] == ["a", "b"]
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_link_to_another_host_is_followed_at_the_hub(script: Start) -> None:
    hub, other = script(), script()
    hub.hub("a", next_page=f"{other.url}{TREE}?recursive=true&cursor=x")
    hub.answer(f"{TREE}?recursive=true&cursor=x", [{"type": "file", "path": "b", "size": 1, "oid": "0" * 40}])
    assert [file.path for file in resolve(hub).files] == ["a", "b"]
    assert other.seen == []


def test_a_relative_link_is_followed(script: Start) -> None:
    hub = script()
    hub.hub("a", next_page=f"{TREE}?cursor=x")
    hub.answer(f"{TREE}?cursor=x", [{"type": "file", "path": "b", "size": 1, "oid": "0" * 40}])
    assert [file.path for file in resolve(hub).files] == ["a", "b"]


def test_a_link_to_something_else_is_refused(script: Start) -> None:
    hub = script()
    hub.hub("a", next_page="http://127.0.0.1:1/latest/meta-data")
    with pytest.raises(errors.MalformedListing, match="latest/meta-data"):
        resolve(hub)


def test_a_redirect_to_another_host_gets_no_token(script: Start) -> None:
    hub, other = script(), script()
    other.hub("a")
    for path in (REVISION, TREE):
        hub.answer(path, {}, 307, {"Location": f"{other.url}{path}"})
    assert [file.path for file in resolve(hub).files] == ["a"]
    assert other.tokens == {None}


def test_a_renamed_repository_is_found_under_its_old_name(script: Start) -> None:
    hub = script()
    hub.hub("a")
    hub.answer(REVISION, {}, 307, {"Location": "/api/models/o/new/revision/main"})
    hub.answer("/api/models/o/new/revision/main", {"sha": COMMIT})
    resolution = resolve(hub)
    assert resolution.uri == "hf://o/n"
    assert hub.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://169.254.169.254/latest/meta-data/", "told about itself"),
        ("http://[::ffff:169.254.169.254]/", "told about itself"),
        ("http://2852039166/", "means 169.254.169.254"),
        ("http://a..b/", "HF_ENDPOINT"),
        ("ftp://host/x", "not followed"),
        ("", "not followed"),
    ],
)
def test_a_redirect_that_is_not_followed(script: Start, location: str, says: str) -> None:
    hub = script()
    hub.answer(REVISION, "", 307, {"Location": location})
    with pytest.raises(errors.Unsupported, match=says):
        resolve(hub)


def test_a_redirect_in_a_circle(script: Start) -> None:
    hub = script()
    hub.answer(REVISION, {}, 307, {"Location": REVISION})
    with pytest.raises(errors.MalformedListing, match="HF_ENDPOINT"):
        resolve(hub)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Log in to the guest network</html>",
        b"",
        b"[]",
        b'{"sha": "main"}',
        b'{"sha": null}',
        b'{"sha": "%s\\n"}' % COMMIT.encode(),
        b'{"sha": "\xff"}',
        b'{"sha": "%s", "gated": {}}' % COMMIT.encode(),
    ],
)
def test_a_revision_that_is_none(script: Start, body: bytes) -> None:
    hub = script()
    hub.answer(REVISION, body)
    with pytest.raises(errors.MalformedListing, match="HF_ENDPOINT"):
        resolve(hub)


@pytest.mark.parametrize(
    "body", [b"<html></html>", b"{}", b"[1]", b'[{"path": "a"}]', b'[{"type": "file"}]', b'["a"', b"null"]
)
def test_a_listing_that_is_none(script: Start, body: bytes) -> None:
    hub = script()
    hub.hub("a")
    hub.answer(TREE, body)
    with pytest.raises(errors.MalformedListing, match="HF_ENDPOINT"):
        resolve(hub)


def test_entries_of_other_kinds_are_no_files(script: Start) -> None:
    hub = script()
    hub.answer(REVISION, {"sha": COMMIT})
    entries = [{"type": "directory", "path": "d"}, {"type": "commit", "path": "submodule"}]
    hub.answer(TREE, [*entries, {"type": "file", "path": "a", "size": 1, "oid": "0" * 40, "unknown": 1}])
    assert [file.path for file in resolve(hub).files] == ["a"]


def test_an_answer_without_end_is_cut_off(script: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_client, "_LARGEST_ANSWER", 1000)
    hub = script()
    hub.answer(REVISION, {"sha": COMMIT, "siblings": ["x" * 2000]})
    with pytest.raises(errors.MalformedListing, match="more than 1000 bytes"):
        resolve(hub)


def test_too_many_files_are_no_model(script: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_client, "_MOST_FILES", 3)
    hub = script()
    hub.hub("a", "b", "c", "d")
    with pytest.raises(errors.MalformedListing, match="more than 3 files"):
        resolve(hub)


def test_a_server_that_repeats_the_token_does_not_get_it_into_the_message(script: Start) -> None:
    hub = script()
    for status in (400, 401, 403, 404, 500):
        hub.answer(REVISION, {"error": f"bad {TOKEN}"}, status, {"X-Error-Message": f"bad {TOKEN}"})
        with pytest.raises(errors.SourceError) as caught:
            resolve(hub)
        assert TOKEN not in str(caught.value)
        # Nor into a traceback.
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
