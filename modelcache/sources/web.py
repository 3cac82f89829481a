"""What the clients of web servers and hubs have in common: redirects are followed one by one, and to no forbidden address."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from modelcache.sources import destinations
from modelcache.sources.errors import Unsupported

MAX_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: who gets the credential that is meant for `url` (RFC 6454, section 4). Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def next_address(url: str, location: str, where: str) -> str:
    """Where a redirect from `url` (`where` in messages) leads. Raises Unsupported and httpx2.InvalidURL."""
    target = str(httpx2.URL(url).join(location)) if location else ""
    old, new = urlsplit(url).scheme, urlsplit(target).scheme
    if new not in ("http", "https") or (old, new) == ("https", "http"):
        raise Unsupported(f"{where} redirects to an address that is not followed from {old}://: give the last one.")
    return target


def guard(
    url: str, connected: Callable[[socket.socket], None] | None = None
) -> Callable[[str, Mapping[str, Any]], None]:
    """What httpcore calls at each step of a request (its extension `trace`): stops it before anything is sent astray.

    Before connecting, where the answer is clear from the host; and again with the address that was connected to, since the
    name may have stood for another one a moment before. Of what a proxy is asked for, only addresses are looked at.
    """
    host = urlsplit(url).hostname or ""
    # Where the HTTP client has them from.
    proxies = {urlsplit(proxy).hostname for proxy in urllib.request.getproxies().values()}
    to_proxy = False

    def step(event: str, info: Mapping[str, Any]) -> None:
        nonlocal to_proxy
        if event == "connection.connect_tcp.started":
            destinations.check_host(host)
            to_proxy = info["host"] in proxies
            if not to_proxy:
                with contextlib.suppress(OSError):  # that it stands for nothing, connecting will tell
                    destinations.check_name(info["host"], info["port"])
        elif event == "connection.connect_tcp.complete":
            stream = info["return_value"]
            if connected is not None:
                connected(stream.get_extra_info("socket"))
            if to_proxy:
                return
            address = destinations.address_of(str(stream.get_extra_info("server_addr")[0]))
            if address is not None and destinations.is_forbidden(address):
                stream.close()
                destinations.check_address(host, address)

    return step
