"""Which peer may read what from this agent: nothing, but for what the controller has said.

The controller lists, for each model, the agents that should hold it as well. Such a peer may read the contents of the
model's manifest here, and nothing else: not other models, and not even that other content exists (the server answers 403
before it looks).

A manifest says what its source has listed, and a tenant may run that source. So a grant counts only for what this agent has for
the namespace of the model, and a peer says for which one it asks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from agent.peers.keys import ContentKey, TenantKey
from modelcache.kube.resources import ObjectKey


class Grant(NamedTuple):
    """That these nodes (node -> address) may read this content (key -> size in bytes)."""

    nodes: Mapping[str, str]
    content: Mapping[ContentKey, int]


class Access:
    """The grants in force, by model. Set from the event loop, asked by the threads of the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grants: Mapping[ObjectKey, Grant] = {}

    def grant(self, grants: Mapping[ObjectKey, Grant]) -> None:
        """From now on exactly these hold."""
        with self._lock:
            self._grants = dict(grants)

    def find(self, node: str, key: ContentKey, namespace: str | None) -> tuple[TenantKey, Grant] | None:
        """What the agent of `node` may read by `key` for a namespace, and the grant that says so; None: it may not.

        `namespace` None: it did not say, so it may only if all models with that content are of one.
        """
        with self._lock:
            grants = self._grants
        found = {
            model.namespace: grant
            for model, grant in grants.items()
            if namespace in (None, model.namespace) and node in grant.nodes and key in grant.content
        }
        if len(found) != 1:
            return None
        [(of, grant)] = found.items()
        return TenantKey(of, key), grant
