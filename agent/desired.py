"""What the controller wants on this node, read from the wire into plain values.

A desired state is complete, so what it does not list is to be removed. That makes a message that is only half understood
dangerous: skipping one bad entry would delete that model. Hence two rules. A message whose *list of models* is in doubt (a
name that cannot be a Kubernetes name, a model listed twice) is refused as a whole, and the node stays with the state
before it. An entry whose *details* make no sense stays in the list with its `flaw`: it is kept as it is and the flaw is
reported, while the other models of the message go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from agent.listing import Listing, read_listing
from agent.lora.desired import Instructions, read_instructions
from agent.peers.members import PeerAddress
from agent.questions import NO_ANSWER, Answer
from agent.store import DELETED, Policy, User
from modelcache.kube.resources import ObjectKey
from modelcache.logs import readable_trace
from modelcache.rpc.address import is_address
from modelcache.rpc.modelcache_pb2 import DesiredModel, DesiredState, PodUse
from modelcache.sources.base import Credential
from modelcache.sources.errors import InvalidURI
from modelcache.sources.uri import check_revision
from modelcache.tls.identity import is_node_name

HEARTBEAT_SECONDS = 10.0
"""Between two reports while nothing happens, until a desired state says otherwise."""
_HEARTBEAT_RANGE = (1.0, 3600.0)

_HEX64 = re.compile(r"[0-9a-f]{64}")
# Kubernetes object names: a namespace is an RFC 1123 label, the name of a custom resource an RFC 1123 subdomain.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_SUBDOMAIN_MAX = 253


class UnusableDesiredState(ValueError):
    """A desired state cannot be taken over as a whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model that the node should hold. Two equal ones mean that nobody has changed his mind in between.

    `manifest_digest` None: keep what the node has, the controller does not know yet. `hub_ref` and `tree_digest` are
    empty when there is none. `flaw` is why the entry cannot be worked on, empty when it can.
    """

    manifest_digest: str | None
    hub_ref: str = ""
    tree_digest: str = ""
    attempt: str = ""
    credential: Credential | None = None
    flaw: str = ""
    trace: str = ""
    """Which change of the DynamoModel this follows from; see `modelcache.logs`."""
    policy: Policy = DELETED
    listing: Listing | None = None
    """What this node is to list; only without a manifest."""


class Peers(NamedTuple):
    """The other agents of a model. `more`: there may be others, those that were known before stay."""

    known: tuple[PeerAddress, ...] = ()
    more: bool = False

    def after(self, before: tuple[PeerAddress, ...]) -> tuple[PeerAddress, ...]:
        """All of them, if `before` is what was known."""
        named = {peer.node for peer in self.known}
        return (*self.known, *(peer for peer in before if self.more and peer.node not in named))


@dataclass(frozen=True, slots=True)
class Desired:
    """A whole desired state. `heartbeat` is in seconds."""

    nonce: str
    models: Mapping[ObjectKey, Wanted]
    heartbeat: float = HEARTBEAT_SECONDS
    peers: Mapping[ObjectKey, Peers] = field(default_factory=dict)
    """Not a part of `Wanted`: that they come and go is no change of mind."""
    lora: Instructions = field(default_factory=Instructions)
    """Adapters, and the pods into which they belong."""
    users: tuple[User, ...] | None = None
    """Every use of the cache by pods of this node; None: the controller does not know."""
    answer: Answer = NO_ANSWER
    """Which of this agent's questions `users` answers."""


def read_desired(message: DesiredState) -> Desired:
    """The content of a message. Raises UnusableDesiredState."""
    models: dict[ObjectKey, Wanted] = {}
    peers: dict[ObjectKey, Peers] = {}
    for entry in message.models:
        key = ObjectKey(entry.model.namespace, entry.model.name)
        if not _LABEL.fullmatch(key.namespace) or not _is_subdomain(key.name):
            raise UnusableDesiredState(f"{str(key)[:300]!r} cannot be the name of a DynamoModel")
        if key in models:
            raise UnusableDesiredState(f"{key} is listed twice")
        models[key] = _wanted(entry)
        peers[key] = Peers(tuple(_peers(entry)), entry.keep_peers)
    low, high = _HEARTBEAT_RANGE
    seconds = float(message.heartbeat_seconds) or HEARTBEAT_SECONDS
    heartbeat = min(max(seconds, low), high)
    lora = read_instructions(message)
    users = tuple(map(_user, message.uses)) if message.uses_known else None
    answer = Answer(message.uses_answers, message.uses_answer if message.uses_known else 0, message.uses_problem)
    return Desired(message.nonce, MappingProxyType(models), heartbeat, MappingProxyType(peers), lora, users, answer)


def _user(use: PodUse) -> User:
    """Not checked any further: these names are only compared with those of what is published."""
    return User(
        pod_uid=use.pod_uid,
        pod=f"{use.pod_namespace}/{use.pod_name}",
        kind=use.kind,
        since=use.since.seconds,
        namespace=use.model.namespace,
        name=use.model.name,
        snapshot=use.snapshot,
    )


def _wanted(entry: DesiredModel) -> Wanted:
    values = dict(entry.credential.values)
    return Wanted(
        manifest_digest=entry.manifest_digest or None,
        hub_ref=entry.hub_ref,
        tree_digest=entry.tree_digest,
        attempt=entry.attempt,
        credential=Credential(values) if values else None,
        flaw=_flaw(entry),
        trace=readable_trace(entry.trace),
        policy=Policy(entry.retain, entry.pinned, entry.keyless),
        listing=read_listing(entry.listing) if entry.HasField("listing") else None,
    )


def _peers(entry: DesiredModel) -> Iterator[PeerAddress]:
    """The usable ones: a download without a peer is slower, and nothing worse."""
    for peer in entry.peers:
        if is_node_name(peer.node) and is_address(peer.address):
            yield PeerAddress(
                node=peer.node,
                zone=peer.zone,
                address=peer.address,
                complete=peer.complete,
                later=peer.joined - entry.joined,
                tier=peer.slow - entry.slow,
                earlier=peer.earlier,
            )


def _flaw(entry: DesiredModel) -> str:
    if entry.manifest_digest and not _HEX64.fullmatch(entry.manifest_digest):
        return f"the manifest digest {entry.manifest_digest[:80]!r} is not a sha256"
    if entry.tree_digest and not _HEX64.fullmatch(entry.tree_digest):
        return f"spec.verification.checksum {entry.tree_digest[:80]!r} is not a sha256"
    if entry.hub_ref:
        try:
            check_revision(entry.hub_ref)
        except InvalidURI as error:
            return error.message
    return ""


def _is_subdomain(name: str) -> bool:
    return len(name) <= _SUBDOMAIN_MAX and _SUBDOMAIN.fullmatch(name) is not None
