"""The content of one model on its way to this node: its downloads, one at a time, and what they have brought so far.

Beside `agent.worker`, which decides when there is something to download: an `Arrival` knows how that is done, who may be
asked, and how much of it came from where. What was fetched stays known until other content is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.attention import attend
from agent.content import Known
from agent.desired import Peers
from agent.peers.members import PeerAddress, PeerProblem
from agent.ports import Fetch
from agent.surroundings import Surroundings, Traffic
from agent.transfer import Progress
from modelcache.sources.base import Credential


class Arrival:
    """For one model of `namespace`. Called in the event loop."""

    def __init__(
        self, namespace: str, around: Surroundings, *, progressed: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        """`progressed` is called when bytes have come, `say` with what is worth a line in the log."""
        self._namespace = namespace
        self._around = around
        self._progressed = progressed
        self._say = say
        self.fetch: Fetch | None = None
        """The download under way, or the last one, of the present content."""
        self.running = False
        self.digests: Mapping[str, str] = {}
        """sha256 of every file that was fetched, by path."""
        self.tree_digest = ""
        """Of what was fetched."""
        self.peers: tuple[PeerAddress, ...] = ()
        """The other agents of the model, as the controller names them."""
        self.peer_problems: dict[str, PeerProblem] = {}
        """Those among them that have sent wrong content, since the present content was wanted; they are not asked again."""
        self._earlier = Traffic(0, 0)

    @property
    def traffic(self) -> Traffic:
        """What was read for the present content, since this process first wanted it."""
        progress = self.fetch.progress() if self.fetch is not None else None
        if progress is None:
            return self._earlier
        origin = progress.fetched_bytes - progress.peer_bytes
        return Traffic(self._earlier.origin_bytes + origin, self._earlier.peer_bytes + progress.peer_bytes)

    def meet(self, peers: Peers) -> None:
        """These are the other agents of the model now."""
        self.peers = peers.after(self.peers)
        if self.fetch is not None:
            self.fetch.meet(self._trusted())

    def begin_anew(self) -> None:
        """Other content is wanted now: what was fetched says nothing about it. (A completed manifest is the same content.)"""
        self._let_go()
        self.digests, self.tree_digest = {}, ""
        self._earlier, self.peer_problems = Traffic(0, 0), {}

    def settle(self) -> None:
        """The last download is done with: what it brought is published, or not needed."""
        self._earlier = self.traffic
        self._let_go()

    async def download(self, known: Known, credential: Credential | None) -> Mapping[str, str]:
        """Bring every file into the store when it is this model's turn; sha256 by path. Raises what `Fetch.run` raises."""
        around = self._around

        async def attempt() -> Mapping[str, str]:
            self.settle()
            self.fetch = fetch = around.fetcher.begin(self._namespace, known.manifest, credential, self._trusted())
            self.running = True
            around.changed()
            try:
                return await attend(fetch, known.manifest.source, around, self._looked, self._say)
            finally:
                self.running = False
                if self.fetch is not fetch:
                    fetch.close()

        async with around.slots.place():
            await around.swept()
            return await around.room.within(attempt)

    def _looked(self, fetch: Fetch, progress: Progress | None) -> None:
        if progress is not None and progress.fetched_bytes > 0:
            self._progressed()
        self.peer_problems |= {problem.node: problem for problem in fetch.peer_problems()}
        self._around.changed()

    def _trusted(self) -> list[PeerAddress]:
        return [peer for peer in self.peers if peer.node not in self.peer_problems]

    def _let_go(self) -> None:
        if self.fetch is not None and not self.running:
            self.fetch.close()
        # One that still runs is stopped by the plan, and closed by `download` when it has ended.
        self.fetch = None
