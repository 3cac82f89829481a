"""What one agent thinks of another: whether to ask it for anything, now.

A peer that could not be reached is left alone for a while, longer each time, because nodes reboot. A peer that has sent
wrong bytes is never asked again for this model: whatever the reason (bad memory, a bad disk, malice), it will not get better.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.peers.ranking import PeerId
from agent.peers.tuning import SwarmTuning

SLOW_FRACTION = 0.125
"""A peer that sends at less than an eighth of the median of the others is slow (as in `agent.transfer.pace`)."""
SLOW_OTHERS = 3
"""Fewer others are no measure."""
SMOOTHING = 0.5
"""Weight of the newest rate in the moving average of a peer."""


@dataclass(frozen=True)
class Standing:
    """`failures` in a row; `until`: monotonic seconds before which it is left alone; `rate`: bytes/s, None = unknown."""

    failures: int = 0
    until: float = 0.0
    lied: str | None = None
    rate: float | None = None


def succeeded(standing: Standing, rate: float) -> Standing:
    """It has sent a piece that passed its check, at `rate` bytes/s."""
    average = rate if standing.rate is None else SMOOTHING * rate + (1 - SMOOTHING) * standing.rate
    return replace(standing, failures=0, until=0.0, rate=average)


def unreachable(standing: Standing, now: float, tuning: SwarmTuning) -> Standing:
    """It could not be reached, or broke off."""
    pause = min(tuning.cooling_cap, tuning.cooling_base * 2.0 ** min(standing.failures, 32))
    return replace(standing, failures=standing.failures + 1, until=now + pause)


def lied(standing: Standing, reason: str) -> Standing:
    """It has sent bytes that were not the piece. The first reason stays."""
    return replace(standing, lied=standing.lied or reason)


def shunned(standings: Mapping[PeerId, Standing], now: float) -> frozenset[PeerId]:
    """The peers that are not to be asked for anything at `now`."""
    return frozenset(peer for peer, one in standings.items() if one.lied is not None or now < one.until)


def slow(standings: Mapping[PeerId, Standing]) -> frozenset[PeerId]:
    """The peers that send far slower than the others."""
    rates = {peer: one.rate for peer, one in standings.items() if one.rate is not None}
    if len(rates) <= SLOW_OTHERS:
        return frozenset()
    bound = SLOW_FRACTION * statistics.median(rates.values())
    return frozenset(peer for peer, rate in rates.items() if rate < bound)
