"""Every unusable setting is refused at start, with a message that names it in all three ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.channel import open_channel
from agent.settings import Settings
from modelcache.rpc.address import Address, AddressError, parse_address
from modelcache.settings import SettingsError, flag, variable


def settings(**changes: object) -> Settings:
    values: dict[str, object] = {
        "node": "node-1",
        "controller": "127.0.0.1:7443",
        "insecure": True,
        "root": Path("/cache"),
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]  # wrong types are what some tests are about


def test_good_settings_pass() -> None:
    settings().check()
    settings(node="ip-10-0-0-1.eu-west-1.compute.internal", controller="[::1]:1", bandwidth=1e9).check()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", ""),
        ("node", "Node_1"),
        ("node", "../node"),
        ("node", "n" * 254),
        ("controller", ""),
        ("controller", "127.0.0.1"),
        ("controller", "127.0.0.1:0"),
        ("controller", "127.0.0.1:70000"),
        ("controller", "::1:7443"),
        ("enrolment", "controller"),
        ("root", Path("relative")),
        ("root", Path("/")),
        ("root", Path("/dev/null")),
        ("kubeconfig", Path("/does/not/exist")),
        ("max_downloads", 0),
        ("max_downloads", 65),
        ("connections", 0),
        ("bandwidth", 1.0),
        ("bandwidth", float("nan")),
        ("reserve_bytes", -1),
    ],
)
def test_a_bad_setting_is_named_by_field_flag_and_variable(field: str, value: object) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**{field: value}).check()
    for name in (field, flag(field), variable(field)):
        assert name in str(refused.value)


def test_other_machines_are_reached_with_certificates() -> None:
    good = settings(controller="10.0.0.1:7443, controller.example:7443", insecure=False, peer_listen="0.0.0.0:7446")
    good.check()
    assert good.enrolments == [Address("10.0.0.1", 7444), Address("controller.example", 7444)]
    assert settings(enrolment="[::1]:1").enrolments == [Address("::1", 1)]


def test_plaintext_to_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--insecure .* loopback only.*10\.0\.0\.1:7443"):
        settings(controller="10.0.0.1:7443").check()
    with pytest.raises(AddressError):
        open_channel(Address("10.0.0.1", 7443))


@pytest.mark.parametrize("text", ["localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"])
def test_loopback_addresses(text: str) -> None:
    address = parse_address(text)
    assert address.is_loopback
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["controller:7443", "0.0.0.0:1", "[2001:db8::1]:1", "localhost.example.com:1"])
def test_addresses_of_other_machines(text: str) -> None:
    assert not parse_address(text).is_loopback
