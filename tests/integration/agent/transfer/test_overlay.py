"""The seam for peers: pieces may come from elsewhere, chosen for each piece, with the origin behind it."""

import threading
from collections.abc import Callable

from agent.transfer import CancelToken, PieceSource, Router, Sink
from agent.transfer.source import OriginRouter
from modelcache.manifest import ManifestFile
from modelcache.sources.errors import Unreachable
from tests.support.fetching import PIECE, Fetching, content

Make = Callable[..., Fetching]


class Peer:
    """Another agent that has the file, or half of it, or something else."""

    def __init__(self, data: bytes, *, dies_after: int | None = None) -> None:
        self.data = data
        self.dies_after = dies_after
        self.asked: list[int] = []
        self._lock = threading.Lock()

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        with self._lock:
            self.asked.append(sink.position)
        sent = 0
        while sink.position < sink.end:
            cancel.check()
            space = sink.space()[: min(1000, sink.end - sink.position)]
            space[:] = self.data[sink.position : sink.position + len(space)]
            sink.filled(len(space))
            sent += len(space)
            if self.dies_after is not None and sent >= self.dies_after and sink.position < sink.end:
                raise Unreachable("the peer is gone", retry_after=0.0)

    def forget(self, file: ManifestFile) -> None:
        raise AssertionError("only routers forget sources")


class Chooses(OriginRouter):
    """A router that is one function: (origin, piece, failures) -> source."""

    def __init__(self, origin: PieceSource, choice: Callable[[PieceSource, int, int], PieceSource]) -> None:
        super().__init__(origin)
        self._choice = choice

    def choose(self, file: ManifestFile, piece: int, failures: int) -> PieceSource:
        return self._choice(super().choose(file, piece, failures), piece, failures)


def routed(choice: Callable[[PieceSource, int, int], PieceSource]) -> Callable[[PieceSource], Router]:
    return lambda origin: Chooses(origin, choice)


def test_every_piece_has_its_source(fetching: Make) -> None:
    engine = fetching()
    data = content(8 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(data)
    engine.fetch(manifest, overlay=routed(lambda origin, index, failures: peer if index % 2 else origin))
    assert sorted(peer.asked) == [PIECE, 3 * PIECE, 5 * PIECE, 7 * PIECE]
    assert sorted(seen.start or 0 for seen in engine.origin.seen) == [0, 2 * PIECE, 4 * PIECE, 6 * PIECE]


def test_another_source_goes_on_inside_the_piece(fetching: Make) -> None:
    engine = fetching(connections=1)
    data = content(2 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(data, dies_after=5000)
    engine.fetch(manifest, overlay=routed(lambda origin, index, failures: origin if failures else peer))
    assert peer.asked == [0, PIECE]
    assert [(seen.start, seen.end) for seen in engine.origin.seen] == [(5000, PIECE), (PIECE + 5000, 2 * PIECE)]
    assert engine.told[-1].fetched_bytes == len(data)


def test_a_source_that_sends_garbage_is_told_and_everything_comes_again(fetching: Make) -> None:
    engine = fetching()
    data = content(3 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(bytes(len(data)))

    class Trusting(OriginRouter):
        """Asks the peer until its bytes turned out to be wrong."""

        trusts = True

        def choose(self, file: ManifestFile, piece: int, failures: int) -> PieceSource:
            return peer if self.trusts else super().choose(file, piece, failures)

        def distrust(self, file: ManifestFile) -> None:
            self.trusts = False

    engine.fetch(manifest, overlay=Trusting)
    assert sorted(peer.asked) == [0, PIECE, 2 * PIECE]
    assert engine.origin.bytes_sent == len(data)
