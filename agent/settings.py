"""What an administrator can set for the agent, and the check that every value makes sense, at start and in one place.

The command line parses; this module judges (see `modelcache.settings` for the names that its messages use).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.peers.tuning import DEFAULT_TUNING
from agent.transfer.limit import Limit
from modelcache.paths import DEFAULT_ROOT, PROJECTED
from modelcache.rpc.address import Address, AddressError, parse_address, parse_addresses
from modelcache.settings import optional_address, wrong
from modelcache.tls.identity import is_node_name

MAX_DOWNLOADS_LIMIT = 64
"""Models at once. Each takes a thread pool of its own; more than this only makes every one of them slower."""
MAX_CONNECTIONS_LIMIT = 64
"""To one source. Public ones answer more than a handful with 429."""
MAX_UPLOADS_LIMIT = 64
"""Pieces on their way out. Each gets a fraction of the link; more than a handful only makes the first one come later."""
MIN_BANDWIDTH = 64 * 1024
"""Bytes per second; with less, a stalled connection cannot be told from a slow one."""

ENROLMENT_PORT = 7444
MIN_SCRUB_INTERVAL = 60.0
"""Seconds; more often than that nobody can mean."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the agent is told from outside. `check` before use.

    `node` is the name of the Node object that this agent speaks for. `root` is the cache directory, the same path on the
    host and in the agent's container. `controller` is `host:port`, or several with commas between them; of a name all
    addresses are tried. `enrolment` is where controllers issue certificates (empty: the same hosts, port 7444); `token_file`
    and `ca_file` are what this agent proves its node by, and the authorities that it trusts. With `insecure` there are no
    certificates, on loopback only. `kubeconfig` None means $KUBECONFIG, the pod's service account or ~/.kube/config.

    `max_downloads` is how many models are downloaded at once, `connections` how many requests are under way at one source,
    `bandwidth` the limit of the node in bytes per second in each direction (None: no limit), and `reserve_bytes` what stays
    free on the cache's file system. `peer_listen` is the `host:port` at which other agents are served (port 0: any free one;
    empty: not at all), `peer_uploads` how many pieces are sent to them at the same time. `metrics_listen` is where metrics
    and health are served over HTTP; empty: nowhere. Everything is read again once in `scrub_interval` seconds (0: never),
    at most `scrub_bandwidth` bytes per second. `capacity` is what the cache may take (see `agent.transfer.limit`); above
    `high_watermark` of it, what nothing wants is evicted until `low_watermark` is reached.
    """

    node: str
    controller: str
    enrolment: str = ""
    token_file: Path = PROJECTED / "token"
    ca_file: Path = PROJECTED / "ca.crt"
    insecure: bool = False
    root: Path = DEFAULT_ROOT
    kubeconfig: Path | None = None
    max_downloads: int = 2
    connections: int = 4
    bandwidth: float | None = None
    reserve_bytes: int = 1024**3
    capacity: str = ""
    high_watermark: float = 0.9
    low_watermark: float = 0.8
    peer_listen: str = "127.0.0.1:0"
    peer_uploads: int = DEFAULT_TUNING.uploads
    metrics_listen: str = ""
    scrub_interval: float = 7 * 24 * 3600.0
    scrub_bandwidth: float = 64 * 1024**2

    @property
    def metrics_address(self) -> Address | None:
        """`metrics_listen`, parsed; None for nowhere. Raises SettingsError."""
        return optional_address("metrics_listen", self.metrics_listen)

    @property
    def controllers(self) -> list[Address]:
        """`controller`, parsed. Raises AddressError."""
        return parse_addresses(self.controller)

    @property
    def enrolments(self) -> list[Address]:
        """`enrolment`, parsed, or what follows from `controller`. Raises AddressError."""
        if self.enrolment:
            return parse_addresses(self.enrolment)
        return [Address(address.host, ENROLMENT_PORT) for address in self.controllers]

    @property
    def limit(self) -> Limit:
        """`capacity`, parsed. Raises SettingsError."""
        try:
            return Limit.parse(self.capacity)
        except ValueError as error:
            raise wrong("capacity", f"is {self.capacity[:80]!r}; {error}") from error

    def check(self) -> None:
        """Raises SettingsError for the first value that cannot work."""
        if not self.node:
            raise wrong("node", "is missing; give the name of this machine's Node (in a pod: spec.nodeName)")
        if not is_node_name(self.node):
            raise wrong("node", f"is {self.node[:80]!r}, which cannot be the name of a Node")
        if not self.controller:
            raise wrong("controller", "is missing; give the controller's address as host:port")
        try:
            addresses = self.controllers
        except AddressError as error:
            raise wrong("controller", str(error)) from error
        try:
            _ = self.enrolments
        except AddressError as error:
            raise wrong("enrolment", str(error)) from error
        if self.insecure and not all(address.is_loopback for address in addresses):
            raise wrong(
                "insecure",
                f"would receive source credentials unencrypted, so it is allowed on loopback only, and controller is "
                f"{self.controller!r}; use a controller on 127.0.0.1",
            )
        if not self.root.is_absolute():
            raise wrong(
                "root", f"is {str(self.root)!r}; it must be an absolute path, because pods mount it by this path"
            )
        if self.root == Path("/"):
            raise wrong("root", "is '/'; give a directory that belongs to the cache alone")
        if self.root.exists() and not self.root.is_dir():
            raise wrong("root", f"is {str(self.root)!r}, which is not a directory")
        if self.kubeconfig is not None and not self.kubeconfig.is_file():
            raise wrong("kubeconfig", f"is {str(self.kubeconfig)!r}, where there is no file")
        if not 1 <= self.max_downloads <= MAX_DOWNLOADS_LIMIT:
            raise wrong("max_downloads", f"is {self.max_downloads}; it must be from 1 to {MAX_DOWNLOADS_LIMIT}")
        if not 1 <= self.connections <= MAX_CONNECTIONS_LIMIT:
            raise wrong("connections", f"is {self.connections}; it must be from 1 to {MAX_CONNECTIONS_LIMIT}")
        if self.bandwidth is not None and not self.bandwidth >= MIN_BANDWIDTH:
            raise wrong("bandwidth", f"is {self.bandwidth:g}; it must be at least {MIN_BANDWIDTH} bytes per second")
        if self.peer_listen:
            self._check_peer_listen()
        if not 1 <= self.peer_uploads <= MAX_UPLOADS_LIMIT:
            raise wrong("peer_uploads", f"is {self.peer_uploads}; it must be from 1 to {MAX_UPLOADS_LIMIT}")
        _ = self.metrics_address
        if self.scrub_interval and not self.scrub_interval >= MIN_SCRUB_INTERVAL:
            raise wrong(
                "scrub_interval",
                f"is {self.scrub_interval:g}; it must be 0, or at least {MIN_SCRUB_INTERVAL:g} seconds",
            )
        if not self.scrub_bandwidth >= MIN_BANDWIDTH:
            raise wrong(
                "scrub_bandwidth", f"is {self.scrub_bandwidth:g}; it must be at least {MIN_BANDWIDTH} bytes per second"
            )
        if self.reserve_bytes < 0:
            raise wrong("reserve_bytes", f"is {self.reserve_bytes}; it cannot be negative")
        _ = self.limit
        if not 0 < self.low_watermark <= self.high_watermark <= 1:
            raise wrong(
                "low_watermark",
                f"is {self.low_watermark:g} and high_watermark is {self.high_watermark:g}; both must be more than 0 "
                "and at most 1, and the low one not above the high one",
            )

    def _check_peer_listen(self) -> None:
        try:
            address = parse_address(self.peer_listen, any_port=True)
        except AddressError as error:
            raise wrong("peer_listen", str(error)) from error
        if self.insecure and not address.is_loopback:
            raise wrong(
                "insecure",
                f"would show the models to everybody who reaches {self.peer_listen}, so it is allowed on loopback only; use "
                "127.0.0.1 for peer_listen",
            )
