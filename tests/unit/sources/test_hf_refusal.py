"""What a hub answers instead of a listing, in words."""

from collections.abc import Mapping
from email.utils import formatdate

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status

from modelcache.sources import errors
from modelcache.sources.hf_access import Access
from modelcache.sources.hf_refusal import Asked, explain, retry_after
from modelcache.sources.uri import parse_uri

ENDPOINT = "https://mirror.example"
NOW = 1_800_000_000.0


def asked(token: str | None = None, endpoint: str = ENDPOINT) -> Asked:
    return Asked(Access(endpoint, token, "spec.source.secretRef"), parse_uri("hf://org/name"), "v1")


def refusal(status: int, headers: Mapping[str, str]) -> HfHubHTTPError:
    """What huggingface_hub makes of an answer; the server's own text must not come through."""
    request = httpx2.Request("GET", f"{ENDPOINT}/api/models/org/name/revision/v1")
    response = httpx2.Response(status, headers={"X-Error-Message": "sErVeR", **headers}, request=request, content=b"{}")
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(response)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "token", "kind", "says"),
    [
        (401, "RepoNotFound", None, errors.NotFound, "spec.source.secretRef"),
        (404, "RepoNotFound", "hf_x", errors.NotFound, "permissions"),
        (404, "RevisionNotFound", None, errors.RevisionNotFound, "'v1'"),
        (404, "EntryNotFound", None, errors.SourceChanged, "does not have any more"),
        (401, "GatedRepo", None, errors.Unauthorized, "accept its terms at https://mirror.example/org/name"),
        (403, "GatedRepo", "hf_x", errors.LicenseNotAccepted, "accept the terms at https://mirror.example/org/name"),
        (403, None, None, errors.Unauthorized, "spec.source.secretRef"),
        (403, None, "hf_x", errors.Unauthorized, "may not read"),
        (404, None, None, errors.NotFound, "HF_ENDPOINT"),
        (418, None, None, errors.MalformedListing, "HF_ENDPOINT"),
        (400, None, None, errors.MalformedListing, "400"),
        (500, None, None, errors.Unreachable, "500"),
        (503, None, None, errors.Unreachable, "503"),
        (408, None, None, errors.Unreachable, "408"),
        (429, None, None, errors.RateLimited, "fewer requests"),
    ],
)
def test_says_what_happened_and_what_to_do(
    status: int, code: str | None, token: str | None, kind: type[errors.SourceError], says: str
) -> None:
    error = explain(refusal(status, {"X-Error-Code": code} if code else {}), asked(token), NOW)
    assert type(error) is kind
    assert says in error.message
    assert "org/name" in error.message
    assert "sErVeR" not in error.message
    assert "hf_x" not in error.message


def test_a_refused_token() -> None:
    answer = refusal(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    error = explain(answer, asked("hf_x"), NOW)
    assert type(error) is errors.Unauthorized
    assert "does not accept the token from spec.source.secretRef" in error.message


def test_a_disabled_repository() -> None:
    error = explain(refusal(403, {"X-Error-Message": "Access to this resource is disabled."}), asked(), NOW)
    assert type(error) is errors.NotFound
    assert "disabled" in error.message


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (httpx2.ConnectError("[Errno 111] Connection refused"), errors.Unreachable, "Connection refused"),
        (httpx2.ReadTimeout("timed out"), errors.Unreachable, "in time"),
        (httpx2.RemoteProtocolError("peer closed connection"), errors.Unreachable, "peer closed"),
        (httpx2.ProxyError("403 Forbidden"), errors.Unreachable, "proxy"),
        (UnicodeError("label empty or too long"), errors.MalformedListing, "HF_ENDPOINT"),
        (OfflineModeIsEnabled("offline"), errors.Unreachable, "HF_HUB_OFFLINE"),
    ],
)
def test_silence_names_the_endpoint(error: Exception, kind: type[errors.SourceError], says: str) -> None:
    explained = explain(error, asked(), NOW)
    assert type(explained) is kind
    assert says in explained.message


def test_an_unreachable_host_is_named_with_the_setting_that_chose_it() -> None:
    refused = httpx2.ConnectError("refused")
    assert "HF_ENDPOINT, which names this address" in explain(refused, asked(), NOW).message
    public = explain(refused, asked(endpoint="https://huggingface.co"), NOW).message
    assert "https://huggingface.co" in public
    assert "set its HF_ENDPOINT to a mirror" in public


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "9" * 30}, 86_400.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=12;t=55'}, None),
        ({"retry-after": "3", "ratelimit": '"api";r=0;t=55'}, 3.0),
    ],
)
def test_how_long_to_wait(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after(httpx2.Headers(dict(headers)), NOW) == seconds


def test_waiting_is_carried_by_the_error() -> None:
    error = explain(refusal(429, {"Retry-After": "17"}), asked(), NOW)
    assert error.retry_after == 17.0
    assert error.retryable
    assert "17 s" in error.message
    assert explain(refusal(503, {"Retry-After": "4"}), asked(), NOW).retry_after == 4.0
