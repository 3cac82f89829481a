"""A file under way in a swarm, and what is known about it when it is complete and wrong.

Wrong bytes whose digest fits them pass every check on receipt; only the digest of the whole file tells. Which pieces to fetch
again, and whose fault it was, `agent.peers.blame` works out; here is what it works from, for one file, and what follows: peers
are asked which digests their pieces have, and whoever is convicted is dropped and reported.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from agent.peers import blame
from agent.peers.client import PeerClient, PeerError
from agent.peers.holdings import Arriving
from agent.peers.keys import TenantKey
from agent.peers.members import Members
from agent.peers.ranking import PeerId
from agent.transfer.cancel import CancelToken
from modelcache.manifest import ManifestFile

LIMIT = 4
"""How often a wrong file is mended with the help of peers before everything is read from the origin."""


class _Bad(NamedTuple):
    """A piece that may be bad: what it was, which way it came, and whom it must not come from again."""

    digest: bytes
    via: tuple[str, ...]
    avoided: frozenset[str]


class SharedFile:
    """One file of a download. `read` and the rest by several threads; `suspects` and `find_guilty` by one at a time."""

    def __init__(
        self,
        content: TenantKey,
        file: ManifestFile,
        arriving: Arriving,
        members: Members,
        client: PeerClient,
        me: PeerId,
    ) -> None:
        self.content = content
        self.key = content.key
        self.file = file
        self.arriving = arriving
        self.alone = False
        """Peers could not help: everything comes from the origin now."""
        self._members = members
        self._client = client
        self._me = me
        self._mending = 0
        """How often the whole was wrong."""
        self._avoided: frozenset[str] = frozenset()
        """Nodes through which nothing of this file may come any more."""
        self._bad: dict[int, _Bad] = {}
        """Pieces that are fetched again."""
        self._claims: dict[str, dict[int, bytes]] = {}
        """The digests that nodes gave when they were asked because the whole was wrong."""
        self._asked = False
        self._probed = False

    @property
    def was_wrong(self) -> bool:
        """Whether anything had to be fetched again."""
        return bool(self._bad)

    def is_mended(self, index: int) -> bool:
        """Whether a piece is fetched again, because the whole was wrong."""
        return index in self._bad

    def avoided(self, index: int) -> frozenset[str]:
        """The nodes through which a piece must not come."""
        former = self._bad.get(index)
        return self._avoided | (former.avoided if former is not None else frozenset())

    def accepts(self, index: int, via: Sequence[str]) -> bool:
        """Whether a piece that came this way is taken: not through liars and suspects, nor through this agent itself."""
        refused = self.avoided(index) | self._members.liars()
        return refused.isdisjoint(via) and self._me not in via[:-1]

    def suspects(self, cancel: CancelToken) -> Collection[int]:
        """The file is complete and wrong: the pieces to fetch again; empty when everything has to come from the origin.

        The stages are those of `agent.peers.blame`. Asks peers, and so may block. Raises Cancelled.
        """
        self.find_guilty(verified=False)
        partial = self.arriving.partial
        mine = {
            index: digest for index in range(partial.pieces) if (digest := partial.proven_digest(index)) is not None
        }
        via = {index: path for index in mine if (path := self.arriving.via(index))}
        self._mending += 1
        if not via or self._mending > LIMIT:
            self.alone = True
            return ()
        self._avoided |= self._members.liars()
        chosen = blame.through(via, self._avoided)
        if not chosen and not self._asked:
            self._asked = True
            self._ask_digests({path[0] for path in via.values()}, cancel)
            self._avoided |= blame.culprits(blame.disputed(mine, via, self._claims).values())
            chosen = blame.through(via, self._avoided)
        known = bool(chosen)
        if not chosen and not self._probed:
            self._probed = True
            chosen = blame.probes(via)
        chosen = chosen or frozenset(via)
        for index in chosen:
            avoided = frozenset() if known else frozenset(via[index][:1])
            self._bad[index] = _Bad(mine[index], via[index], avoided)
        return chosen

    def find_guilty(self, *, verified: bool) -> None:
        """Compares what was fetched again with what it was before: suspects, and drops whoever is certain to be to blame.

        `verified`: the file has its digest now, so the newer piece is the right one. Before that it is so only for what
        this agent has read from the origin itself; otherwise one of the nodes on either way is to blame.
        """
        ways, liars = {}, self._members.liars()
        for index, (digest, via, _) in self._bad.items():
            found = self.arriving.partial.proven_digest(index)
            newer = self.arriving.via(index)
            if found is None or found == digest or not liars.isdisjoint((*via, *newer)):
                continue
            if verified or not newer:
                # Whoever read the right bytes from the origin did not spoil them.
                innocent = self._claims.get(via[0], {}).get(index) == found
                ways[index] = (via[1:] or via) if innocent else via
            else:
                ways[index] = (*via, *newer)
        self._avoided |= blame.culprits(ways.values())
        for node in blame.convicted(ways.values()) - {self._me}:
            pieces = sorted(index for index, way in ways.items() if node in way)
            came = f"{len(pieces)} pieces that came through it, the first of them {pieces[0]}"
            self._members.has_lied(PeerId(node), f"{self.file.path}: {came}, were not what the origin has.")

    def _ask_digests(self, nodes: Collection[str], cancel: CancelToken) -> None:
        """Asks nodes which digests their pieces have."""
        addresses = self._members.view().addresses
        for node in sorted(nodes):
            address = addresses.get(PeerId(node))
            if address is None:
                continue
            try:
                holding = self._client.holding(node, address, self.content, self.file.size, cancel, digests=True)
            except PeerError:
                continue
            if holding.piece_bytes == self.arriving.partial.piece_bytes:
                self._claims[node] = dict(holding.digests)
