"""The parameters of the swarm's decisions, in one place: times in seconds, counts of peers, pieces and requests.

The defaults were chosen with `python -m benchmarks.swarm_sim`; see docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SwarmTuning:
    """All agents of a model should run with the same `fanout`: it shapes the trees that pieces travel along."""

    fanout: int = 2
    """How many children a peer has in the tree of a piece."""
    stride: int = 12
    """How many pieces later in the walk each level of the tree asks than the one above it."""
    workers: int = 16
    """Pieces that an agent has under way at once, most of them waiting at their parents."""
    readers: int = 8
    """Connections of the whole swarm with which an origin gives what it can."""
    look: int = 4
    """An owner asks so many of the peers that rank next after it what they have, before it reads the origin."""
    look_seconds: float = 10.0
    """What a peer said about its pieces is used for so long."""
    grace: float = 5.0
    """From the beginning of a download a peer that does not know us, or the content, is taken for one that was not told yet."""
    attempts: int = 4
    """After so many peers have failed for one piece, the origin is read."""
    patience: float = 30.0
    """A peer on which a piece makes no progress for so long is given up for this piece; deeper in the tree longer, so
    that a problem is solved by the one next to it. The same figure as the watchdog on connections to origins."""
    lag: float = 5.0
    """A piece may take so long in any case; see `standing.longest`."""
    ready: int = 4
    hold: float = 5.0
    """A server keeps a request for a piece that is under way open for so long, then answers 503."""
    uploads: int = 8
    """Pieces that an agent sends at once."""
    queue: int = 64
    """Requests that wait at an agent, for a free upload or for a piece that is under way."""
    retry: float = 0.5
    """Retry-After of a peer whose queue is full, and the wait when all who could be asked are busy."""
    redirects: int = 3
    """An asker follows so many redirects for one piece before it decides anew."""
    cooling_base: float = 1.0
    cooling_cap: float = 60.0
    """A peer that could not be reached is left alone for `base`, then twice as long each time, never longer than `cap`."""


DEFAULT_TUNING = SwarmTuning()
