"""What an agent answers when it is asked for a piece.

A few uploads at once (more would only make each of them slower), a bounded queue behind them, and when there is a peer
that has already got the piece from here, the rest is sent there: so a piece spreads as a tree even where many ask one.
A redirect only ever names a peer that has the piece, never one that is waiting for it: nobody waits for a chain of promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from agent.peers.ranking import PeerId
from agent.peers.tuning import SwarmTuning


class Have(Enum):
    """Whether the agent has a piece."""

    YES = "yes"
    UNDER_WAY = "under way"
    NO = "no"


@dataclass(frozen=True)
class Serve:
    """Send it now (206)."""


@dataclass(frozen=True)
class Hold:
    """Keep the request open until the piece is here and an upload is free, at most `seconds`; then decide again once."""

    seconds: float


@dataclass(frozen=True)
class Redirect:
    """Another peer that has it (307)."""

    peer: PeerId


@dataclass(frozen=True)
class Busy:
    """Come again after `seconds` (503 with Retry-After); 0: at once, it is still under way and was waited for here."""

    seconds: float


@dataclass(frozen=True)
class Absent:
    """Not here, and not under way (404)."""


Answer = Serve | Hold | Redirect | Busy | Absent


def admit(
    asker: PeerId,
    have: Have,
    *,
    uploads: int,
    queued: int,
    ready: int,
    served: Sequence[PeerId],
    turn: int,
    held: bool = False,
    tuning: SwarmTuning,
) -> Answer:
    """The answer to a request for one piece.

    `uploads` are under way and `queued` requests are held at this agent, for whichever piece; `ready` of them for a piece
    that is here. `served` are the peers that have got this piece from here completely, and may be named to the asker;
    `turn` counts the redirects for this piece, so that they take turns. `held`: this request has been held already. It is
    not held any longer, so that a connection is never silent for long; where the piece is still on its way, the asker may
    ask anew, and so finds out in between when nothing moves here.
    """
    if have is Have.NO:
        return Absent()
    if have is Have.YES:
        if uploads < tuning.uploads:
            return Serve()
        if ready < tuning.ready and not held:
            return Hold(tuning.hold)
        others = [peer for peer in served if peer != asker]
        if others:
            return Redirect(others[turn % len(others)])
    elif held:
        return Busy(0.0)
    if queued < tuning.queue and not held:
        return Hold(tuning.hold)
    return Busy(tuning.retry)
