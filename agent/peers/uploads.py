"""What goes out at the moment and who has got which piece: the facts for `agent.peers.admission`, kept consistent.

Deciding and taking a place is one step under one lock, so that two requests never get the last place.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass, field

from agent.peers.admission import Answer, Busy, Have, Hold, Serve, admit
from agent.peers.ranking import PeerId, PieceId
from agent.peers.tuning import SwarmTuning

REMEMBERED_PIECES = 4096
"""Pieces of which it is known who has got them: 64 GiB of the latest."""
REMEMBERED_PEERS = 64


@dataclass
class _Served:
    peers: list[PeerId] = field(default_factory=list)
    turn: int = 0


class Uploads:
    """Thread-safe."""

    def __init__(self, tuning: SwarmTuning) -> None:
        self._tuning = tuning
        self._changed = threading.Condition()
        self._active = 0
        self._queued = 0
        self._ready = 0
        self._served: OrderedDict[PieceId, _Served] = OrderedDict()

    def decide(self, asker: PeerId, piece: PieceId, have: Have, known: Container[str], *, held: bool) -> Answer:
        """The answer. Serve takes a place, to be given back by `finished`; Hold one in the queue, for `waited`.

        Only peers in `known` are named to the asker. `held`: it has been held already, and will not be once more.
        """
        with self._changed:
            served = self._served.get(piece, _Served())
            answer = admit(
                asker,
                have,
                uploads=self._active,
                queued=self._queued,
                ready=self._ready,
                served=[peer for peer in served.peers if peer in known],
                turn=served.turn,
                held=held,
                tuning=self._tuning,
            )
            match answer:
                case Serve():
                    self._active += 1
                case Hold():
                    self._queued += 1
                    self._ready += have is Have.YES
                case Busy():
                    pass
                case _:
                    served.turn += 1
            return answer

    def finished(self) -> None:
        """An upload is over."""
        with self._changed:
            self._active -= 1
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Returns when a place may be free, at last after `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._active >= self._tuning.uploads and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)

    def waited(self, have: Have) -> None:
        """A request is not held any more; `have` as it was when it began to be."""
        with self._changed:
            self._queued -= 1
            self._ready -= have is Have.YES

    def has_served(self, piece: PieceId, peer: PeerId) -> None:
        """`peer` has got all of this piece."""
        with self._changed:
            served = self._served.setdefault(piece, _Served())
            self._served.move_to_end(piece)
            if peer not in served.peers and len(served.peers) < REMEMBERED_PEERS:
                served.peers.append(peer)
            while len(self._served) > REMEMBERED_PIECES:
                self._served.popitem(last=False)
