"""One simulated agent: the same decisions as the real one (`agent.peers`), around them a shell without files and sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.peers import standing
from agent.peers.admission import Absent, Answer, Busy, Have, Hold, Redirect, Serve, admit
from agent.peers.asking import Ask, Attempt, Look, Origin, Wait, choose
from agent.peers.ranking import PeerId, walk
from agent.peers.standing import Standing
from agent.peers.turns import turns
from benchmarks.swarm.network import Flow, Link

if TYPE_CHECKING:
    from benchmarks.swarm.world import View, World


@dataclass
class Fetch:
    """A piece that an agent has set out for."""

    piece: int
    moved: float
    """When it last made progress, as far as the agent has heard."""
    heard: dict = field(default_factory=dict)
    """Bytes of it that the peer last asked said are on their way."""
    failed: set[PeerId] = field(default_factory=set)
    busy: dict[PeerId, float] = field(default_factory=dict)
    flow: Flow | None = None
    origin: bool = False
    redirects: int = 0


@dataclass
class Request:
    """A request for a piece that is under way to, or held by, an agent."""

    asker: Node
    fetch: Fetch
    ended: bool = False


class Node:
    """An agent with its node's links. `name` is its identity as a peer."""

    def __init__(self, world: World, name: PeerId, zone: str, rate: float, *, lying: bool) -> None:
        self.world = world
        self.name = name
        self.zone = zone
        self.up = Link(rate)
        self.down = Link(rate)
        self.lying = lying
        self.dead = False
        self.joined: float | None = None
        self.finished: float | None = None
        self.have = 0
        """The pieces that are here, as bits."""
        self.at_origin = 0
        """The pieces that are being read from the origin by this agent, as bits."""
        self.missing = world.count
        self.fetches: dict[int, Fetch] = {}
        self.order: Iterator[int] = iter(())
        self.standings: dict[PeerId, Standing] = {}
        self.bitmaps: dict[PeerId, tuple[float, int]] = {}
        self.uploads: dict[Flow, Request] = {}
        self.queued = 0
        self.held: dict[int, list[Request]] = {}
        """Requests for pieces that are under way here."""
        self.ready: deque[Request] = deque()
        """Requests for pieces that are here, waiting for a free upload."""
        self.served: dict[int, list[PeerId]] = {}
        self.turns: dict[int, int] = {}
        self.turns_waiting = deque()
        self.reading = 0
        self.origin_bytes = 0.0

    # Asking

    def join(self, _: object) -> None:
        """The agent has got the model to fetch, and its peers, from the controller."""
        world = self.world
        self.joined = world.network.now
        world.arrived(self)
        order = walk(world.pieces, lambda piece: self.view.rank_of(piece.number, self.name), world.tuning)
        self.order = (piece.number for piece in order)
        self.set_out()

    @property
    def view(self) -> View:
        """Who is there, as the controller last said."""
        return self.world.view(self)

    def set_out(self) -> None:
        """Begins with as many pieces as there are workers."""
        import os
        W0=int(os.environ.get("W0","1000"))
        while len(self.fetches) < min(self.world.tuning.workers, W0 + self.world.count - self.missing):
            piece = next(self.order, None)
            if piece is None:
                return
            fetch = self.fetches[piece] = Fetch(piece, self.world.network.now)
            self.decide(fetch)

    def decide(self, fetch: Fetch) -> None:
        """Does what `choose` says."""
        if self.dead or self.fetches.get(fetch.piece) is not fetch or fetch.flow is not None:
            return
        world, view, now = self.world, self.view, self.world.network.now
        bit = 1 << fetch.piece
        oldest = now - world.tuning.look_seconds
        looked = {peer for peer, (when, _) in self.bitmaps.items() if when >= oldest}
        holders = {peer for peer, (_, bits) in self.bitmaps.items() if bits & bit}
        fetch.busy = {peer: until for peer, until in fetch.busy.items() if until > now}
        attempt = Attempt(
            holders=view.complete | holders if holders else view.complete,
            looked=looked,
            failed=fetch.failed,
            busy=fetch.busy.keys(),
            waited=now - fetch.moved,
        )
        decision = choose(
            self.name,
            world.pieces[fetch.piece],
            view.ranked(fetch.piece),
            attempt,
            world.tuning,
            shunned=standing.shunned(self.standings, now) if world.troubled else frozenset(),
            slow=standing.slow(self.standings) if world.uneven else frozenset(),
        )
        match decision:
            case Ask(peer):
                world.asks += 1
                world.send(Request(self, fetch), world.nodes[peer])
            case Origin():
                self.read_origin(fetch)
            case Look(peers):
                world.looks += len(peers)
                world.network.after(world.round_trip, self.look, (fetch, peers))
            case Wait(seconds):
                world.waits += 1
                world.network.after(seconds, self.decide, fetch)

    def look(self, argument: tuple[Fetch, tuple[PeerId, ...]]) -> None:
        """The bitmaps of peers arrive. (A dead one costs a connection attempt; the others need not wait for it.)"""
        fetch, peers = argument
        now = self.world.network.now
        for name in peers:
            peer = self.world.nodes[name]
            self.bitmaps[name] = (now, 0 if peer.dead or peer.lying else peer.have | peer.at_origin)
        self.decide(fetch)

    def read_origin(self, fetch: Fetch) -> None:
        """Fetches the piece from the origin."""
        self.at_origin |= 1 << fetch.piece
        self.turns_waiting.append((fetch, self.view))
        self.next_turn()

    def next_turn(self):
        while self.turns_waiting and self.reading < turns(len(self.view.members), 4):
            fetch, view = self.turns_waiting.popleft()
            if view.members != self.view.members:
                self.at_origin &= ~(1 << fetch.piece)
                self.decide(fetch)
                continue
            self.reading += 1
            self.world.reads[self.zone] += 1
            fetch.flow = self.world.network.transfer(
                self.world.sizes[fetch.piece], self.world.origin, self.down, lambda _, fetch=fetch: self.read(fetch)
            )

    def read(self, fetch):
        self.reading -= 1
        self.origin_bytes += self.world.sizes[fetch.piece]
        self.next_turn()
        self.arrived(fetch)

    def answered(self, request: Request, peer: Node, answer: Answer) -> None:
        """What `peer` says to a request, other than by sending the piece."""
        fetch, tuning = request.fetch, self.world.tuning
        match answer:
            case Redirect(other) if fetch.redirects < tuning.redirects and other not in fetch.failed:
                fetch.redirects += 1
                fetch.busy[peer.name] = self.world.network.now + tuning.retry
                self.world.redirects += 1
                self.world.send(Request(self, fetch), self.world.nodes[other])
                return
            case Absent():
                fetch.failed.add(peer.name)
            case Busy(seconds):
                self.world.refused += 1
                fetch.busy[peer.name] = self.world.network.now + seconds
                heard = peer.progress(fetch.piece)
                if heard > fetch.heard.get(peer.name, 0.0):
                    fetch.heard[peer.name], fetch.moved = heard, self.world.network.now
            case _:
                fetch.busy[peer.name] = self.world.network.now + tuning.retry
        fetch.redirects = 0
        self.decide(fetch)

    def failed(self, request: Request, peer: Node) -> None:
        """The peer could not be reached, or went silent."""
        if self.fetches.get(request.fetch.piece) is not request.fetch:
            return
        request.fetch.failed.add(peer.name)
        request.fetch.flow = None
        known = self.standings.get(peer.name, Standing())
        self.standings[peer.name] = standing.unreachable(known, self.world.network.now, self.world.tuning)
        self.decide(request.fetch)

    def received(self, flow: Flow, fetch: Fetch, peer: Node) -> None:
        """A piece has come from a peer, and its digest is compared."""
        known = self.standings.get(peer.name, Standing())
        if peer.lying:
            self.standings[peer.name] = standing.lied(known, "wrong bytes")
            self.world.lies += 1
            fetch.failed.add(peer.name)
            fetch.flow = None
            self.decide(fetch)
            return
        if self.world.uneven or known.failures:
            rate = self.world.sizes[fetch.piece] / max(self.world.network.now - flow.started, 1e-9)
            self.standings[peer.name] = standing.succeeded(known, rate)
        self.arrived(fetch)

    def arrived(self, fetch: Fetch) -> None:
        """A piece is here and good."""
        if self.dead:
            return
        piece = fetch.piece
        self.have |= 1 << piece
        self.at_origin &= ~(1 << piece)
        del self.fetches[piece]
        self.missing -= 1
        self.world.progressed(self)
        held = self.held.pop(piece, None)
        if held:
            for request in held:
                if not request.ended:
                    self.ready.append(request)
            self.serve_next()
        self.set_out()

    # Being asked

    def progress(self, piece: int) -> float:
        """Bytes read from the origin."""
        return self.origin_bytes+sum(1 for f in self.fetches.values() if f.flow and f.flow.source is self.world.origin and self.world.sizes[f.piece]-f.flow.left_at(self.world.network.now) or 0)

    def asked(self, request: Request) -> None:
        """A request arrives."""
        fetch = request.fetch
        if self.dead:
            return
        answer = self.admit(request, len(self.ready))
        match answer:
            case Serve():
                self.serve(request)
            case Hold(seconds):
                self.queued += 1
                if self.have >> fetch.piece & 1:
                    self.ready.append(request)
                else:
                    self.held.setdefault(fetch.piece, []).append(request)
                self.world.network.after(seconds, self.give_up, request)
            case _:
                self.world.reply(request, self, answer)

    def admit(self, request: Request, ahead: int, last: bool = False) -> Answer:
        """What `admit` says."""
        piece = request.fetch.piece
        answer = admit(
            request.asker.name,
            Have.YES if self.have >> piece & 1 else Have.UNDER_WAY,
            uploads=len(self.uploads),
            queued=self.world.tuning.queue if last else self.queued,
            ready=ahead,
            served=self.served.get(piece, ()),
            turn=self.turns.get(piece, 0),
            tuning=self.world.tuning,
        )
        if isinstance(answer, Redirect):
            self.turns[piece] = self.turns.get(piece, 0) + 1
        return answer

    def serve(self, request: Request) -> None:
        """Sends the piece."""
        fetch = request.fetch
        flow = self.world.network.transfer(self.world.sizes[fetch.piece], self.up, request.asker.down, self.sent)
        self.uploads[flow] = request
        fetch.flow = flow

    def sent(self, flow: Flow) -> None:
        """An upload is through."""
        request = self.uploads.pop(flow)
        self.served.setdefault(request.fetch.piece, []).append(request.asker.name)
        request.asker.received(flow, request.fetch, self)
        self.serve_next()

    def serve_next(self) -> None:
        """Turns to those who wait, when an upload is free."""
        import os
        PR=os.environ.get("PR")
        while self.ready and len(self.uploads) < self.world.tuning.uploads:
            if PR:
                v=self.view
                from agent.peers.ranking import depth
                if PR=="leaf":
                    k=lambda r: v.rank_of(r.fetch.piece,r.asker.name)*self.world.tuning.fanout+1>=len(v.members)
                elif PR=="piece":
                    k=lambda r: r.fetch.piece
                else:
                    k=lambda r: v.rank_of(r.fetch.piece,r.asker.name)
                i=min(range(len(self.ready)),key=lambda i:k(self.ready[i]))
                request=self.ready[i]; del self.ready[i]
            else:
                request = self.ready.popleft()
            if not request.ended:
                request.ended = True
                self.queued -= 1
                self.serve(request)

    def give_up(self, request: Request) -> None:
        """A held request has waited long enough."""
        if request.ended or self.dead:
            return
        request.ended = True
        self.queued -= 1
        if not self.have >> request.fetch.piece & 1:
            self.held[request.fetch.piece].remove(request)
        self.world.held_out += 1
        answer = self.admit(request, self.world.tuning.ready, last=True)
        self.world.reply(request, self, answer)

    # Dying

    def die(self, _: object) -> None:
        """The node is gone, without a word: whoever talks to it finds out by silence."""
        if self.finished is not None or self.joined is None:
            return
        self.dead = True
        network, silence = self.world.network, self.world.silence
        for fetch in self.fetches.values():
            if fetch.flow is not None:
                network.cut(fetch.flow)
        waiting = [request for requests in self.held.values() for request in requests] + list(self.ready)
        for flow, request in self.uploads.items():
            network.cut(flow)
            network.after(silence, lambda request: request.asker.failed(request, self), request)
        for request in waiting:
            if not request.ended:
                network.after(silence, lambda request: request.asker.failed(request, self), request)
        self.world.died(self)
