"""The seam for peers: pieces may come from elsewhere, chosen for each piece, with the origin behind it."""

import threading
from collections import Counter
from collections.abc import Callable, Collection

from agent.transfer import CancelToken, PieceSource, Sink
from agent.transfer.source import Alone
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
        raise AssertionError("only the origin is forgotten")


class Chooses(Alone):
    """An overlay that is one function: (origin, piece, how often this piece was tried) -> source."""

    def __init__(self, choice: Callable[[PieceSource, int, int], PieceSource]) -> None:
        super().__init__(workers=1)
        self._choice = choice
        self._tried: Counter[int] = Counter()
        self._origin: PieceSource | None = None

    def join(self, origin: PieceSource) -> PieceSource:
        self._origin = origin
        return self

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        assert self._origin is not None
        piece = sink.start // PIECE
        tried = self._tried[piece]
        self._tried[piece] += 1
        self._choice(self._origin, piece, tried).read(file, sink, cancel)

    def forget(self, file: ManifestFile) -> None:
        assert self._origin is not None
        self._origin.forget(file)


def test_every_piece_has_its_source(fetching: Make) -> None:
    engine = fetching()
    data = content(8 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(data)
    engine.fetch(manifest, overlay=Chooses(lambda origin, index, tried: peer if index % 2 else origin))
    assert sorted(peer.asked) == [PIECE, 3 * PIECE, 5 * PIECE, 7 * PIECE]
    assert sorted(seen.start or 0 for seen in engine.origin.seen) == [0, 2 * PIECE, 4 * PIECE, 6 * PIECE]


def test_another_source_goes_on_inside_the_piece(fetching: Make) -> None:
    engine = fetching(connections=1)
    data = content(2 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(data, dies_after=5000)
    engine.fetch(manifest, overlay=Chooses(lambda origin, index, tried: origin if tried else peer))
    assert peer.asked == [0, PIECE]
    assert [(seen.start, seen.end) for seen in engine.origin.seen] == [(5000, PIECE), (PIECE + 5000, 2 * PIECE)]
    assert engine.told[-1].fetched_bytes == len(data)


def test_only_the_pieces_under_suspicion_come_again(fetching: Make) -> None:
    engine = fetching()
    data = content(3 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(data[:PIECE] + bytes(PIECE) + data[2 * PIECE :])

    class Suspects(Chooses):
        def suspects(self, file: ManifestFile, cancel: CancelToken) -> Collection[int]:
            return (1,)

    engine.fetch(manifest, overlay=Suspects(lambda origin, index, tried: origin if tried else peer))
    assert sorted(peer.asked) == [0, PIECE, 2 * PIECE]
    assert [(seen.start, seen.end) for seen in engine.origin.seen] == [(PIECE, 2 * PIECE)]


def test_without_a_suspicion_everything_comes_again(fetching: Make) -> None:
    engine = fetching()
    data = content(3 * PIECE)
    manifest = engine.serve(("a", data))
    peer = Peer(bytes(len(data)))
    engine.fetch(manifest, overlay=Chooses(lambda origin, index, tried: origin if tried else peer))
    assert sorted(peer.asked) == [0, PIECE, 2 * PIECE]
    assert engine.origin.bytes_sent == len(data)
