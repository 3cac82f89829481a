"""Addresses of gRPC servers, as settings give them: `host:port` or `[ipv6]:port`."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Of one message in either direction, on both sides. gRPC's default of 4 MiB ends a stream whose desired state names about
10,000 models, or whose report names the digests of some 20,000 files."""

_LONGEST = 300
"""Characters of an address; a host name has at most 253 (RFC 1035)."""


class AddressError(ValueError):
    """An address cannot be used; the message is the end of a sentence that begins with the name of the setting."""


class Address(NamedTuple):
    """Where a server listens. `host` is a name or an IP address, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether packets to it cannot leave this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_addresses(text: str) -> list[Address]:
    """The addresses in `text`, one or several with commas between them. Raises AddressError."""
    return [parse_address(part.strip()) for part in text.split(",")]


def parse_address(text: str, *, any_port: bool = False) -> Address:
    """The address in `text`. `any_port` allows port 0: the system chooses. Raises AddressError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"is {text!r}; write an IPv6 address in brackets: [::1]:7443")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise AddressError(f"is {text!r}; write it as host:port, for example 127.0.0.1:7443")
    if int(port) == 0 and not any_port:
        raise AddressError(f"is {text!r}; the port has to be from 1 to 65535")
    return Address(host, int(port))


@lru_cache(maxsize=4096)
def is_address(text: str) -> bool:
    """Whether somebody else's `text` can be the address of a server. The same are asked for with every desired state."""
    try:
        return len(text) <= _LONGEST and parse_address(text) is not None
    except AddressError:
        return False
