"""Who is on the other side of a connection between agents: the one place that decides it.

Without TLS (`--insecure`, loopback only) a header names the node, and everybody on this machine is believed. With mutual
TLS the name comes from the certificate, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.peers.listener import Certified
from agent.peers.wire import NODE_HEADER
from modelcache.tls.identity import is_node_name

MAX_VIA = 16
"""Nodes that a piece may have gone through; trees of a thousand agents are seven deep."""


def peer_node(certified: Certified | None, headers: Mapping[str, str]) -> str | None:
    """The node whose agent sent a request with these headers; None when it does not say so.

    `certified` is what the connection has shown, None only without TLS.
    """
    if certified is not None:
        return certified.node
    name = headers.get(NODE_HEADER, "")
    return name if is_node_name(name) else None


def own_headers(node: str) -> dict[str, str]:
    """What the agent of `node` sends with each request so that `peer_node` knows it."""
    return {NODE_HEADER: node}


def parse_via(text: str | None) -> tuple[str, ...]:
    """The nodes that a piece went through, as its sender says; empty when that makes no sense."""
    names = tuple((text or "").split(","))
    return names if len(names) <= MAX_VIA and all(map(is_node_name, names)) else ()
