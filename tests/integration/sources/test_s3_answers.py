"""`s3://`: answers and settings that lead to a reason and a sentence, and not to a download that fails later."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from modelcache.sources import errors, s3_client
from modelcache.sources.base import Credential, Resolution
from modelcache.sources.s3 import S3Source
from modelcache.sources.uri import parse_uri
from tests.support.s3 import Listed, OwnS3

Start = Callable[..., OwnS3]


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # botocore tries again, after a pause.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def own() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*objects: Listed) -> OwnS3:
            server = OwnS3(objects)
            stack.callback(server.close)
            return server

        yield start


def resolve(server: OwnS3, settings: Mapping[str, str] | None = None, exclude: tuple[str, ...] = ()) -> Resolution:
    credential = Credential({**server.s3.secret_values, **(settings or {})})
    return S3Source({}).resolve(parse_uri("s3://bucket/m"), None, credential, (), exclude)


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
@pytest.mark.parametrize("restore", ["", 'ongoing-request="true"'])
def test_an_archived_object_is_named_before_anything_is_read(own: Start, storage_class: str, restore: str) -> None:
    # So many that not all are asked about.
    ordinary = [Listed(f"m/{number:03}", 1) for number in range(100)]
    server = own(*ordinary, Listed("m/041-old", 1, storage_class=storage_class, restore=restore))
    with pytest.raises(errors.Unsupported, match=rf"'041-old' is archived \({storage_class}\): restore it"):
        resolve(server)
    assert len(resolve(server, exclude=("*-old",)).files) == 100


def test_a_restored_object_is_read(own: Start) -> None:
    restore = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2040 00:00:00 GMT"'
    server = own(
        Listed("m/old", 1, storage_class="GLACIER", restore=restore), Listed("m/new", 1, storage_class="GLACIER_IR")
    )
    assert [file.path for file in resolve(server).files] == ["new", "old"]


def test_an_object_that_nothing_is_said_about(own: Start) -> None:
    """As S3 answers a HeadObject where the object is encrypted with a customer's own key."""
    server = own(Listed("m/a", 1))
    server.refuse = lambda method, path: (400, "", {}) if method == "HEAD" else None
    with pytest.raises(errors.Unsupported, match="SSE-C"):
        resolve(server)


def test_the_time_to_wait_may_be_a_date(own: Start) -> None:
    server = own(Listed("m/a", 1))
    server.refuse = lambda method, path: (418, "SlowDown", {"Retry-After": formatdate(4_000_000_000, usegmt=True)})
    with pytest.raises(errors.RateLimited) as caught:
        resolve(server)
    assert caught.value.retry_after == 86_400.0


@pytest.mark.parametrize(
    ("status", "code", "reason", "says"),
    [
        (400, "AuthorizationHeaderMalformed", "Unauthorized", "set AWS_REGION"),
        (503, "", "RateLimited", "answers 503"),
        (400, "InvalidArgument", "Unsupported", "answers InvalidArgument (400)"),
        (501, "NotImplemented", "Unreachable", "no S3"),
    ],
)
def test_a_refusal_has_a_reason_and_a_sentence(own: Start, status: int, code: str, reason: str, says: str) -> None:
    server = own()
    server.refuse = lambda method, path: (status, code, {})
    with pytest.raises(errors.SourceError) as caught:
        resolve(server)
    assert (caught.value.reason, says in caught.value.message) == (reason, True)
    assert "None" not in caught.value.message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("value", ["canary\nx", "\ufeffcanary", "canarü", "canary canary"])
def test_a_credential_that_cannot_be_sent_is_not_tried(own: Start, name: str, value: str) -> None:
    server = own(Listed("m/a", 1))
    with pytest.raises(errors.Unauthorized, match=f"{name} in spec.source.secretRef contains") as caught:
        resolve(server, {name: value})
    assert "canar" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_REGION", "us east"),
        ("AWS_REGION", "\ufeffus-east-1"),
        ("AWS_REGION", "evil.example/"),
        ("AWS_REGION", "12"),
        ("AWS_REGION", "r" * 64),
        ("AWS_ENDPOINT_URL", "http://a..b"),
        ("AWS_ENDPOINT_URL", "http://bucket name"),
        ("AWS_ENDPOINT_URL", "http://[::1"),
        ("AWS_ENDPOINT_URL", "http://host:65536"),
        ("AWS_ENDPOINT_URL", "http://user:canary@host"),
        ("AWS_ENDPOINT_URL", "http://host/?token=canary"),
    ],
)
def test_a_setting_that_cannot_be_one_is_named(own: Start, name: str, value: str) -> None:
    with pytest.raises(errors.Unsupported, match=name) as caught:
        resolve(own(Listed("m/a", 1)), {name: value})
    assert "canary" not in str(caught.value)


def test_a_listing_of_endless_keys_is_left(own: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "MAX_TEXT", 100_000)
    server = own(*(Listed(f"m/{number:0>50}", 1) for number in range(3000)))
    with pytest.raises(errors.MalformedListing, match="more than 100000 characters"):
        resolve(server)
    assert len(server.requests) == 2, "not to the end"


def test_a_listing_that_never_comes_to_an_end_is_left(own: Start) -> None:
    server = own(*(Listed(f"m/{number}", 1) for number in range(3000)))
    moments = iter([0.0, 1.0])
    source = S3Source({}, clock=lambda: next(moments, 601.0))
    with pytest.raises(errors.Unreachable, match="600 s") as caught:
        source.resolve(parse_uri("s3://bucket/m"), None, server.s3.credential, (), ())
    assert caught.value.retryable
    assert server.requests == ["GET /bucket"]
