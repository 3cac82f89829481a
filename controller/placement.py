"""Which nodes hold a model: a pure function of the nodes, their agents, and what was chosen before.

Without `replicas` it is every matching node with an agent. With `replicas` it is that many of them, and the choice is
sticky, because moving a model costs a download and takes it away from pods that were scheduled next to it:

1. nodes that were chosen before stay, as long as they match and their agent is not gone;
2. then come nodes that hold the model already (an earlier choice, not yet cleaned up);
3. then the nodes to which the fewest other models are assigned, so that models spread;
4. ties are broken by rendezvous hashing of (model, node), so that the choice needs no memory and does not crowd on the
   first names of the alphabet.

A lora follows its worker pods (`place_followed`): every node that runs one has it, whatever else the spec says.

An agent that is briefly away (a restart, an update of the DaemonSet) keeps its place but is not newly chosen. The choice
is written into the status, so a restarted controller makes the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from xxhash import xxh3_128_digest


class Presence(Enum):
    """How the agent of a node is known."""

    CONNECTED = "connected"
    AWAY = "away"
    """Was connected, is silent for less than the agent timeout."""
    AWAITED = "awaited"
    """Not heard of since this controller started, which is less than the agent timeout ago."""
    GONE = "gone"
    """Silent for longer, or never seen."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that matches the model's selector. `models` is how many other models are assigned to it."""

    name: str
    presence: Presence
    holds: bool = False
    models: int = 0


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with these labels has all labels of the selector."""
    return all(labels.get(key) == value for key, value in selector.items())


def place(
    model: str, candidates: Iterable[Candidate], previous: Collection[str], replicas: int | None
) -> tuple[str, ...]:
    """Names of the nodes that should hold `model` (`namespace/name`), sorted; at most `replicas` unless that is None."""
    keepers: list[Candidate] = []
    newcomers: list[Candidate] = []
    for candidate in candidates:
        if candidate.presence is Presence.GONE:
            continue
        if candidate.name in previous:
            keepers.append(candidate)
        elif candidate.presence is Presence.CONNECTED:
            newcomers.append(candidate)
    if replicas is None:
        return tuple(sorted(candidate.name for candidate in (*keepers, *newcomers)))
    if len(keepers) > replicas:
        # Fewer are wanted than before: those who have the files stay, and of those the ones that answer.
        keepers.sort(key=lambda c: (not c.holds, c.presence is not Presence.CONNECTED, _rank(model, c.name)))
    elif len(keepers) < replicas:
        newcomers.sort(key=lambda c: (not c.holds, c.models, _rank(model, c.name)))
    return tuple(sorted(candidate.name for candidate in (*keepers, *newcomers)[:replicas]))


def place_followed(
    model: str,
    candidates: Iterable[Candidate],
    previous: Collection[str],
    followed: Collection[str],
    placed: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Names of the nodes that should hold a lora, sorted: those of `followed` that have an agent, and those of `placed`."""
    there = place(model, [each for each in candidates if each.name in followed], previous, None)
    return tuple(sorted({*there, *placed}))


def _rank(model: str, node: str) -> bytes:
    # Neither name can contain a NUL byte, so the pair cannot be read in two ways.
    return xxh3_128_digest(f"{model}\0{node}".encode())
