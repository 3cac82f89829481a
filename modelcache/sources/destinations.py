"""Where a source may not lead: to the addresses at which a machine is told its own secrets.

Clouds give each machine its credentials over plain HTTP at link-local addresses. Whoever may create a DynamoModel could name
such an address as a source, or a name that stands for it, or a server of his own that redirects there; controller and agents
would ask on behalf of the machine. So such addresses are refused, whatever leads to them: a URI, a redirect, a name. It is
looked at the address that is connected to, not at a name beforehand: a name may stand for another address a moment later.

Loopback is not refused: mirrors on the node itself are usual, and they give away nothing that has no password. Neither are
private networks, where most sources are; NetworkPolicies say what may be reached there.

boto3 looks names up by itself: its connections are asked whom they have reached (`modelcache.sources.s3_connections`).

What does not ask through here: the credential chain of boto3, which has to reach these very addresses for the machine's own
identity; proxies, which the administrator names (a name that is looked up by a proxy is the proxy's to judge); `hf_xet`, which
talks to hosts that the hub names.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

from modelcache.sources.errors import Unsupported

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORBIDDEN = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local, RFC 3927: EC2, GCP, Azure, OCI, ECS, EKS Pod Identity
            "fe80::/10",  # link-local, RFC 4291
            "fd00:ec2::/32",  # services of the machine on EC2 over IPv6 (EC2 user guide, "Access instance metadata")
            "168.63.129.16/32",  # Azure's WireServer ("What is IP address 168.63.129.16?")
            "100.100.100.200/32",  # metadata of Alibaba Cloud ECS
        ),
    )
)
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 behind NAT64 (RFC 6052), in the last 32 bits."""
_COMPATIBLE = ipaddress.IPv6Network("::/96")
"""IPv4-compatible addresses (RFC 4291, deprecated), in the last 32 bits."""

Resolve = Callable[..., Sequence[tuple[Any, Any, int, str, Any]]]
"""`socket.getaddrinfo`."""


def is_forbidden(address: IPAddress) -> bool:
    """Whether no source is read from there, also where an IPv6 address stands for one of IPv4."""
    return any(form in network for form in (address, *_embedded(address)) for network in _FORBIDDEN)


def _embedded(address: IPAddress) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that packets for an IPv6 address may end up at."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED or address in _COMPATIBLE:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(each for each in found if each is not None)


def address_of(host: str) -> IPAddress | None:
    """The address that `host` is written as; None for a name. Also the old spellings: 2852039166, 0xa9fea9fe, 169.254.43518."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def check_host(host: str) -> None:
    """Raises Unsupported for an address from which no source is read; says nothing about names."""
    address = address_of(host)
    if address is not None:
        check_address(host, address)


def check_address(host: str, address: IPAddress) -> None:
    """`host` has turned out to be `address`. Raises Unsupported."""
    if is_forbidden(address):
        means = "" if str(address) == host else f" means {address}, which"
        raise Unsupported(
            f"{host[:260]}{means} is an address at which a machine is told about itself (link-local): no source is read from "
            f"there, nor a redirect followed to it. Name the server of the source."
        )


def check_name(host: str, port: int, resolve: Resolve = socket.getaddrinfo) -> Sequence[tuple[Any, Any, int, str, Any]]:
    """What `host` stands for now, as `socket.getaddrinfo` tells it. Raises OSError, and Unsupported if any is forbidden."""
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except (UnicodeError, OverflowError):  # labels that are empty or too long, ports beyond 65535
        raise OSError(f"{host[:260]}:{port} is no name and port that could be looked up") from None
    for *_, place in found:
        address = address_of(str(place[0]))
        if address is not None:
            check_address(host, address)
    return found


def connect(
    address: tuple[str, int],
    timeout: float | None,
    source_address: tuple[str, int] | None = None,
    *,
    resolve: Resolve = socket.getaddrinfo,
) -> socket.socket:
    """`socket.create_connection` that goes nowhere else than where it has looked. Raises Unsupported and OSError."""
    failure: OSError | None = None
    for family, kind, protocol, _, place in check_name(*address, resolve):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            if source_address is not None:
                connection.bind(source_address)
            connection.connect(place)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure or OSError(f"{address[0]} stands for no address")
