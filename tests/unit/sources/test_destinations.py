"""Addresses from which no source is read, however they are written."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.sources.destinations import address_of, check_host, check_name, connect, is_forbidden
from modelcache.sources.errors import Unsupported

link_local = st.integers(0, 0xFFFF).map(lambda low: ipaddress.IPv4Address(0xA9FE0000 | low))
link_local_6 = st.integers(0, 2**118 - 1).map(lambda low: ipaddress.IPv6Address(0xFE80 << 112 | low))


def embeddings(address: ipaddress.IPv4Address) -> list[ipaddress.IPv6Address]:
    """All ways in which an IPv6 address stands for one of IPv4."""
    value = int(address)
    return [
        ipaddress.IPv6Address(f"::ffff:{address}"),
        ipaddress.IPv6Address(value),
        ipaddress.IPv6Address(0x64FF9B << 96 | value),
        ipaddress.IPv6Address(0x2002 << 112 | value << 80 | 1),
        ipaddress.IPv6Address(0x20010000 << 96 | 0x05060708 << 64 | (value ^ 0xFFFFFFFF)),
    ]


@given(link_local)
def test_link_local_addresses_are_refused_in_every_spelling(address: ipaddress.IPv4Address) -> None:
    value = int(address)
    spellings = [str(address), str(value), hex(value), f"169.254.{value & 0xFFFF}", f"0251.0376.0{value & 0xFFFF:o}"]
    for host in [*spellings, *map(str, embeddings(address)), f"[::ffff:{address}]"]:
        with pytest.raises(Unsupported, match="link-local"):
            check_host(host)


@given(link_local_6, st.sampled_from(["", "%eth0", "%1"]))
def test_link_local_addresses_of_ipv6_are_refused_with_and_without_a_zone(
    address: ipaddress.IPv6Address, zone: str
) -> None:
    with pytest.raises(Unsupported):
        check_host(f"{address}{zone}")


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_of_ipv4_only_link_local_and_metadata_are_refused(address: ipaddress.IPv4Address) -> None:
    special = {"168.63.129.16", "100.100.100.200"}
    assert is_forbidden(address) == (address.is_link_local or str(address) in special)
    assert all(is_forbidden(form) == is_forbidden(address) for form in embeddings(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "::1",
        "10.0.0.1",
        "192.168.1.1",
        "fd00::1",
        "::",
        "huggingface.co",
        "169.254.example",
        "",
    ],
)
def test_loopback_private_networks_and_names_are_not(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", ["fd00:ec2::254", "fd00:ec2::23", "168.63.129.16", "169.254.169.254", "169.254.170.23"]
)
def test_what_tells_machines_their_secrets_is_refused_by_name(host: str) -> None:
    with pytest.raises(Unsupported, match=r"no source is read from there"):
        check_host(host)


def answers(*addresses: str) -> Any:
    """A resolver that knows one name."""

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, Any, int, str, Any]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


def test_a_name_counts_as_what_it_stands_for_and_one_bad_address_is_enough() -> None:
    assert address_of("metadata.example") is None
    with pytest.raises(Unsupported, match=r"metadata\.example means 169\.254\.169\.254"):
        check_name("metadata.example", 80, answers("10.0.0.1", "169.254.169.254"))
    assert len(check_name("models.example", 80, answers("10.0.0.1", "10.0.0.2"))) == 2


def test_only_what_was_looked_at_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        asked = []

        def resolve(host: str, port: int, **options: Any) -> Any:
            asked.append(host)
            return answers("127.0.0.1" if len(asked) == 1 else "169.254.169.254")(host, port, **options)

        with connect(("rebinding.example", port), 60, resolve=resolve) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)
        assert asked == ["rebinding.example"], "the name was asked for once"
        with pytest.raises(Unsupported):
            connect(("rebinding.example", port), 60, resolve=resolve)


def test_the_next_address_is_tried_where_one_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with connect(("models.example", port), 60, resolve=answers("127.0.0.2", "127.0.0.1")) as connection:
            assert connection.getpeername()[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        connect(("models.example", port), 60, resolve=answers("127.0.0.1"))
    with pytest.raises(OSError, match="stands for no address"):
        connect(("models.example", port), 60, resolve=answers())


@pytest.mark.parametrize("name", ["a..b", f"{'a' * 64}.example", ".example"])
def test_a_name_that_cannot_be_one_is_a_host_that_cannot_be_reached(name: str) -> None:
    with pytest.raises(OSError, match="no name"):
        check_name(name, 80)
