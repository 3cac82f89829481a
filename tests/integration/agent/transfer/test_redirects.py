"""Origins that send elsewhere: signed addresses that end, credentials that stay at home, and places nobody is followed to."""

import threading
from collections.abc import Callable, Iterator

import pytest

from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import Unauthorized, Unsupported
from tests.support.fetching import PIECE, Fetching, content
from tests.support.instant_clock import InstantClock
from tests.support.origin import Fault, Origin, Request, redirect, status

Make = Callable[..., Fetching]


@pytest.fixture
def cdn() -> Iterator[Origin]:
    """Another host, as far as the client can tell."""
    with Origin(address="127.0.0.2") as server:
        yield server


def to_cdn(cdn: Origin, token: str = "sig=1") -> Fault:
    return redirect(cdn.url(f"/signed?{token}"))


def test_credentials_stay_with_the_origin(fetching: Make, cdn: Origin) -> None:
    engine = fetching()
    data = content(4 * PIECE)
    manifest = engine.serve(("a", data))
    cdn.files["/signed"] = data
    engine.origin.always["/a"] = to_cdn(cdn)
    engine.fetch(manifest)
    assert {seen.headers.get("authorization") for seen in engine.origin.seen} == {"Bearer secret"}
    assert {seen.headers.get("authorization") for seen in cdn.seen} == {None}
    assert cdn.bytes_sent == len(data)


def test_credentials_go_along_within_the_origin(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("a", b"a"))
    engine.origin.files["/elsewhere"] = b"a"
    engine.origin.always["/a"] = redirect("/elsewhere", 307)
    engine.fetch(manifest)
    assert [seen.headers["authorization"] for seen in engine.origin.seen] == ["Bearer secret"] * 2


def test_another_port_is_another_origin(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("a", b"a"))
    with Origin({"/a": b"a"}) as other:
        engine.origin.always["/a"] = redirect(other.url("/a"))
        engine.fetch(manifest)
        assert "authorization" not in other.seen[0].headers


@pytest.mark.parametrize("connections", [1, 8])
def test_a_signed_url_is_asked_for_once_and_kept_for_the_file(fetching: Make, cdn: Origin, connections: int) -> None:
    engine = fetching(connections=connections)
    data = content(10 * PIECE)
    manifest = engine.serve(("a", data))
    cdn.files["/signed"] = data
    engine.origin.always["/a"] = to_cdn(cdn)
    engine.fetch(manifest)
    assert len(engine.origin.seen) == 1
    assert len(cdn.seen) == 10


@pytest.mark.parametrize("connections", [1, 4])
def test_an_expired_signed_url_is_asked_for_again(fetching: Make, cdn: Origin, connections: int) -> None:
    engine = fetching(connections=connections)
    data = content(10 * PIECE)
    manifest = engine.serve(("a", data))
    cdn.files["/signed"] = data
    engine.origin.always["/a"] = to_cdn(cdn)
    served = threading.Semaphore(5)

    def expires(request: Request, body: bytes) -> None:
        if "sig=1" in request.path and not served.acquire(blocking=False):
            engine.origin.always["/a"] = to_cdn(cdn, "sig=2")
            request.status(403)
        else:
            request.serve(body)

    cdn.always["/signed"] = expires
    engine.fetch(manifest)
    assert cdn.bytes_sent >= len(data)
    assert engine.told[-1].fetched_bytes == len(data)


def test_a_location_that_worked_and_is_denied_is_asked_for_again(fetching: Make) -> None:
    """A token was rotated in the middle of a download."""
    engine = fetching(connections=1)
    manifest = engine.serve(("a", content(4 * PIECE)))
    tokens = iter(["old", "new"])
    valid = {"old"}

    def checks(request: Request, data: bytes) -> None:
        if request.headers["Authorization"] not in valid:
            request.status(401)
            return
        request.serve(data)
        if request.start == PIECE:
            valid.clear()
            valid.add("new")

    engine.origin.always["/a"] = checks
    engine.fetch(manifest, locate=lambda file: Location(engine.origin.url("/a"), {"Authorization": next(tokens)}, None))
    assert engine.origin.bytes_sent == manifest.size
    assert len(engine.origin.seen) == 5


def test_a_cdn_that_never_accepts_is_final(fetching: Make, cdn: Origin) -> None:
    engine = fetching()
    manifest = engine.serve(("a", b"a"))
    engine.origin.always["/a"] = to_cdn(cdn)
    cdn.always["/signed"] = status(403)
    with pytest.raises(Unauthorized, match="/signed answered 403"):
        engine.fetch(manifest)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "'file'"),
        ("ftp://host/x", "'ftp'"),
        ("http://[::1/x", "an address that is none"),
        ("/a", "more than 5 redirects"),
        ("http://169.254.169.254/latest/meta-data/", "is told about itself"),
        ("https://[::ffff:a9fe:a9fe]/", "is told about itself"),
        ("http://2852039166/", "means 169.254.169.254"),
    ],
)
def test_redirects_that_are_not_followed(fetching: Make, target: str, words: str) -> None:
    engine = fetching()
    manifest = engine.serve(("a", b"a"))
    engine.origin.always["/a"] = redirect(target)
    with pytest.raises(Unsupported, match=words):
        engine.fetch(manifest)


def test_errors_of_locate_end_or_delay_the_download(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("a", b"a"))

    def refuses(file: ManifestFile) -> Location:
        raise Unauthorized("the token expired; write a new one into the Secret")

    with pytest.raises(Unauthorized, match="new one"):
        engine.fetch(manifest, locate=refuses)


def test_a_location_that_is_over_is_asked_for_again(fetching: Make) -> None:
    clock = InstantClock()
    engine = fetching(clock=clock, connections=1)
    manifest = engine.serve(("a", content(4 * PIECE)))
    asked: list[float] = []

    def locate(file: ManifestFile) -> Location:
        asked.append(clock.unix())
        return Location(engine.origin.url("/a"), {}, clock.unix() + 100)

    def slow(request: Request, data: bytes) -> None:
        request.serve(data)
        clock.advance(60)

    engine.origin.always["/a"] = slow
    engine.fetch(manifest, locate=locate)
    assert len(asked) == 2
