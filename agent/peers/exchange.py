"""What all swarms of one agent share: the server, the client, what is held, and who may read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.peers.access import Access, Grant
from agent.peers.client import PeerClient
from agent.peers.holdings import Holdings
from agent.peers.members import PeerAddress
from agent.peers.server import PeerServer
from agent.peers.swarm import Swarm
from agent.peers.tuning import DEFAULT_TUNING, SwarmTuning
from agent.store import Store
from agent.transfer.clock import Clock, SystemClock
from agent.transfer.limiter import TokenBucket
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.address import Address
from modelcache.tls.wallet import Wallet


class PeerExchange:
    """Serves from the beginning until `close`."""

    def __init__(
        self,
        node: str,
        store: Store,
        listen: Address,
        *,
        download_limit: TokenBucket,
        bandwidth: float | None = None,
        connections: int = 4,
        zone: Callable[[], str] = str,
        tuning: SwarmTuning = DEFAULT_TUNING,
        clock: Clock = SystemClock(),  # noqa: B008 -- stateless
        wallet: Wallet | None = None,
        on_sent: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`wallet` None: no TLS. `on_sent` is told about bytes for other agents, from any thread.

        Raises OSError when the address cannot be had.

        `bandwidth` is that of the node in one direction, bytes/s: a link sends as much as it receives, at the same time. So
        what comes in from peers is paid for together with what comes from origins (`download_limit`), and what goes out has a
        bucket of its own.
        """
        self.node = node
        self.holdings = Holdings(store)
        self.access = Access()
        self._clock = clock
        self._connections = connections
        self._zone = zone
        self._tuning = tuning
        self.client = PeerClient(node, download_limit, clock, wallet)
        self.server = PeerServer(
            node,
            listen.host,
            listen.port,
            self.holdings,
            self.access,
            TokenBucket(bandwidth, clock),
            tuning,
            wallet=wallet,
            on_sent=on_sent,
        )
        self.address = Address(listen.host, self.server.port)
        """Where others find this agent."""

    def grant(self, grants: Mapping[ObjectKey, Grant]) -> None:
        """From now on exactly these may be read by others."""
        self.access.grant(grants)

    def swarm(self, namespace: str, peers: Iterable[PeerAddress]) -> Swarm:
        """The swarm of one download for a namespace, with these other agents to begin with."""
        return Swarm(
            namespace,
            self.node,
            self._zone(),
            peers,
            client=self.client,
            holdings=self.holdings,
            clock=self._clock,
            connections=self._connections,
            tuning=self._tuning,
        )

    def close(self) -> None:
        """Stops serving and asking."""
        self.server.close()
        self.client.close()
