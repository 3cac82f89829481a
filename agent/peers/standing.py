"""What one agent thinks of another: whether to ask it for anything, now.

A peer that could not be reached is left alone for a while, longer each time, because nodes reboot. A peer that has sent
wrong bytes is never asked again for this model: whatever the reason (bad memory, a bad disk, malice), it will not get better.
One that sends far slower than the others is left out for a while as well: others then own its pieces, and nobody waits behind
it. What it was once is no judgement for ever, and who is never asked cannot show that it has recovered; so it is tried again
with a single piece now and then.
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
"""Weight of the newest rate in the moving average of a peer. How much a peer has to do otherwise makes a difference of several
times from one piece to the next, and taking a peer for slow that is not may cost a second read of the origin."""
SLOW_SECONDS = 30.0
"""For how long a measured rate is believed."""
LAG_FACTOR = 6
"""A piece that takes so many times as long as one usually does (and some seconds: `SwarmTuning.lag`) is taken from another
peer. Less could be bursts, retransmissions, busy processors, or a peer that just serves many."""

STARVED_RATE = 128 * 1024
"""Bytes/s. Where there are too few others to compare, a peer that sends less is of no use: any origin gives more, and whoever
sends a byte now and then must not hold us for ever."""


@dataclass(frozen=True)
class Standing:
    """`failures` in a row; `until`: monotonic seconds before which it is left alone.

    `rate`: bytes/s, None = unknown; `measured`: monotonic seconds at which it was measured last.
    """

    failures: int = 0
    until: float = 0.0
    lied: str | None = None
    rate: float | None = None
    measured: float = 0.0


def rate_of(count: int, seconds: float) -> float:
    """What a whole piece of `count` bytes that took `seconds` says about its sender. Those that are quick are all alike."""
    return count / max(seconds, QUICK_SECONDS)


def succeeded(standing: Standing, rate: float | None, now: float) -> Standing:
    """It has sent something that passed its check, at `rate` bytes/s (see `rate_of`; None: too little to tell)."""
    good = replace(standing, failures=0, until=0.0)
    return good if rate is None else lagged(good, rate, now)


def lagged(standing: Standing, rate: float, now: float) -> Standing:
    """It sends at `rate` bytes/s, whatever came of the piece."""
    known = standing.rate if now - standing.measured <= SLOW_SECONDS else None
    average = rate if known is None else SMOOTHING * rate + (1 - SMOOTHING) * known
    return replace(standing, rate=average, measured=now)


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


def slow(standings: Mapping[PeerId, Standing], now: float) -> frozenset[PeerId]:
    """The peers that send far slower than the others, as far as was measured lately."""
    usual = _usual(standings)
    if usual is None:
        return frozenset()
    bound, oldest = SLOW_FRACTION * usual, now - SLOW_SECONDS
    return frozenset(
        peer for peer, one in standings.items() if one.rate is not None and one.rate < bound and one.measured >= oldest
    )


def longest(standings: Mapping[PeerId, Standing], count: int, tuning: SwarmTuning) -> float:
    """Seconds after which `count` bytes that are not here yet are better had from somebody else."""
    usual = _usual(standings)
    return max(tuning.lag, LAG_FACTOR * count / usual if usual is not None else count / STARVED_RATE)


def _usual(standings: Mapping[PeerId, Standing]) -> float | None:
    """The median rate, in bytes/s; None where there are too few to compare."""
    rates = [one.rate for one in standings.values() if one.rate is not None]
    return statistics.median(rates) if len(rates) > SLOW_OTHERS else None
