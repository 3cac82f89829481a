"""Which failure an answer is, and what it says."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube import errors
from modelcache.kube.errors import error_from_body, parse_retry_after, printable


def parse(status: int, body: bytes, retry_after: str | None = None) -> errors.KubeError:
    return error_from_body(
        body, status=status, verb="patch", subject='pods "a/b"', server="http://s", retry_after=retry_after
    )


def status_body(**fields: Any) -> bytes:
    return json.dumps({"kind": "Status", "apiVersion": "v1", **fields}).encode()


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", errors.Invalid),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (409, "", errors.Conflict),
        (410, "Expired", errors.Gone),
        (410, "Gone", errors.Gone),
        (415, "UnsupportedMediaType", errors.Invalid),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.ServerError),
        (503, "ServiceUnavailable", errors.ServerError),
        (504, "Timeout", errors.ServerError),
        (418, "Teapot", errors.ServerError),
    ],
)
def test_class_by_reason_and_code(code: int, reason: str, expected: type[errors.KubeError]) -> None:
    error = parse(code, status_body(code=code, reason=reason, message="because"))
    assert type(error) is expected
    assert (error.status, error.reason, error.message) == (code, reason, "because")


def test_message_names_verb_object_reason_and_server() -> None:
    error = parse(409, status_body(reason="Conflict", message="the object has been modified"))
    assert str(error) == 'patch pods "a/b": Conflict (409): the object has been modified [http://s]'


def test_answer_of_a_proxy_in_between() -> None:
    error = parse(502, b"<html>\n<h1>Bad\x00 Gateway</h1>" + b"x" * 5000)
    assert isinstance(error, errors.ServerError)
    assert str(error).startswith('patch pods "a/b": HTTP 502: <html> <h1>Bad Gateway</h1>xxx')
    assert len(str(error)) < 400
    assert parse(404, b"").message == "empty answer"


def test_error_event_of_a_watch_has_its_code_in_the_body() -> None:
    error = parse(0, status_body(code=410, message="too old resource version"))
    assert isinstance(error, errors.Gone)
    assert error.status == 410


def test_version_of_the_future_is_gone_too() -> None:
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
    assert isinstance(parse(504, status_body(reason="Timeout", details=details)), errors.Gone)
    assert isinstance(parse(504, status_body(reason="Timeout", details={"causes": 5})), errors.ServerError)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), (" 17 ", 17.0), ("-1", None), ("soon", None), ("9" * 400, 3600.0), ("0", 0.0)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds
    assert parse(429, b"", header).retry_after == seconds


@settings(deadline=None)
@given(body=st.binary(max_size=200), code=st.integers(300, 599))
def test_any_body_gives_an_error(body: bytes, code: int) -> None:
    assert parse(code, body).status == code


@settings(deadline=None)
@given(text=st.text(max_size=100), limit=st.integers(1, 50))
def test_printable_is_one_short_line(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
