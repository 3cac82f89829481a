"""Which hub, which token, which address: decided by the environment and the Secret alone."""

from collections.abc import Mapping

import pytest

from modelcache.sources.base import Credential, SourceFile
from modelcache.sources.errors import InvalidURI, Unauthorized, UnsafePath, Unsupported
from modelcache.sources.hf import HuggingFaceSource, wanted_revision
from modelcache.sources.hf_access import access_from
from modelcache.sources.uri import parse_uri

URI = parse_uri("hf://org/name")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_asks_the_public_hub_without_a_token_by_default() -> None:
    access = access_from({}, None)
    assert access.endpoint == "https://huggingface.co"
    assert access.headers == {}


@pytest.mark.parametrize(
    ("environ", "values", "token"),
    [
        ({"HF_TOKEN": "hf_env"}, None, "hf_env"),
        ({"HF_TOKEN": " \n"}, None, None),
        ({}, {"token": "hf_a\n"}, "hf_a"),
        ({"HF_TOKEN": "hf_env"}, {"token": "hf_a"}, "hf_a"),
        ({}, {"HF_TOKEN": "hf_b"}, "hf_b"),
        ({}, {"other": "x", "token": "hf_a", "HF_TOKEN": "hf_b"}, "hf_a"),
        ({}, {"my-key": "hf_c"}, "hf_c"),
        ({}, {"my-key": "hf_c", "ca.crt": "PEM"}, "hf_c"),
        ({"HF_TOKEN": "hf_env"}, {"ca.crt": "PEM"}, None),
    ],
)
def test_chooses_the_token(environ: Mapping[str, str], values: Mapping[str, str] | None, token: str | None) -> None:
    access = access_from(environ, None if values is None else Credential(values))
    assert access.token == token
    assert "hf_" not in repr(access)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "no key 'token'"),
        ({"user": "hunter2", "password": "hunter2"}, "no key 'token'"),
        ({"token": "  "}, "empty"),
        ({"token": "hunter2 hunter2"}, "spaces"),
        ({"token": "hunter2\r\nX-Header: 1"}, "control characters"),
        ({"token": "hunter2\u20ac"}, "cannot be a Hugging Face token"),
    ],
)
def test_refuses_a_secret_without_a_usable_token_and_keeps_it_secret(values: Mapping[str, str], says: str) -> None:
    with pytest.raises(Unauthorized, match=r"spec\.source\.secretRef") as caught:
        access_from({"HF_TOKEN": "hf_env"}, Credential(values))
    assert says in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080//"])
def test_endpoint_without_slash_at_the_end(endpoint: str) -> None:
    assert access_from({"HF_ENDPOINT": endpoint}, None).endpoint == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "endpoint", ["mirror", "ftp://mirror", "http://", "http://u:hunter2@mirror", "http://m:99999", "http://m?x=hunter2"]
)
def test_refuses_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(Unsupported, match="HF_ENDPOINT") as caught:
        access_from({"HF_ENDPOINT": endpoint}, None)
    assert "hunter2" not in caught.value.message


def test_locates_a_file_at_the_pinned_commit_with_the_token() -> None:
    source = HuggingFaceSource({"HF_ENDPOINT": "https://mirror/hf"})
    location = source.locate(URI, COMMIT, SourceFile("dir/a b#c?.json", 1), Credential({"token": "hf_a"}))
    assert location.url == f"https://mirror/hf/org/name/resolve/{COMMIT}/dir/a%20b%23c%3F.json"
    assert location.headers == {"Authorization": "Bearer hf_a"}
    assert location.expires_at is None


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", "a/", "./a", ""])
def test_locates_no_file_outside_the_repository(path: str) -> None:
    with pytest.raises(UnsafePath):
        HuggingFaceSource({}).locate(URI, COMMIT, SourceFile(path, 1), None)


@pytest.mark.parametrize(
    ("uri", "version", "revision"),
    [
        ("hf://a/b", None, "main"),
        ("hf://a/b", "v1", "v1"),
        ("hf://a/b@v1", None, "v1"),
        ("hf://a/b@v1", "v1", "v1"),
    ],
)
def test_revision_of_uri_and_version(uri: str, version: str | None, revision: str) -> None:
    assert wanted_revision(parse_uri(uri), version) == revision


def test_uri_and_version_may_not_disagree() -> None:
    with pytest.raises(InvalidURI, match=r"'v1'.*'v2' by spec.version"):
        wanted_revision(parse_uri("hf://a/b@v1"), "v2")
