"""What an agent knows about one piece that it is trying to get, and what each answer of a peer adds to it. Pure.

`agent.peers.asking` decides from it what to do next; whoever carries that out, the agent or `benchmarks.swarm_sim`, tells
here what came of it. All times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from agent.peers.asking import Attempt
from agent.peers.ranking import PeerId
from agent.peers.tuning import SwarmTuning


class Errand:
    """One piece, from setting out for it until it is here."""

    def __init__(self, now: float, tuning: SwarmTuning, avoided: Iterable[PeerId] = ()) -> None:
        """`avoided`: peers that are not asked for this piece at all."""
        self._tuning = tuning
        self._failed = set(avoided)
        self._busy: dict[PeerId, float] = {}
        self._lacking: set[PeerId] = set()
        """Peers that do not have it, whatever their bitmap said."""
        self._refused: dict[PeerId, float] = {}
        """Peers that have the piece, but not one that we take, and until when that is to be believed."""
        self._progress: dict[PeerId, int] = {}
        self._moved_at = now

    def attempt(self, holders: Set[PeerId], looked: Set[PeerId], now: float) -> Attempt:
        """What `choose` needs; `holders` and `looked` are what is known about the piece from bitmaps."""
        refused = self._lacking | {peer for peer, until in self._refused.items() if now < until}
        return Attempt(
            holders=holders - refused if refused else holders,
            looked=looked,
            failed=self._failed,
            busy={peer for peer, until in self._busy.items() if now < until} if self._busy else frozenset(),
            waited=now - self._moved_at,
        )

    def excludes(self, peer: PeerId) -> bool:
        """Whether this peer is not to be asked for the piece any more."""
        return peer in self._failed

    def moved(self, now: float) -> None:
        """Bytes of the piece have come."""
        self._moved_at = now

    def busy(self, peer: PeerId, now: float, *, asked_at: float | None = None, progress: int = 0) -> None:
        """It asks to come again. `asked_at`: it has kept the request of that time open, because it expects the piece.

        Then it need not be left alone, if it really did. `progress` is what it says it has read from the origin.
        """
        self._busy[peer] = (now if asked_at is None else asked_at) + self._tuning.retry
        if progress > self._progress.get(peer, 0):
            # It is at work on what comes before our piece.
            self._progress[peer] = progress
            self._moved_at = now

    def refused(self, peer: PeerId, now: float) -> None:
        """What it has came a way that is not accepted; it may get another one."""
        self._busy[peer] = self._refused[peer] = now + self._tuning.retry

    def lacks(self, peer: PeerId, now: float, *, early: bool) -> None:
        """It does not have the piece and does not expect it. `early`: perhaps it does not yet know what it is to fetch."""
        self._lacking.add(peer)
        if early:
            self.busy(peer, now)
        else:
            self.failed(peer)

    def failed(self, peer: PeerId) -> None:
        """It will not give us this piece."""
        self._failed.add(peer)
