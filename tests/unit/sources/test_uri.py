"""Parsing of `spec.source.uri`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api.spec import KNOWN_SCHEMES
from modelcache.sources.errors import InvalidURI
from modelcache.sources.uri import MAX_LENGTH, SCHEMES, SourceURI, check_revision, parse_uri

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "authority", "path", "revision", "canonical"),
    [
        ("hf://org/name", "org", "name", None, "hf://org/name"),
        ("hf://org/name@v1.0.0", "org", "name", "v1.0.0", "hf://org/name"),
        ("hf://org/name:v1.0.0", "org", "name", "v1.0.0", "hf://org/name"),
        (f"hf://org/name@{COMMIT}", "org", "name", COMMIT, "hf://org/name"),
        ("hf://org/name@refs/pr/7", "org", "name", "refs/pr/7", "hf://org/name"),
        ("hf://org/name@feature%2Fx", "org", "name", "feature/x", "hf://org/name"),
        ("HF://org/name", "org", "name", None, "hf://org/name"),
        ("hf://models/org/name@x", "org", "name", "x", "hf://org/name"),
        ("hf://meta-llama/Llama-3.3-70B-Instruct", "meta-llama", "Llama-3.3-70B-Instruct", None, None),
        ("hf://models/name", "models", "name", None, "hf://models/name"),
        ("s3://my-bucket/loras/my-lora", "my-bucket", "loras/my-lora", None, "s3://my-bucket/loras/my-lora"),
        ("s3://my-bucket/a@b:c/", "my-bucket", "a@b:c", None, "s3://my-bucket/a@b:c"),
        ("s3://my-bucket", "my-bucket", "", None, "s3://my-bucket"),
        ("s3://my-bucket/my  model/%20", "my-bucket", "my  model/%20", None, "s3://my-bucket/my  model/%20"),
        ("https://[::1]:65535/a", "[::1]:65535", "a", None, "https://[::1]:65535/a"),
        (f"http://{'a' * 63}.b/c", f"{'a' * 63}.b", "c", None, None),
        ("file:///my models/x", "", "/my models/x", None, "file:///my models/x"),
        ("pvc://claim/my model", "claim", "my model", None, "pvc://claim/my model"),
        ("https://Example.org:8443/a/b.bin?v=1", "example.org:8443", "a/b.bin?v=1", None, None),
        ("http://mirror/a", "mirror", "a", None, "http://mirror/a"),
        ("file:///models/x/", "", "/models/x", None, "file:///models/x"),
        ("file://localhost/models/x", "", "/models/x", None, "file:///models/x"),
        ("pvc://claim", "claim", "", None, "pvc://claim"),
        ("pvc://claim/a/b", "claim", "a/b", None, "pvc://claim/a/b"),
        ("ngc://nvidia/nemo/llama:1.0", "nvidia", "nemo/llama", "1.0", "ngc://nvidia/nemo/llama"),
        ("ngc://nvidia/llama", "nvidia", "llama", None, "ngc://nvidia/llama"),
    ],
)
def test_parses(text: str, authority: str, path: str, revision: str | None, canonical: str | None) -> None:
    uri = parse_uri(text)
    assert (uri.authority, uri.path, uri.revision) == (authority, path, revision)
    if canonical is not None:
        assert str(uri) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("org/name", "no scheme"),
        ("hff://org/name", "unknown scheme hff://"),
        ("hf://org/name ", "spaces at its ends"),
        ("s3://bucket/a ", "spaces at its ends"),
        ("hf://org/my name", "spaces"),
        ("https://host/my file", "%20"),
        ("s3://my bucket/a", "spaces"),
        ("hf://org/name\ufeff", "control characters"),
        ("hf:///org/name", "hf://organization/name"),
        ("s3://a..b/x", "bucket"),
        ("s3://127.0.0.1/x", "bucket"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint/name/x", "alias"),
        (f"s3://bucket/{'ü' * 513}", "1026 bytes"),
        ("https://host:0/a", "cannot be a host"),
        ("https://host:65536/a", "cannot be a host"),
        ("https://a..b/c", "cannot be a host"),
        (f"https://{'a' * 64}.b/c", "cannot be a host"),
        (f"https://{'a.' * 127}b/c", "cannot be a host"),
        ("https://[::::]/a", "cannot be a host"),
        ("https://[127.0.0.1]/a", "cannot be a host"),
        ("https://host//", "no file"),
        ("https://host/?a=b", "no file"),
        ("hf://org/na\nme", "control characters"),
        ("hf://org/name\x00", "control characters"),
        ("hf://org\\name", "backslashes"),
        (f"hf://org/{'n' * MAX_LENGTH}", "at most"),
        ("hf://gpt2", "openai-community/gpt2"),
        ("hf://", "organization"),
        ("hf:///name", "organization"),
        ("hf://org/", "organization"),
        ("hf://org/name/file.bin", "spec.source.include"),
        ("hf://org/name@main/file.bin", "spec.source.include"),
        ("hf://datasets/org/name", "only models"),
        ("hf://spaces/org/name", "only models"),
        ("hf://org/name@", "without a revision"),
        ("hf://org/name@a..b", "git-check-ref-format"),
        ("hf://org/name@v1:x", "git-check-ref-format"),
        ("hf://org/../name", "path inside"),
        ("hf://../name", "cannot be a Hugging Face repository"),
        ("hf://org/a--b", "cannot be a Hugging Face repository"),
        ("hf://org/.name", "cannot be a Hugging Face repository"),
        ("hf://org/name.git", "cannot be a Hugging Face repository"),
        (f"hf://org/{'n' * 93}", "at most 96"),
        ("hf://org/na%2Fme", "cannot be a Hugging Face repository"),
        ("s3://B/x", "bucket"),
        ("s3://bucket/a/../b", "'..'"),
        ("s3://bucket//b", "empty"),
        ("https://host", "no file"),
        ("https://host/a#b", "'#'"),
        ("https:///a", "host"),
        ("file://server/a", "'server'"),
        ("file://", "directory"),
        ("file:///", "directory"),
        ("file:///a/../../etc", "'..'"),
        ("pvc://Claim/x", "PersistentVolumeClaim"),
        ("ngc://nvidia", "ngc://organization/team/model:version"),
        ("ngc://a/b/c/d", "ngc://organization/team/model:version"),
        ("ngc://a/b:", "version"),
    ],
)
def test_refuses_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert says in caught.value.message
    assert caught.value.reason == "InvalidURI"
    assert not caught.value.retryable
    assert "\n" not in caught.value.message
    assert "\x00" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/file",
        "s3://AKIA:hunter2@bucket/x",
        "https://host/a/../b?X-Amz-Signature=hunter2",
        "https://ho st/a?sig=hunter2",
    ],
)
def test_messages_do_not_repeat_credentials(text: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert "hunter2" not in caught.value.message


def test_schemes_of_installed_packages_are_split_and_no_more() -> None:
    assert parse_uri("torrent://tracker/a/b", {"torrent"}) == SourceURI("torrent", "tracker", "a/b")
    with pytest.raises(InvalidURI, match="torrent"):
        parse_uri("torrentt://tracker/a", {"torrent"})


def test_names_the_known_schemes() -> None:
    assert set(SCHEMES) == set(KNOWN_SCHEMES)


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "a/b", COMMIT])
def test_accepts_what_git_accepts_as_a_revision(revision: str) -> None:
    assert check_revision(revision) == revision


@pytest.mark.parametrize(
    "revision", ["", "-x", "/x", "x/", "a//b", "a..b", "a b", "a~1", "a^", "a:b", "@", "x.lock", ".x", "x."]
)
def test_refuses_what_git_refuses_as_a_revision(revision: str) -> None:
    with pytest.raises(InvalidURI):
        check_revision(revision)


@given(st.text(max_size=80) | st.builds("{}://{}".format, st.sampled_from(SCHEMES), st.text(max_size=60)))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        uri = parse_uri(text)
    except InvalidURI:
        return
    # What parses is stable: its canonical form means the same place.
    again = parse_uri(str(uri))
    assert (again.scheme, again.authority, again.path) == (uri.scheme, uri.authority, uri.path)
    assert ".." not in uri.path.split("/")
