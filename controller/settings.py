"""What an administrator can set for the controller, and the check that every value makes sense, at start and in one place.

The command line parses; this module judges (see `modelcache.settings` for the names that its messages use).
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from modelcache.kube.elector import Timing
from modelcache.rpc.address import Address, AddressError, parse_address
from modelcache.settings import optional_address, wrong

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")

MIN_LIFETIME, MAX_LIFETIME = 10.0, 7 * 86400.0
"""Seconds. Less than the shortest is over before it is used; more than a week is no short life."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the controller is told from outside. `check` before use. Times are in seconds.

    `listen` is where agents connect with their certificates, `enrolment_listen` where they get the first one,
    `commands_listen` where administrators ask (empty: nowhere), and `health_listen` where the kubelet asks in plain text
    (empty: nowhere). With `insecure` there are no certificates, on
    loopback only. `certificate_lifetime` is how long a certificate of an agent is good: how long agents go on talking to each
    other without any controller, and how long a node that was taken out of the cluster may.

    `namespace` is that of the controller and the agents; the Lease of the leader election and the certificate authority live
    in it, and `agent_account` is the agents' ServiceAccount there. `leader_elect` False leaves the election out (one process
    on one machine), `lease_duration` is how long a dead leader is waited for. `kubeconfig` None means $KUBECONFIG, the pod's
    service account or ~/.kube/config. An agent that is silent for `agent_timeout` counts as gone. `resolve_retry` is the
    longest wait until a failed source is asked again. `metrics_listen` is where metrics are served over HTTP; empty: nowhere.
    """

    listen: str = "127.0.0.1:7443"
    enrolment_listen: str = "127.0.0.1:7444"
    commands_listen: str = ""
    health_listen: str = ""
    insecure: bool = False
    certificate_lifetime: float = 4 * 3600.0
    leader_elect: bool = True
    lease_duration: float = 15.0
    namespace: str = "modelcache-system"
    agent_account: str = "modelcache-agent"
    kubeconfig: Path | None = None
    heartbeat: float = 10.0
    agent_timeout: float = 40.0
    resolve_retry: float = 300.0
    resolve_workers: int = 8
    workers: int = 4
    metrics_listen: str = ""

    @property
    def address(self) -> Address:
        """`listen`, parsed. Raises SettingsError."""
        return _address("listen", self.listen)

    @property
    def enrolment_address(self) -> Address:
        """`enrolment_listen`, parsed. Raises SettingsError."""
        return _address("enrolment_listen", self.enrolment_listen)

    @property
    def commands_address(self) -> Address | None:
        """`commands_listen`, parsed, None when it is empty. Raises SettingsError."""
        return optional_address("commands_listen", self.commands_listen)

    @property
    def health_address(self) -> Address | None:
        """`health_listen`, parsed, None when it is empty. Raises SettingsError."""
        return optional_address("health_listen", self.health_listen)

    @property
    def metrics_address(self) -> Address | None:
        """`metrics_listen`, parsed; None for nowhere. Raises SettingsError."""
        return optional_address("metrics_listen", self.metrics_listen)

    @property
    def agent_user(self) -> str:
        """The name under which the API server knows the agents."""
        return f"system:serviceaccount:{self.namespace}:{self.agent_account}"

    @property
    def election(self) -> Timing:
        """The pace of the leader election: client-go's proportions, 15 / 10 / 2."""
        return Timing(self.lease_duration, self.lease_duration * 2 / 3, self.lease_duration * 2 / 15)

    def check(self) -> None:
        """Raises SettingsError for the first value that cannot work."""
        address = self.address
        if self.insecure and not address.is_loopback:
            raise wrong(
                "insecure",
                f"sends source credentials unencrypted, so it is allowed on loopback only, and listen is {self.listen!r}; "
                f"listen on 127.0.0.1",
            )
        if not self.insecure and self.enrolment_address == address and address.port:
            raise wrong("enrolment_listen", f"is {self.enrolment_listen}, like listen; each needs a port of its own")
        commands = self.commands_address
        if commands is not None and self.insecure:
            raise wrong("commands_listen", "needs certificates: leave it empty, or leave insecure away")
        if commands is not None and commands.port and commands in (address, self.enrolment_address):
            raise wrong("commands_listen", f"is {self.commands_listen}, which is taken; it needs a port of its own")
        health = self.health_address
        if health is not None and health.port and health in (address, self.enrolment_address, commands):
            raise wrong("health_listen", f"is {self.health_listen}, which is taken; it needs a port of its own")
        if not MIN_LIFETIME <= self.certificate_lifetime <= MAX_LIFETIME:
            raise wrong(
                "certificate_lifetime",
                f"is {self.certificate_lifetime:g}; it must be from {MIN_LIFETIME:g} to {MAX_LIFETIME:g} seconds",
            )
        if not 1 <= self.lease_duration <= 300:
            raise wrong("lease_duration", f"is {self.lease_duration:g}; it must be from 1 to 300 seconds")
        if not _NAMESPACE.fullmatch(self.namespace):
            raise wrong("namespace", f"is {self.namespace[:80]!r}, which cannot be the name of a namespace")
        if len(self.agent_account) > 253 or not _ACCOUNT.fullmatch(self.agent_account):
            raise wrong(
                "agent_account", f"is {self.agent_account[:80]!r}, which cannot be the name of a ServiceAccount"
            )
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


def _address(setting: str, value: str) -> Address:
    try:
        return parse_address(value, any_port=True)
    except AddressError as error:
        raise wrong(setting, str(error)) from error
