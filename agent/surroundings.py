"""What the workers of a node share, and the small values in which they tell others how they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from agent.failures import Failure
from agent.findings import Findings
from agent.metrics import AgentMetrics
from agent.ports import Cache, Fetcher
from agent.questions import Questions
from agent.room import Room
from agent.slots import Slots
from agent.users import Users
from modelcache.kube.clock import Clock
from modelcache.kube.resources import ObjectKey


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers of a node share.

    `manifest` asks the controller, `tell` tells it a listing. `shown` and `moves` are those of `NodeLabels`. `loaded` tells
    the snapshots of a model that an engine may have loaded. `sweep` deletes content that no model needs, now; `litter`
    says that there may be some, for later; `swept` returns when no deletion is under way. `changed` is called whenever
    something that others look at (view, progress, problem) may have changed. `findings` are told to users. `unix` is the wall
    clock.
    """

    node: str
    cache: Cache
    fetcher: Fetcher
    slots: Slots
    manifest: Callable[[ObjectKey, str], Awaitable[bytes]]
    tell: Callable[[ObjectKey, str, bytes], Awaitable[None]]
    shown: Callable[[ObjectKey], str | None]
    moves: Callable[[ObjectKey], int]
    loaded: Callable[[ObjectKey], frozenset[str]]
    sweep: Callable[[], Awaitable[None]]
    litter: Callable[[], None]
    swept: Callable[[], Awaitable[None]]
    changed: Callable[[], None]
    findings: Findings
    clock: Clock
    unix: Callable[[], float]
    rng: Random
    users: Users
    questions: Questions
    room: Room
    metrics: AgentMetrics


class Trouble(NamedTuple):
    """Why the model does not get on, and until when (monotonic seconds) that is accepted."""

    failure: Failure
    until: float


class Traffic(NamedTuple):
    """Bytes that were read from the source, and from other agents."""

    origin_bytes: int
    peer_bytes: int
