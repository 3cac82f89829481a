"""What an administrator can set for the controller, and the check that every value makes sense, at start and in one place.

The command line parses; this module judges (see `modelcache.settings` for the names that its messages use).
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from modelcache.rpc.address import Address, AddressError, parse_address
from modelcache.settings import optional_address, wrong

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the controller is told from outside. `check` before use. Times are in seconds.

    `listen` is where agents connect. `namespace` is where the Lease of the leader election lives, `leader_elect` False
    leaves the election out (one process on one machine). `kubeconfig` None means $KUBECONFIG, the pod's service account or
    ~/.kube/config. An agent that is silent for `agent_timeout` counts as gone. `resolve_retry` is the longest wait until a
    failed source is asked again. `metrics_listen` is where metrics are served over HTTP; empty: nowhere.
    """

    listen: str = "127.0.0.1:7443"
    insecure: bool = False
    leader_elect: bool = True
    namespace: str = "modelcache-system"
    kubeconfig: Path | None = None
    heartbeat: float = 10.0
    agent_timeout: float = 40.0
    resolve_retry: float = 300.0
    resolve_workers: int = 8
    workers: int = 4
    metrics_listen: str = ""

    @property
    def metrics_address(self) -> Address | None:
        """`metrics_listen`, parsed; None for nowhere. Raises SettingsError."""
        return optional_address("metrics_listen", self.metrics_listen)

    @property
    def address(self) -> Address:
        """`listen`, parsed. Raises SettingsError."""
        try:
            return parse_address(self.listen, any_port=True)
        except AddressError as error:
            raise wrong("listen", str(error)) from error

    def check(self) -> None:
        """Raises SettingsError for the first value that cannot work."""
        address = self.address
        if not self.insecure:
            raise wrong("insecure", "is off, but this version has no TLS yet; switch it on and listen on loopback")
        if not address.is_loopback:
            raise wrong(
                "insecure",
                f"sends source credentials unencrypted, so it is allowed on loopback only, and listen is {self.listen!r}; "
                f"listen on 127.0.0.1",
            )
        if not _NAMESPACE.fullmatch(self.namespace):
            raise wrong("namespace", f"is {self.namespace[:80]!r}, which cannot be the name of a namespace")
        if self.kubeconfig is not None and not self.kubeconfig.is_file():
            raise wrong("kubeconfig", f"is {str(self.kubeconfig)!r}, where there is no file")
        if not 1 <= self.heartbeat <= 3600:
            raise wrong("heartbeat", f"is {self.heartbeat:g}; it must be from 1 to 3600 seconds")
        if not 2 * self.heartbeat <= self.agent_timeout <= 86400:
            raise wrong(
                "agent_timeout",
                f"is {self.agent_timeout:g}; it must be at least twice the heartbeat ({self.heartbeat:g} s), so that one lost "
                f"report does not count as a dead node, and at most a day (86400 s)",
            )
        if not 1 <= self.resolve_retry <= 86400:
            raise wrong("resolve_retry", f"is {self.resolve_retry:g}; it must be from 1 to 86400 seconds")
        if not 1 <= self.resolve_workers <= 64:
            raise wrong("resolve_workers", f"is {self.resolve_workers}; it must be from 1 to 64")
        if not 1 <= self.workers <= 64:
            raise wrong("workers", f"is {self.workers}; it must be from 1 to 64")
        _ = self.metrics_address
