"""Every setting is judged at start, by a message that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.server import AgentServer
from controller.settings import Settings
from modelcache.rpc.address import Address
from modelcache.settings import SettingsError

GOOD = {"insecure": True}


def test_the_defaults_are_good() -> None:
    Settings().check()
    Settings(insecure=True).check()
    Settings(listen="0.0.0.0:7443", enrolment_listen="0.0.0.0:7444", health_listen="0.0.0.0:7445").check()
    assert Settings().agent_user == "system:serviceaccount:modelcache-system:modelcache-agent"


def test_a_successor_is_there_within_twenty_seconds() -> None:
    """The longest wait: a Lease renewed just before the death, and a look at it just before it expires, with jitter."""
    timing = Settings().election
    assert timing.lease_duration + timing.retry_period * 1.2 < 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"insecure": False, "enrolment_listen": "127.0.0.1:7443"}, ["enrolment_listen", "--enrolment-listen"]),
        ({"health_listen": "127.0.0.1:7443"}, ["health_listen", "--health-listen"]),
        ({"certificate_lifetime": 1.0}, ["certificate_lifetime", "MODELCACHE_CERTIFICATE_LIFETIME"]),
        ({"lease_duration": 0.5}, ["lease_duration"]),
        ({"agent_account": "a/b"}, ["agent_account"]),
        ({"listen": "0.0.0.0:7443"}, ["insecure", "loopback", "0.0.0.0:7443"]),
        ({"listen": "[::]:7443"}, ["loopback"]),
        ({"listen": "controller.example:7443"}, ["loopback"]),
        ({"listen": "127.0.0.1"}, ["listen", "--listen", "MODELCACHE_LISTEN", "host:port"]),
        ({"listen": ":7443"}, ["listen"]),
        ({"listen": "127.0.0.1:99999"}, ["listen"]),
        ({"listen": "127.0.0.1:x"}, ["listen"]),
        ({"listen": "::1:7443"}, ["listen", "brackets"]),
        ({"namespace": "Not_A_Name"}, ["namespace", "MODELCACHE_NAMESPACE"]),
        ({"kubeconfig": Path("/nowhere/kubeconfig")}, ["kubeconfig", "/nowhere/kubeconfig"]),
        ({"heartbeat": 0.0}, ["heartbeat"]),
        ({"agent_timeout": 15.0}, ["agent_timeout", "heartbeat"]),
        ({"agent_timeout": 1e9}, ["agent_timeout"]),
        ({"resolve_retry": 0.0}, ["resolve_retry"]),
        ({"resolve_workers": 0}, ["resolve_workers"]),
        ({"workers": 65}, ["workers"]),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{**GOOD, **changes}).check()
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:7443", "[::1]:7443", "127.8.8.8:1"])
def test_loopback_is_recognized(listen: str) -> None:
    settings = Settings(listen=listen, insecure=True)
    settings.check()
    assert settings.address.is_loopback
    assert str(settings.address) == listen


async def test_the_server_itself_refuses_plaintext_for_other_machines() -> None:
    with pytest.raises(SettingsError, match="not encrypted"):
        AgentServer(Address("0.0.0.0", 0))


async def test_a_port_that_is_taken_is_named() -> None:
    first = AgentServer(Address("127.0.0.1", 0))
    address = await first.start()
    try:
        second = AgentServer(address)
        with pytest.raises(SettingsError, match=str(address)):
            await second.start()
    finally:
        await first.stop()
