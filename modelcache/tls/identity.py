"""What a certificate says about its holder: exactly one URI, and nothing else counts.

    urn:modelcache:controller        any replica of the controller
    urn:modelcache:node:<node>       the agent of one node

A URI and not a DNS name, for three reasons. The name of a Node may be as long as a DNS name may be, so nothing can be put
around it. A Node may be called like the controller's host, and must not become the controller by that. And agents answer at
IP addresses that come and go. The controller's certificate has a DNS name beside it, CONTROLLER_NAME, because gRPC's client
insists on comparing one; it is the same in every cluster, and no certificate of a node carries any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CONTROLLER_NAME = "controller.modelcache.internal"
"""`.internal` is set aside for private use and never delegated (ICANN resolution 2024.07.29.06)."""

_CONTROLLER = "urn:modelcache:controller"
_NODE = "urn:modelcache:node:"
# RFC 1123 subdomain, which the name of a Node is (Kubernetes, "Node Name Uniqueness" and DNS subdomain names).
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NODE_NAME_MAX = 253


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of a certificate: the agent of `node`, or with None the controller."""

    node: str | None

    @property
    def uri(self) -> str:
        """As it stands in the certificate."""
        return _CONTROLLER if self.node is None else _NODE + self.node

    @staticmethod
    def parse(uri: str) -> Identity | None:
        """The identity that `uri` names; None when it names none of ours."""
        if uri == _CONTROLLER:
            return CONTROLLER
        name = uri.removeprefix(_NODE)
        return Identity(name) if name != uri and is_node_name(name) else None


CONTROLLER = Identity(None)


def is_node_name(name: str) -> bool:
    """Whether a Node may be called so."""
    return len(name) <= _NODE_NAME_MAX and _NODE_NAME.fullmatch(name) is not None
