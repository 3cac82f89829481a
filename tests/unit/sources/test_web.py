"""Redirects: whose they are, and where they may lead."""

import pytest

from modelcache.sources.errors import Unsupported
from modelcache.sources.web import next_address, origin_of


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin_of("https://Host/a") == origin_of("https://host:443/b?c") == origin_of("https://user@host/")
    assert origin_of("http://host/") == origin_of("http://host:80/")
    different = ["https://host/", "http://host/", "https://host:444/", "https://host.example/", "https://[::1]/"]
    assert len(set(map(origin_of, different))) == len(different)


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://host/a/b?c", "d", "https://host/a/d"),
        ("https://host/a/b", "/d?e", "https://host/d?e"),
        ("https://host/a", "//other/d", "https://other/d"),
        ("http://host/a", "https://host/a", "https://host/a"),
    ],
)
def test_a_redirect_is_followed_within_the_web(url: str, location: str, target: str) -> None:
    assert next_address(url, location, "there") == target


@pytest.mark.parametrize(
    "location", ["", "http://host/a", "file:///etc/passwd", "ftp://host/a", "data:,x", "javascript:x"]
)
def test_a_redirect_leads_nowhere_else(location: str) -> None:
    with pytest.raises(Unsupported, match="there redirects"):
        next_address("https://host/a", location, "there")
