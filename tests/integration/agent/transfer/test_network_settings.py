"""Proxies and certificate authorities as sites configure them, with real servers and TLS."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.store import Store
from agent.transfer import Cancelled
from agent.transfer.clock import SystemClock
from tests.support.connect_proxy import ConnectProxy
from tests.support.fetching import PIECE, Fetching, content
from tests.support.origin import Origin

Make = Callable[..., Fetching]
CERTIFICATES = Path(__file__).parents[2] / "kube" / "tls"
FIRST, SECOND = CERTIFICATES / "first.crt", CERTIFICATES / "second.crt"


@pytest.fixture
def secure(store: Store) -> Iterator[Origin]:
    """An origin with HTTPS; its certificate is in no system's bundle."""
    with Origin(certificate=FIRST) as server:
        yield server


def fetch_from(make: Make, origin: Origin, environ: dict[str, str]) -> Fetching:
    engine = make(environ=environ)
    engine.origin = origin
    engine.fetch(engine.serve(("large", content(3 * PIECE)), ("small", b"s")))
    return engine


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_authority_of_this_site(fetching: Make, secure: Origin, name: str) -> None:
    fetch_from(fetching, secure, {name: str(FIRST)})


def test_an_unknown_certificate_is_never_accepted(fetching: Make, secure: Origin) -> None:
    engine = fetching(clock=SystemClock(), environ={"SSL_CERT_FILE": str(SECOND)})
    engine.origin = secure
    fetch = engine.in_thread(engine.serve(("a", b"a")))
    waiting = engine.until(lambda progress: progress.waiting is not None).waiting
    fetch.cancel.cancel()
    fetch.join()
    assert isinstance(fetch.error, Cancelled)
    assert waiting is not None
    assert "certificate is not trusted" in waiting.message
    assert "SSL_CERT_FILE" in waiting.message
    assert secure.seen == []


def test_https_goes_through_a_tunnel(fetching: Make, secure: Origin) -> None:
    with ConnectProxy() as proxy:
        environ = {"HTTPS_PROXY": f"http://{proxy.netloc}", "SSL_CERT_FILE": str(FIRST)}
        fetch_from(fetching, secure, environ)
        assert set(proxy.asked) == {f"CONNECT 127.0.0.1:{secure.port}"}
        assert len(proxy.asked) <= 4  # tunnels are kept alive, too


def test_plain_http_asks_the_proxy_with_its_password(fetching: Make, origin: Origin) -> None:
    with ConnectProxy("me", "p@ss") as proxy:
        fetch_from(fetching, origin, {"http_proxy": f"http://me:p%40ss@{proxy.netloc}"})
        assert f"GET {origin.url('/small')}" in proxy.asked
    assert {seen.headers["host"] for seen in origin.seen} == {f"127.0.0.1:{origin.port}"}
    assert all("proxy-authorization" not in seen.headers for seen in origin.seen)


def test_no_proxy_is_honoured(fetching: Make, origin: Origin) -> None:
    with ConnectProxy() as proxy:
        fetch_from(fetching, origin, {"http_proxy": f"http://{proxy.netloc}", "no_proxy": "127.0.0.0/8"})
        assert proxy.asked == []
