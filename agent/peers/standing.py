"""What one agent thinks of another: whether to ask it for anything, now.

A peer that could not be reached is left alone for a while, longer each time, because nodes reboot. A peer that has sent
wrong bytes is never asked again for this model: whatever the reason (bad memory, a bad disk, malice), it will not get better.
One that sends far slower than the others is left out as well, as long as that is so: others then own its pieces.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.peers.ranking import PeerId
from agent.peers.tuning import SwarmTuning

SLOW_FRACTION = 1 / 3
"""A peer that sends at less than a third of the median is slow. Chosen with `benchmarks.swarm_sim`: where nobody is slow, it
costs less than 0.5 % of the model to be mistaken; where somebody is, everybody behind it would wait for it."""
QUICK_SECONDS = 0.25
"""A piece that takes less says nothing about a rate: it is latency, and nobody waits for long."""
SLOW_OTHERS = 3
"""Fewer others are no measure."""
SMOOTHING = 0.2
"""Weight of the newest rate in the moving average of a peer."""


@dataclass(frozen=True)
class Standing:
    """`failures` in a row; `until`: monotonic seconds before which it is left alone; `rate`: bytes/s, None = unknown."""

    failures: int = 0
    until: float = 0.0
    lied: str | None = None
    rate: float | None = None


def rate_of(count: int, seconds: float) -> float:
    """What a whole piece of `count` bytes that took `seconds` says about its sender. Those that are quick are all alike."""
    return count / max(seconds, QUICK_SECONDS)


def succeeded(standing: Standing, rate: float | None) -> Standing:
    """It has sent something that passed its check, at `rate` bytes/s (see `rate_of`; None: too little to tell)."""
    if rate is None:
        return replace(standing, failures=0, until=0.0)
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
