"""One model's download as a member of its swarm: carries out what the pure decisions say, piece by piece.

It sits between the transfer engine and the world (`agent.transfer.source.Overlay`). For every piece that a worker sets out
for it asks `agent.peers.asking` what to do now, does it, adds what came of it to what it knows, and asks again: until the
piece is there. Trouble with peers ends here; only the origin's errors reach the engine, which waits them out as ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import overload

from agent.peers.asking import Ask, Look, Origin, Wait, choose
from agent.peers.client import (
    PeerAway,
    PeerBusy,
    PeerClient,
    PeerError,
    PeerLags,
    PeerLied,
    PeerRefused,
    PeerSentElsewhere,
    PeerStranger,
)
from agent.peers.counting import CountingSink
from agent.peers.errand import Errand
from agent.peers.holdings import Arriving, Holdings
from agent.peers.keys import ContentKey, TenantKey, key_of, keys_of
from agent.peers.members import Members, PeerAddress, PeerProblem, View
from agent.peers.mending import SharedFile
from agent.peers.ranking import PeerId, PieceId, demote, precedes, rank, walk
from agent.peers.standing import rate_of
from agent.peers.tuning import DEFAULT_TUNING, SwarmTuning
from agent.peers.turns import Turns, turns
from agent.peers.wire import Holding
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock
from agent.transfer.partial import PartialFile
from agent.transfer.pieces import PIECE_BYTES, Piece
from agent.transfer.source import PieceSource, RangesIgnored, Sink
from modelcache.manifest import ManifestFile

MENDING_PATIENCE = 0.05
"""Part of the usual patience with peers for pieces that are fetched again."""


@dataclass
class _Fetch:
    """A worker on its way to get one piece: which, for whom, and what it has come to know on the way."""

    entry: SharedFile
    piece: Piece
    sink: Sink
    cancel: CancelToken
    errand: Errand
    from_peer: bool = False
    """Whether what the sink has of the piece came from a peer, at least in part."""


_NOWHERE = -1
"""Position of what is not part of the walk (yet)."""


class _Named(Sequence[PieceId]):
    """The names of pieces, made when they are asked for."""

    def __init__(self, pieces: Sequence[tuple[ManifestFile, int]]) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, position: int) -> PieceId: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[PieceId]: ...
    def __getitem__(self, position: int | slice) -> PieceId | Sequence[PieceId]:
        if isinstance(position, slice):
            return _Named(self._pieces[position])
        file, index = self._pieces[position]
        return PieceId(key_of(file) or file.path, index)


class Swarm:
    """The Overlay, and the PieceSource, of one download. Thread-safe; use it once."""

    def __init__(
        self,
        namespace: str,
        node: str,
        zone: str,
        peers: Iterable[PeerAddress],
        *,
        client: PeerClient,
        holdings: Holdings,
        clock: Clock,
        connections: int,
        tuning: SwarmTuning = DEFAULT_TUNING,
    ) -> None:
        """`connections`: pieces that are read from the origin at a time when there is nobody else."""
        self._namespace = namespace
        self._me = PeerId(node)
        self._client = client
        self._holdings = holdings
        self._clock = clock
        self._connections = connections
        self._tuning = tuning
        # Agents that mend the same file may wait for each other's pieces in a circle.
        self._mending_tuning = replace(tuning, patience=tuning.patience * MENDING_PATIENCE)
        self._members = Members(zone, clock, tuning)
        self._members.update(peers)
        self._began = clock.monotonic()
        self._turns = Turns()
        self._lock = threading.Lock()
        self.piece_bytes = PIECE_BYTES
        """See Expecting; the download says what it really is."""
        self._files: dict[str, SharedFile] = {}
        """Files under way, by path."""
        self._expected: dict[ContentKey, int] = {}
        """Those and all that are still to come: the position of the first piece in the walk."""
        self._pieces: Sequence[tuple[ManifestFile, int]] = ()
        self._wanted: deque[int] = deque()
        """Positions in the walk of pieces that others have asked for."""
        self._looks: dict[ContentKey, dict[PeerId, tuple[float, Holding | None]]] = {}
        self._origin: PieceSource | None = None
        self._whole = False
        """The origin gives whole files only, as far as was seen. Then a file has one owner, that of its first piece."""
        self._peer_bytes = 0
        self._origin_bytes = 0

    # What others see

    def update(self, peers: Iterable[PeerAddress]) -> None:
        """These are the other agents of the model now."""
        self._members.update(peers)

    @property
    def peer_bytes(self) -> int:
        """Bytes that came from peers."""
        return self._peer_bytes

    def problems(self) -> tuple[PeerProblem, ...]:
        """Peers that have sent wrong content."""
        return self._members.problems()

    # What is expected (see `agent.peers.holdings.Expecting`)

    def expects(self, content: TenantKey) -> bool:
        """See Expecting."""
        return content.namespace == self._namespace and content.key in self._expected

    def progress(self) -> int:
        """See Expecting."""
        return self._origin_bytes

    def wanted(self, key: ContentKey, index: int) -> None:
        """See Expecting."""
        first = self._expected.get(key, _NOWHERE)
        if first == _NOWHERE:
            return
        file = self._pieces[first][0]
        # The pieces of a file follow each other; some may have been here before.
        for position in range(min(first + index, len(self._pieces) - 1), first - 1, -1):
            if self._pieces[position] == (file, index):
                self._wanted.append(position)
                return

    def defers(self, key: ContentKey, index: int, node: str) -> bool:
        """See Expecting."""
        return precedes(self._owned_as(PieceId(key, index)), PeerId(node), self._me, self._members.tiers())

    # The overlay

    @property
    def workers(self) -> int:
        """See Overlay."""
        return max(self._tuning.workers, self._connections)

    def join(self, origin: PieceSource) -> PieceSource:
        """See Overlay."""
        self._origin = origin
        return self

    @contextlib.contextmanager
    def expecting(self, files: Sequence[ManifestFile], piece_bytes: int) -> Iterator[None]:
        """See Overlay."""
        self.piece_bytes = piece_bytes
        with self._lock:
            for file in files:
                self._expected |= dict.fromkeys(keys_of(file), _NOWHERE)
        with self._holdings.expecting(self):
            yield

    def walk(self, pieces: Sequence[tuple[ManifestFile, int]]) -> Iterator[int]:
        """See Overlay."""
        self._pieces, before = pieces, None
        with self._lock:
            for position, (file, _) in enumerate(pieces):
                if file is not before:
                    self._expected |= {key: position for key in keys_of(file) if key in self._expected}
                before = file
        return walk(_Named(pieces), self._own_rank, self._tuning, self._wanted)

    def begin(self, file: ManifestFile, partial: PartialFile) -> None:
        """See Overlay."""
        key = key_of(file)
        with self._lock:
            if key is None or file.path in self._files:
                return
            arriving = Arriving(partial, key, self)
            content = TenantKey(self._namespace, key)
            self._files[file.path] = SharedFile(content, file, arriving, self._members, self._client, self._me)
        self._holdings.begin(self._namespace, keys_of(file), arriving)

    def arrived(self, file: ManifestFile) -> None:
        """See Overlay."""
        self._holdings.arrived(self._namespace, keys_of(file))

    def end(self, file: ManifestFile) -> None:
        """See Overlay."""
        keys = keys_of(file)
        with self._lock:
            entry = self._files.pop(file.path, None)
            for key in keys:
                self._expected.pop(key, None)
                self._looks.pop(key, None)
        if entry is None:
            self._holdings.arrived(self._namespace, keys)
            return
        self._holdings.end(self._namespace, keys, entry.arriving)
        # One that is given up is not compared with anything.
        if entry.was_wrong and self._holdings.is_blob(entry.content, file.size):
            entry.find_guilty(verified=True)

    def suspects(self, file: ManifestFile, cancel: CancelToken) -> Collection[int]:
        """See Overlay."""
        with self._lock:
            entry = self._files.get(file.path)
        return entry.suspects(cancel) if entry is not None else ()

    # The source

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        """See PieceSource."""
        with self._lock:
            entry = self._files.get(file.path)
        if entry is None:
            return self._read_origin(file, sink, cancel)
        partial = entry.arriving.partial
        piece = partial.piece(sink.start // partial.piece_bytes)
        if entry.alone or sink.end > piece.end:  # or an origin that sends whole files only
            for index in range(piece.number, -(-sink.end // partial.piece_bytes)):
                entry.arriving.came(index, ())
            return self._read_origin(file, sink, cancel)
        avoided = map(PeerId, entry.avoided(piece.number))
        fetch = _Fetch(entry, piece, sink, cancel, Errand(self._clock.monotonic(), self._tuning, avoided))
        while not self._step(fetch):
            cancel.check()
        return None

    def forget(self, file: ManifestFile) -> None:
        """See PieceSource."""
        if self._origin is not None:
            self._origin.forget(file)

    # One step

    def _step(self, fetch: _Fetch) -> bool:
        """Does what is right now for one piece; whether it is there then."""
        view = self._members.view()
        entry, number = fetch.entry, fetch.piece.number
        name = PieceId(entry.key, number)
        now = self._clock.monotonic()
        decision = choose(
            self._me,
            name,
            rank(self._owned_as(name), [*view.addresses, self._me]),
            fetch.errand.attempt(*self._bitmaps(entry, number, view, now), now),
            self._mending_tuning if entry.is_mended(number) else self._tuning,
            shunned=view.shunned | view.slow,
            joined=view.joined,
            tiers=view.tiers,
            earlier=view.earlier,
        )
        match decision:
            case Ask(peer):
                return self._ask(peer, view.addresses[peer], fetch)
            case Look(peers):
                answered = [self._look(peer, view.addresses[peer], fetch) for peer in peers]
                if not all(answered):
                    self._clock.wait(self._tuning.retry, fetch.cancel)
                return False
            case Wait(seconds):
                self._clock.wait(seconds, fetch.cancel)
                return False
            case Origin():
                return self._take_turn(view, fetch)

    def _bitmaps(self, entry: SharedFile, index: int, view: View, now: float) -> tuple[Set[PeerId], Set[PeerId]]:
        """Who has a piece, and of whom that is known, as far as anybody has told lately."""
        holders, looked = set(view.complete), set(view.complete)
        with self._lock:
            for peer, (when, holding) in self._looks.get(entry.key, {}).items():
                if now - when > self._tuning.look_seconds or peer not in view.addresses:
                    continue
                looked.add(peer)
                fits = holding is not None and holding.piece_bytes == entry.arriving.partial.piece_bytes
                if holding is not None and fits and (index in holding.pieces or index in holding.reading):
                    holders.add(peer)
        return holders, looked

    def _ask(self, peer: PeerId, address: str, fetch: _Fetch) -> bool:
        """Asks a peer, and those that it sends us to."""
        for _ in range(self._tuning.redirects + 1):
            asked_at = self._clock.monotonic()
            try:
                self._receive(peer, address, fetch)
            except PeerSentElsewhere as elsewhere:
                # Only to those that we know ourselves.
                other = self._members.named(elsewhere.address)
                fetch.errand.busy(peer, self._clock.monotonic())
                if other is None or fetch.errand.excludes(other) or other in self._members.view().shunned:
                    return False
                peer, address = other, elsewhere.address
            except PeerError as error:
                if isinstance(error, PeerLied) and not self._insists(peer, address, fetch, error.digest):
                    error = PeerAway("it is just fetching the piece again itself")
                self._note(peer, fetch, error, asked_at)
                return False
            else:
                return True
        return False

    def _receive(self, peer: PeerId, address: str, fetch: _Fetch) -> None:
        """Fills the sink from one peer. Raises PeerError."""
        entry, piece, sink = fetch.entry, fetch.piece, fetch.sink
        position = sink.position

        def refuse(digest: bytes, via: Sequence[str]) -> bool:
            if not entry.accepts(piece.number, via):
                return True
            # Before the last byte: from then on others may ask where the piece came from.
            entry.arriving.came(piece.number, (*via[:-1], peer))
            return False

        def count(number: int) -> None:
            fetch.errand.moved(self._clock.monotonic())
            fetch.from_peer = True
            with self._lock:
                self._peer_bytes += number

        received = self._client.fetch(
            peer, address, entry.content, entry.file.size, piece, sink, fetch.cancel, refuse=refuse, count=count,
            longest=self._members.longest(piece.end - position),
        )  # fmt: skip
        # Pieces of one size are compared, and nothing else.
        whole = piece.end - position == entry.arriving.partial.piece_bytes
        self._members.has_succeeded(peer, rate_of(piece.end - position, received.seconds) if whole else None)

    def _insists(self, peer: PeerId, address: str, fetch: _Fetch, digest: bytes) -> bool:
        """Whether a peer still announces `digest` for the piece.

        An honest one that was lied to itself may have begun to overwrite the piece while it was sending it.
        """
        entry = fetch.entry
        try:
            holding = self._client.holding(peer, address, entry.content, entry.file.size, fetch.cancel, digests=True)
        except PeerError:
            return False
        return holding.digests.get(fetch.piece.number) == digest

    def _note(self, peer: PeerId, fetch: _Fetch, error: PeerError, asked_at: float) -> None:
        """Remembers what went wrong with a peer that was asked at `asked_at`."""
        now, errand = self._clock.monotonic(), fetch.errand
        match error:
            case PeerBusy():
                errand.busy(peer, now, asked_at=asked_at if error.held else None, progress=error.progress)
            case PeerRefused():
                errand.refused(peer, now)
            case PeerStranger():
                errand.busy(peer, now)
            case PeerLied():
                errand.failed(peer)
                self._members.has_lied(peer, f"{fetch.entry.file.path}: {error}.")
            case PeerLags():
                errand.failed(peer)
                self._members.lags(peer, error.count, error.seconds)
            case PeerAway():
                errand.failed(peer)
                self._members.is_away(peer)
            case _:
                errand.lacks(peer, now, early=now - self._began < self._tuning.grace)

    def _look(self, peer: PeerId, address: str, fetch: _Fetch) -> bool:
        """Asks a peer which pieces of the file it has; False when it should be asked again soon."""
        entry, holding = fetch.entry, None
        try:
            holding = self._client.holding(peer, address, entry.content, entry.file.size, fetch.cancel)
        except PeerAway:
            self._members.is_away(peer)
        except PeerStranger:
            # The controller tells one agent after the other: to read the origin now, because of that, might be for the
            # second time.
            if self._clock.monotonic() - self._began < self._tuning.grace:
                return False
        except PeerError:
            pass  # it has nothing for us
        with self._lock:
            self._looks.setdefault(entry.key, {})[peer] = (self._clock.monotonic(), holding)
        return True

    def _take_turn(self, view: View, fetch: _Fetch) -> bool:
        """Reads a piece from the origin, unless somebody came or went while it waited for its turn.

        Raises RangesIgnored when this agent is to read the whole file, beginning anew.
        """
        entry, number = fetch.entry, fetch.piece.number
        if self._whole and entry.arriving.partial.pieces > 1:
            raise RangesIgnored
        limit = turns(len(view.addresses) + 1, self._connections, self._tuning)
        with entry.arriving.reads(number), self._turns.turn(limit, fetch.cancel):
            if self._members.view().generation != view.generation:
                return False
            if fetch.from_peer:
                # The digest of the whole piece would vouch for it, and the origin gives none: a peer's half might be wrong.
                fetch.sink.restart()
                fetch.from_peer = False
            entry.arriving.came(number, ())
            try:
                self._read_origin(entry.file, fetch.sink, fetch.cancel)
            except RangesIgnored:
                # Who is to read is another question now, and must be for all pieces of the file at once: two agents that
                # each own a piece would both read everything, and wait for each other before they begin.
                self._whole = True
                return False
        return True

    def _read_origin(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        assert self._origin is not None
        self._origin.read(file, CountingSink(sink, self._count_origin_bytes), cancel)

    def _count_origin_bytes(self, count: int) -> None:
        with self._lock:
            self._origin_bytes += count

    def _own_rank(self, piece: PieceId) -> int:
        view = self._members.view()
        return demote(rank(self._owned_as(piece), [*view.addresses, self._me]), view.tiers).index(self._me)

    def _owned_as(self, piece: PieceId) -> PieceId:
        """The piece whose owner this one has."""
        return piece._replace(number=0) if self._whole else piece
