"""The connection to the controller: the one place that decides how it is secured.

Without credentials the connection is plaintext, and everything on it (source credentials included) can be read on the way.
So plaintext is allowed to loopback only, where there is no way, and refused for every other address.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import grpc
from grpc import aio

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Of one message in either direction. gRPC's default of 4 MiB ends a stream whose desired state names about 10,000 models."""

_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A controller that vanished without a FIN (its node lost power) is noticed after half a minute, not after the kernel's
    # retransmission timeout of a quarter of an hour. The server has to permit pings at this pace
    # (grpc.http2.min_recv_ping_interval_without_data_ms), see gRPC's doc/keepalive.md.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Every new stream is a new channel, and waiting between them is our own affair (`agent.sync`): a shared pool of
    # connections would make a new channel inherit the old one's wait.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


class AddressError(ValueError):
    """The controller's address cannot be used; the message is the end of a sentence that begins with its name."""


class Address(NamedTuple):
    """Where the controller listens. `host` is a name or an IP address, without brackets."""

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


def parse_address(text: str, *, any_port: bool = False) -> Address:
    """The address in `host:port` or `[ipv6]:port`; `any_port`: port 0 is one, too. Raises AddressError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"is {text!r}; write an IPv6 address in brackets: [::1]:7443")
    if not colon or not host or not port.isdecimal() or not (0 if any_port else 1) <= int(port) < 65536:
        lowest = 0 if any_port else 1
        raise AddressError(f"is {text!r}; write it as host:port, with a port from {lowest} to 65535")
    return Address(host, int(port))


def is_address(text: str) -> bool:
    """Whether somebody else's `text` can be an address."""
    try:
        return len(text) <= 300 and parse_address(text) is not None
    except AddressError:
        return False


def open_channel(address: Address, credentials: grpc.ChannelCredentials | None = None) -> aio.Channel:
    """A channel that connects when it is first used; the caller closes it.

    `credentials` None means plaintext. Raises AddressError for plaintext to anywhere but loopback.
    """
    if credentials is not None:
        return aio.secure_channel(str(address), credentials, options=_OPTIONS)
    if not address.is_loopback:
        raise AddressError(f"is {address}, another machine, and the connection would not be encrypted")
    return aio.insecure_channel(str(address), options=_OPTIONS)
