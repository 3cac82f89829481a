"""One simulated agent: the same decisions as the real one (`agent.peers`), around them a shell without files and sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.peers import standing
from agent.peers.admission import Absent, Answer, Busy, Have, Hold, Redirect, Serve, admit
from agent.peers.asking import Ask, Look, Origin, Wait, choose
from agent.peers.errand import Errand
from agent.peers.ranking import PeerId, walk
from agent.peers.standing import Standing
from agent.peers.turns import turns
from agent.progress import RateMeter
from agent.transfer.downloader import TransferSettings
from benchmarks.swarm.network import Flow, Link
from benchmarks.swarm.scenario import Fate

if TYPE_CHECKING:
    from benchmarks.swarm.world import View, World

CONNECTIONS = TransferSettings.connections


@dataclass
class Fetch:
    """A piece that an agent has set out for."""

    piece: int
    left: float
    """Bytes that have not come yet."""
    errand: Errand
    asked_at: float = 0.0
    redirects: int = 0
    flow: Flow | None = None
    sender: Node | None = None
    """Who sends it; None: the origin."""


@dataclass
class Request:
    """A request for a piece that is under way to, or held by, an agent."""

    asker: Node
    fetch: Fetch
    ended: bool = False

    def fails(self, peer: Node) -> None:
        """It gets no answer."""
        self.asker.failed(self, peer)


class Node:
    """An agent with its node's links. `name` is its identity as a peer."""

    def __init__(self, world: World, fate: Fate) -> None:
        rate = world.scenario.link_rate * (world.scenario.slow_factor if fate.slow else 1.0)
        self.world = world
        self.name = fate.name
        self.zone = fate.zone
        self.up = Link(rate)
        self.down = Link(rate)
        self.lying, self.slow, self.dark = fate.lying, fate.slow, fate.dark
        self.dead = False
        self.joined: float | None = None
        self.finished: float | None = None
        self._have = 0
        """The pieces that are here, as bits."""
        self._reading = 0
        """The pieces that are being read from the origin by this agent, or soon will be, as bits."""
        self._missing = world.count
        self._fetches: dict[int, Fetch] = {}
        self._order: Iterator[int] = iter(())
        self._wanted: deque[int] = deque()
        """Pieces that others have asked for."""
        self.meter = RateMeter()
        self._standings: dict[PeerId, Standing] = {}
        self._bitmaps: dict[PeerId, tuple[float, int]] = {}
        self._waiting_turn: deque[tuple[Fetch, View]] = deque()
        self._turns_taken: dict[Flow, Fetch] = {}
        self._origin_bytes = 0.0
        self._uploads: dict[Flow, Request] = {}
        self._queued = 0
        self._held: dict[int, list[Request]] = {}
        """Requests for pieces that are under way here."""
        self._ready: deque[Request] = deque()
        """Requests for pieces that are here, waiting for a free upload."""
        self._served: dict[int, list[PeerId]] = {}
        self._redirected: dict[int, int] = {}

    @property
    def is_downloading(self) -> bool:
        """Whether it has begun and not finished."""
        return self.joined is not None and self.finished is None and not self.dead

    def bytes_done(self) -> int:
        """Of the model, as the agent reports them."""
        coming = sum(f.left - f.flow.left_at(self.now) for f in self._fetches.values() if f.flow is not None)
        return int((self.world.count - self._missing) * self.world.scenario.piece_bytes + coming)

    @property
    def view(self) -> View:
        """Who is there, as the controller last said."""
        return self.world.view(self)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.world.network.now

    # Asking

    def join(self, _: object) -> None:
        """The agent has got the model to fetch, and its peers, from the controller."""
        world = self.world
        self.joined = self.now
        world.arrived(self)
        self._order = walk(
            world.pieces, lambda piece: self.view.rank_of(piece.number, self.name), world.tuning, self._wanted
        )
        self._set_out()

    def _set_out(self) -> None:
        """Begins with as many pieces as there are workers."""
        while len(self._fetches) < self.world.tuning.workers:
            piece = next(self._order, None)
            if piece is None:
                return
            self._fetches[piece] = fetch = Fetch(piece, self.world.sizes[piece], Errand(self.now, self.world.tuning))
            self._decide(fetch)

    def _decide(self, fetch: Fetch) -> None:
        """Does what `choose` says."""
        if self.dead or self._fetches.get(fetch.piece) is not fetch or fetch.flow is not None:
            return
        world, view, now = self.world, self.view, self.now
        bit, oldest = 1 << fetch.piece, now - world.tuning.look_seconds
        known = {peer: bits for peer, (when, bits) in self._bitmaps.items() if when >= oldest}
        holders = {peer for peer, bits in known.items() if bits & bit and peer in view.joined}
        decision = choose(
            self.name,
            world.pieces[fetch.piece],
            view.ranked(fetch.piece),
            fetch.errand.attempt(view.complete | holders, view.complete | known.keys(), now),
            world.tuning,
            shunned=self._shunned(now),
            joined=view.joined,
            tiers=view.tiers,
        )
        match decision:
            case Ask(peer):
                fetch.redirects = 0
                self._ask(fetch, peer)
            case Origin():
                self._reading |= bit
                self._waiting_turn.append((fetch, view))
                self._next_turn()
            case Look(peers):
                world.counts["looks at bitmaps"] += len(peers)
                world.network.after(2 * world.scenario.latency, self._look, (fetch, peers))
            case Wait(seconds):
                world.counts["waits"] += 1
                world.network.after(seconds, self._decide, fetch)

    def _shunned(self, now: float) -> Set[PeerId]:
        shunned = standing.shunned(self._standings, now) if self.world.troubled else frozenset[PeerId]()
        return shunned | standing.slow(self._standings, now) if self.world.uneven else shunned

    def _ask(self, fetch: Fetch, peer: PeerId) -> None:
        fetch.asked_at = self.now
        self.world.send(Request(self, fetch), self.world.nodes[peer])

    def _look(self, argument: tuple[Fetch, tuple[PeerId, ...]]) -> None:
        """The bitmaps of peers arrive. (A dead one costs a connection attempt; the others need not wait for it.)"""
        fetch, peers = argument
        strangers = False
        for name in peers:
            peer = self.world.nodes[name]
            if not peer.dead and self.name not in peer.view.joined and self._is_early():
                strangers = True
            else:
                self._bitmaps[name] = (self.now, 0 if peer.dead or peer.lying else peer._have | peer._reading)
        if strangers:
            self.world.counts["met as a stranger"] += 1
            self.world.network.after(self.world.tuning.retry, self._decide, fetch)
        else:
            self._decide(fetch)

    def _is_early(self) -> bool:
        return self.joined is not None and self.now - self.joined < self.world.tuning.grace

    def _next_turn(self) -> None:
        """Begins to read from the origin what is waiting, as far as it is this agent's turn."""
        while self._waiting_turn:
            view = self.view
            if len(self._turns_taken) >= turns(len(view.joined), CONNECTIONS, self.world.tuning):
                return
            fetch, before = self._waiting_turn.popleft()
            if self._fetches.get(fetch.piece) is not fetch:
                continue
            if before.joined.keys() != view.joined.keys() or before.tiers != view.tiers:
                # Somebody came or went while it waited, or another one owns it now.
                self._reading &= ~(1 << fetch.piece)
                self._decide(fetch)
                continue
            size = self.world.sizes[fetch.piece]
            fetch.flow = self.world.network.transfer(size, self.world.origins[self.zone], self.down, self._read)
            self._turns_taken[fetch.flow] = fetch

    def _read(self, flow: Flow) -> None:
        """A piece has come from the origin."""
        fetch = self._turns_taken.pop(flow)
        self._origin_bytes += self.world.sizes[fetch.piece]
        self.world.origin_bytes[self.zone] += self.world.sizes[fetch.piece]
        self._next_turn()
        self._arrived(fetch)

    def answered(self, request: Request, peer: Node, answer: Answer | None) -> None:
        """What `peer` says to a request, other than by sending the piece; None: that it does not know us."""
        fetch, now = request.fetch, self.now
        if self._fetches.get(fetch.piece) is not fetch:
            return
        match answer:
            case Redirect(other):
                fetch.errand.busy(peer.name, now)
                fetch.redirects += 1
                usable = other in self.view.joined and not fetch.errand.excludes(other)
                if usable and fetch.redirects <= self.world.tuning.redirects:
                    self.world.counts["redirects followed"] += 1
                    self._ask(fetch, other)
                    return
            case Busy(seconds):
                self.world.counts["held in vain" if seconds == 0 else "refused, busy"] += 1
                held = fetch.asked_at if seconds == 0 else None
                fetch.errand.busy(peer.name, now, asked_at=held, progress=peer.progress())
            case Absent():
                fetch.errand.lacks(peer.name, now, early=self._is_early())
            case _:
                fetch.errand.busy(peer.name, now)
        self._decide(fetch)

    def failed(self, request: Request, peer: Node) -> None:
        """The peer could not be reached, or went away."""
        fetch = request.fetch
        if self.dead or self._fetches.get(fetch.piece) is not fetch:
            return
        fetch.flow = fetch.sender = None
        fetch.errand.failed(peer.name)
        known = self._standings.get(peer.name, Standing())
        self._standings[peer.name] = standing.unreachable(known, self.now, self.world.tuning)
        self._decide(fetch)

    def _received(self, flow: Flow, fetch: Fetch, peer: Node) -> None:
        """A piece has come from a peer, and its digest is compared."""
        known = self._standings.get(peer.name, Standing())
        if peer.lying:
            self._standings[peer.name] = standing.lied(known, "wrong bytes")
            self.world.counts["lies caught"] += 1
            fetch.flow = fetch.sender = None
            fetch.errand.failed(peer.name)
            self._decide(fetch)
            return
        if self.world.uneven or known.failures:
            size = self.world.sizes[fetch.piece]
            whole = size == fetch.left == self.world.scenario.piece_bytes
            rate = standing.rate_of(int(size), self.now - flow.started) if whole else None
            self._standings[peer.name] = standing.succeeded(known, rate, self.now)
        self._arrived(fetch)

    def watch(self, flow: Flow, request: Request, peer: Node) -> None:
        """A piece begins to come from a peer: it may take so long and no longer."""
        if self.world.uneven:
            seconds = standing.longest(self._standings, int(request.fetch.left), self.world.tuning)
            self.world.network.after(seconds, self._break_off, (flow, request, peer))

    def _break_off(self, argument: tuple[Flow, Request, Node]) -> None:
        """Had better come from somebody else."""
        flow, request, peer = argument
        fetch = request.fetch
        if flow.ended or fetch.flow is not flow or self.dead:
            return
        self.world.counts["broken off, slow"] += 1
        self.world.network.cut(flow)
        peer._lost(flow)
        left = flow.left_at(self.now)
        rate = standing.rate_of(int(fetch.left - left), self.now - flow.started)
        self._standings[peer.name] = standing.lagged(self._standings.get(peer.name, Standing()), rate, self.now)
        fetch.left = left
        fetch.flow = fetch.sender = None
        fetch.errand.failed(peer.name)
        self._decide(fetch)

    def _arrived(self, fetch: Fetch) -> None:
        """A piece is here and good."""
        piece = fetch.piece
        self._have |= 1 << piece
        self._reading &= ~(1 << piece)
        del self._fetches[piece]
        self._missing -= 1
        if self._missing == 0:
            self.finished = self.now
            self.world.finished(self)
        waiting = self._held.pop(piece, None)
        if waiting:
            self._ready.extend(request for request in waiting if not request.ended)
            self._serve_next()
        self._set_out()

    # Being asked

    def progress(self) -> int:
        """Bytes read from the origin."""
        under_way = sum(self.world.sizes[f.piece] - flow.left_at(self.now) for flow, f in self._turns_taken.items())
        return int(self._origin_bytes + under_way)

    def asked(self, request: Request) -> None:
        """A request arrives."""
        if self.dead:
            self.world.network.after(self._silence, request.fails, self)
            return
        if request.asker.name not in self.view.joined:
            self.world.reply(request, self, None)
            return
        match self._admit(request):
            case Serve():
                self._serve(request)
            case Hold(seconds):
                self._queued += 1
                if self._have >> request.fetch.piece & 1:
                    self._ready.append(request)
                else:
                    if request.fetch.piece not in self._held:
                        self._wanted.append(request.fetch.piece)
                    self._held.setdefault(request.fetch.piece, []).append(request)
                self.world.network.after(seconds, self._give_up, request)
            case answer:
                self.world.reply(request, self, answer)

    def _admit(self, request: Request, *, held: bool = False) -> Answer:
        """What `admit` says."""
        piece = request.fetch.piece
        answer = admit(
            request.asker.name,
            self._has(request),
            uploads=len(self._uploads),
            queued=self._queued,
            ready=len(self._ready),
            served=self._served.get(piece, ()),
            turn=self._redirected.get(piece, 0),
            held=held,
            tuning=self.world.tuning,
        )
        if isinstance(answer, Redirect):
            self._redirected[piece] = self._redirected.get(piece, 0) + 1
        return answer

    def _has(self, request: Request) -> Have:
        piece = request.fetch.piece
        if self._have >> piece & 1:
            return Have.YES
        coming = self._reading >> piece & 1 or not self.view.rank_of(piece, request.asker.name) < self.view.rank_of(
            piece, self.name
        )
        return Have.UNDER_WAY if coming else Have.NO

    def _serve(self, request: Request) -> None:
        """Sends the piece, if it is still wanted."""
        fetch, asker = request.fetch, request.asker
        if asker.dead or asker._fetches.get(fetch.piece) is not fetch:
            return
        flow = self.world.network.transfer(fetch.left, self.up, asker.down, self._sent)
        self._uploads[flow] = request
        fetch.flow, fetch.sender = flow, self
        asker.watch(flow, request, self)

    def _sent(self, flow: Flow) -> None:
        """An upload is through."""
        request = self._uploads.pop(flow)
        self._served.setdefault(request.fetch.piece, []).append(request.asker.name)
        request.asker._received(flow, request.fetch, self)
        self._serve_next()

    def _lost(self, flow: Flow) -> None:
        """The receiver of an upload is gone."""
        if self._uploads.pop(flow, None) is not None and not self.dead:
            self._serve_next()

    def _serve_next(self) -> None:
        """Turns to those who wait, when an upload is free."""
        while self._ready and len(self._uploads) < self.world.tuning.uploads:
            request = self._ready.popleft()
            if not request.ended:
                request.ended = True
                self._queued -= 1
                self._serve(request)

    def _give_up(self, request: Request) -> None:
        """A held request has waited long enough."""
        if request.ended or self.dead:
            return
        request.ended = True
        self._queued -= 1
        piece = request.fetch.piece
        (self._ready if self._have >> piece & 1 else self._held[piece]).remove(request)
        match self._admit(request, held=True):
            case Serve():
                self._serve(request)
            case answer:
                self.world.reply(request, self, answer)

    # Dying

    @property
    def _silence(self) -> float:
        """Seconds until somebody who waits for this dead agent gives up."""
        return self.world.scenario.stall_seconds if self.dark else self.world.scenario.latency

    def die(self, _: object) -> None:
        """The agent is gone. Whoever talks to it sees the connection break, or finds out by silence."""
        if self.finished is not None or self.joined is None:
            return
        self.dead = True
        network = self.world.network
        for fetch in list(self._fetches.values()):
            if fetch.flow is not None and not fetch.flow.ended:
                network.cut(fetch.flow)
                if fetch.sender is not None:
                    fetch.sender._lost(fetch.flow)
        waiting = [request for requests in self._held.values() for request in requests] + list(self._ready)
        for flow, request in self._uploads.items():
            if not flow.ended:
                network.cut(flow)
            waiting.append(request)
        for request in waiting:
            network.after(self._silence, request.fails, self)
        self.world.died(self)
