"""What object stores say in the bodies of their errors, and conditions that are not met any more."""

from collections.abc import Callable

import pytest

from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import NotFound, SourceChanged, Unauthorized, Unsupported
from tests.support.fetching import PIECE, Fetching, content
from tests.support.origin import Fault, Request

Make = Callable[..., Fetching]


def refusal(status: int, code: str, content_type: str = "application/xml") -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>the secret part</Message></Error>".encode()
    return lambda request, data: request.status(
        status, {"Content-Type": content_type, "Content-Length": str(len(body))}, body
    )


@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
def test_slow_down_is_waited_out_as_a_rate_limit(fetching: Make, code: str) -> None:
    engine = fetching(connections=1)
    manifest = engine.serve(("a", b"a"))
    engine.origin.fail("/a", refusal(503, code))
    engine.fetch(manifest)
    waiting = next(progress.waiting for progress in engine.told if progress.waiting)
    assert waiting.reason == ("RateLimited" if code == "SlowDown" else "Unreachable")
    assert f"({code})" in waiting.message
    assert "secret part" not in waiting.message


def test_an_address_that_has_expired_is_signed_again(fetching: Make) -> None:
    """S3 answers 400 then, which otherwise is an answer that nothing can be done about."""
    engine = fetching(connections=1)
    manifest = engine.serve(("a", content(3 * PIECE)))
    served = []

    def expires(request: Request, data: bytes) -> None:
        served.append(request.path)
        if len(served) == 2:
            refusal(400, "ExpiredToken")(request, data)
        else:
            request.serve(data)

    engine.origin.always["/a"] = expires
    engine.fetch(manifest)
    assert engine.located == ["a", "a"]


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (refusal(412, "PreconditionFailed"), SourceChanged, "replaced"),
        (refusal(400, "ExpiredToken"), Unauthorized, "credential"),
        (refusal(403, "InvalidAccessKeyId"), Unauthorized, "InvalidAccessKeyId"),
        (refusal(403, "InvalidObjectState"), Unsupported, "restore it in S3"),
        (refusal(404, "NoSuchVersion"), NotFound, "NoSuchVersion"),
        (refusal(400, "<b>"), Unsupported, "400"),
        (refusal(400, "ExpiredToken", "text/plain"), Unsupported, "400"),
    ],
)
def test_what_cannot_be_waited_out_ends_the_download(fetching: Make, fault: Fault, kind: type, says: str) -> None:
    engine = fetching()
    manifest = engine.serve(("dir/file", b"content"))
    engine.origin.always["/dir/file"] = fault
    with pytest.raises(kind, match="dir/file") as caught:
        engine.fetch(manifest)
    assert says in str(caught.value)
    assert "secret part" not in str(caught.value)


def test_the_version_is_asked_for_with_every_request(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("a", content(3 * PIECE)))

    def locate(file: ManifestFile) -> Location:
        return Location(engine.origin.url("/a?X-Amz-Signature=abc"), {"If-Match": '"v1"'})

    engine.fetch(manifest, locate=locate)
    assert {seen.headers["if-match"] for seen in engine.origin.seen} == {'"v1"'}
