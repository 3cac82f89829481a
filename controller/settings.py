"""What an administrator can set for the controller, and the check that every value makes sense, at start and in one place.

A setting has three names: the field here, a flag of `modelcache controller`, and an environment variable; the latter two
follow from the first (`agent_timeout` -> `--agent-timeout`, `MODELCACHE_AGENT_TIMEOUT`). The command line parses; this
module judges, and its messages name the setting in all three ways.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class SettingsError(ValueError):
    """A setting has an unusable value; the message names it by field, flag and environment variable."""


class Address(NamedTuple):
    """Where to listen. `host` is a name or an IP address without brackets; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the controller is told from outside. `check` before use. Times are in seconds.

    `listen` is where agents connect. `namespace` is where the Lease of the leader election lives, `leader_elect` False
    leaves the election out (one process on one machine). `kubeconfig` None means $KUBECONFIG, the pod's service account or
    ~/.kube/config. An agent that is silent for `agent_timeout` counts as gone. `resolve_retry` is the longest wait until a
    failed source is asked again.
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

    @property
    def address(self) -> Address:
        """`listen`, parsed. Raises SettingsError."""
        host, colon, port = self.listen.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise _wrong("listen", f"is {self.listen!r}; write an IPv6 address in brackets: [::1]:7443")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise _wrong("listen", f"is {self.listen!r}; write it as host:port, for example 127.0.0.1:7443")
        return Address(host, int(port))

    def check(self) -> None:
        """Raises SettingsError for the first value that cannot work."""
        address = self.address
        if not self.insecure:
            raise _wrong("insecure", "is off, but this version has no TLS yet; switch it on and listen on loopback")
        if not address.is_loopback:
            raise _wrong(
                "insecure",
                f"sends source credentials unencrypted, so it is allowed on loopback only, and listen is {self.listen!r}; "
                f"listen on 127.0.0.1",
            )
        if not _NAMESPACE.fullmatch(self.namespace):
            raise _wrong("namespace", f"is {self.namespace[:80]!r}, which cannot be the name of a namespace")
        if self.kubeconfig is not None and not self.kubeconfig.is_file():
            raise _wrong("kubeconfig", f"is {str(self.kubeconfig)!r}, where there is no file")
        if not 1 <= self.heartbeat <= 3600:
            raise _wrong("heartbeat", f"is {self.heartbeat:g}; it must be from 1 to 3600 seconds")
        if not 2 * self.heartbeat <= self.agent_timeout <= 86400:
            raise _wrong(
                "agent_timeout",
                f"is {self.agent_timeout:g}; it must be at least twice the heartbeat ({self.heartbeat:g} s), so that one lost "
                f"report does not count as a dead node, and at most a day (86400 s)",
            )
        if not 1 <= self.resolve_retry <= 86400:
            raise _wrong("resolve_retry", f"is {self.resolve_retry:g}; it must be from 1 to 86400 seconds")
        if not 1 <= self.resolve_workers <= 64:
            raise _wrong("resolve_workers", f"is {self.resolve_workers}; it must be from 1 to 64")
        if not 1 <= self.workers <= 64:
            raise _wrong("workers", f"is {self.workers}; it must be from 1 to 64")


def _wrong(field: str, reason: str) -> SettingsError:
    return SettingsError(f"{field} (--{field.replace('_', '-')} or MODELCACHE_{field.upper()}) {reason}")
