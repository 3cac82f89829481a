from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.connections import ConnectionPool, Origin, Proxies, split_url
from modelcache.sources.errors import InvalidURI, Unsupported
from modelcache.sources.tls import tls_context
from tests.support.instant_clock import InstantClock

HUB = Origin("https", "hub.example", 443)
PLAIN = Origin("http", "hub.example", 8080)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://hub.example/a/b?c=d", HUB, "/a/b?c=d"),
        ("https://hub.example", HUB, "/"),
        ("https://HUB.example:443/x#part", HUB, "/x"),
        ("http://hub.example:8080/a b/ü?sig=%2F+=", PLAIN, "/a%20b/%C3%BC?sig=%2F+="),
        ("http://[::1]:99/", Origin("http", "::1", 99), "/"),
    ],
)
def test_urls(url: str, origin: Origin, target: str) -> None:
    assert split_url(url) == (origin, target)


@pytest.mark.parametrize(
    "url", ["ftp://hub.example/", "https:///x", "hub.example/x", "http://[::1/", "http://h:99999/"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidURI):
        split_url(url)


def test_the_signature_of_a_url_is_not_shown() -> None:
    with pytest.raises(InvalidURI) as raised:
        split_url("gopher://cdn.example/file?X-Signature=secret")
    assert "secret" not in str(raised.value)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_request_target_is_always_plain_ascii_without_blanks(path: str) -> None:
    try:
        _, target = split_url("http://h/" + path)
    except InvalidURI:
        return
    assert target.isascii()
    assert not any(character.isspace() or ord(character) < 33 for character in target)


def test_origins_in_messages_and_requests() -> None:
    assert HUB.text == "https://hub.example"
    assert PLAIN.text == "http://hub.example:8080"
    assert Origin("http", "::1", 80).text == "http://[::1]"


def test_without_variables_there_is_no_proxy() -> None:
    assert Proxies({}).proxy_for(HUB) is None


def test_each_scheme_has_its_proxy() -> None:
    proxies = Proxies({"HTTPS_PROXY": "http://secure:1", "http_proxy": "plain:2"})
    assert proxies.proxy_for(HUB) == "http://secure:1"
    assert proxies.proxy_for(PLAIN) == "http://plain:2"
    assert Proxies({"ALL_PROXY": "http://every:3"}).proxy_for(HUB) == "http://every:3"


def test_lower_case_wins() -> None:
    assert (
        Proxies({"HTTP_PROXY": "http://upper:1", "http_proxy": "http://lower:1"}).proxy_for(PLAIN) == "http://lower:1"
    )


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("*", "hub.example", True),
        ("hub.example", "hub.example", True),
        ("hub.example", "HUB.example", True),
        ("example", "hub.example", True),
        (".example", "hub.example", True),
        ("*.example", "hub.example", True),
        ("ub.example", "hub.example", False),
        ("other, hub.example ,more", "hub.example", True),
        ("hub.example:443", "hub.example", True),
        ("hub.example:8080", "hub.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "hub.example", False),
        ("fd00::/8", "fd00::1", True),
        ("::1", "::1", True),
        ("", "hub.example", False),
        (",,", "hub.example", False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, exempt: bool) -> None:
    proxies = Proxies({"https_proxy": "http://proxy:1", "NO_PROXY": no_proxy})
    assert (proxies.proxy_for(Origin("https", host, 443)) is None) is exempt


def test_a_proxy_that_cannot_be_used_is_named_without_its_password() -> None:
    pool = ConnectionPool(
        {"https_proxy": "socks5://user:secret@proxy:1"}, InstantClock(), idle_limit=1, connect_seconds=1
    )
    with pytest.raises(Unsupported, match="socks5://proxy") as raised:
        pool.take(HUB)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_ca_bundle_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    for bundle in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        if bundle.name == "empty.pem":
            bundle.write_text("no certificates\n")
        with pytest.raises(Unsupported, match=name):
            tls_context({name: str(bundle)})
