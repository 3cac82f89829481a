"""What the controller remembers about one DynamoModel between two looks at it, and what follows from it for the agents.

Everything here can be lost: after a restart it is rebuilt from the DynamoModel, its status and its ConfigMaps. A `Tracked`
belongs to one uid, so that a model that was deleted and created again starts from nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.request import Pinned, Problem
from controller.resolver import Failure
from controller.survey import ListingRequest, Survey
from modelcache.kube.resources import ObjectKey
from modelcache.sources.base import Credential


@dataclass(frozen=True, slots=True)
class Trigger:
    """A new value means that the user has done something: what failed before is tried again at once."""

    generation: int
    attempt: str


@dataclass(frozen=True, slots=True)
class AdapterOrder:
    """What agents are told about a LoRA adapter (see modelcache.proto). `pods` are uids by node, sorted."""

    lora_name: str
    base_model_name: str
    source_uri: str
    model_uid: str
    pods: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Order:
    """What the agents of the assigned nodes are told. `digest` empty: keep what you have."""

    digest: str = ""
    hub_ref: str = ""
    tree_digest: str = ""
    attempt: str = ""
    credential: Credential | None = None
    trace: str = ""
    retain: bool = False
    pinned: bool = False
    keyless: bool = False
    adapter: AdapterOrder | None = None
    listing: ListingRequest | None = None


class Joined(NamedTuple):
    """The place of an agent in the order in which those of a model came, and the stream for which it was given."""

    arrival: int
    number: int


@dataclass(eq=False)
class Tracked:
    """The memory of one DynamoModel. Times are monotonic seconds."""

    key: ObjectKey
    uid: str

    request_key: str = ""
    """What `pinned`, `failure` and `problem` are about."""
    pinned: Pinned | None = None
    announced: Pinned | None = None
    """`pinned`, once the status names it. Only then may agents be told: a restarted controller must know the same."""
    problem: Problem | None = None
    failures: int = 0
    retry_at: float | None = None
    tried_for: Trigger | None = None
    completion: Problem | None = None
    """Why reports could not complete the manifest."""

    credential: Credential | None = None
    credential_problem: Problem | None = None
    credential_at: float | None = None
    credential_for: object = None

    survey: Survey = field(default_factory=Survey)

    assigned: tuple[str, ...] | None = None
    """None before the first placement."""
    arrivals: int = -1
    """`Registry.arrivals` at the last placement; agents that came later were not considered."""
    looked: int = -1
    """`Registry.arrivals` at the last complete look, successful or not."""
    order: Order | None = None

    written_from: str = ""
    """resourceVersion that the last write was based on: an object that still shows it is older than our own write."""
    progress_at: float | None = None
    cleaned: str = ""
    """Digest for which all other ConfigMaps have been removed."""
    joined: Mapping[str, Joined] = field(default_factory=dict)
    """In which order the agents came, by node."""
    slow: frozenset[str] = frozenset()
    """Nodes that are far slower than the others of their zone."""
    compared_at: float | None = None
    told_peers: set[tuple[str, str]] = field(default_factory=set)
    """(agent, peer) pairs of which an event has told that the agent has dropped the peer."""
    told_findings: dict[str, None] = field(default_factory=dict)
    """Ids of findings of agents' self-checks of which an event has told, the oldest first."""
    removing: bool = False
    """Whether the model is to leave all nodes."""

    def forget_request(self, request_key: str) -> None:
        """The spec asks for something else now."""
        self.request_key = request_key
        self.pinned = self.announced = self.problem = self.retry_at = self.tried_for = self.completion = None
        self.failures = 0
        self.survey = Survey()

    def fail(self, failure: Failure, problem: Problem, retry_at: float, trigger: Trigger) -> None:
        """Resolving did not succeed."""
        self.failures = self.failures + 1 if failure.retryable else 0
        self.problem, self.retry_at, self.tried_for = problem, retry_at, trigger

    def succeed(self, pinned: Pinned) -> None:
        """Resolving, loading or completing succeeded."""
        self.pinned, self.problem, self.retry_at, self.failures, self.completion = pinned, None, None, 0, None


@dataclass(eq=False)
class Memory:
    """All of them, and how many models are assigned to each node."""

    models: dict[ObjectKey, Tracked] = field(default_factory=dict)
    load: Counter[str] = field(default_factory=Counter)

    def of(self, key: ObjectKey, uid: str) -> Tracked:
        """The memory of this object, empty if it is new."""
        tracked = self.models.get(key)
        if tracked is None or tracked.uid != uid:
            self.drop(key)
            tracked = self.models[key] = Tracked(key, uid)
        return tracked

    def get(self, key: ObjectKey) -> Tracked | None:
        """The memory of a model by name."""
        return self.models.get(key)

    def drop(self, key: ObjectKey) -> Tracked | None:
        """Forget a model; what was remembered."""
        tracked = self.models.pop(key, None)
        if tracked is not None:
            self.assign(tracked, ())
        return tracked

    def assign(self, tracked: Tracked, nodes: tuple[str, ...]) -> set[str]:
        """Assign `tracked` to `nodes`; the nodes for which that is a change."""
        before, after = set(tracked.assigned or ()), set(nodes)
        self.load.subtract(before - after)
        self.load.update(after - before)
        tracked.assigned = nodes
        return before ^ after

    def __iter__(self) -> Iterator[Tracked]:
        return iter(list(self.models.values()))
