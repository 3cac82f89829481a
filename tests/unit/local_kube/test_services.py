"""What a Service gets from the server: one address and, if it wants, node ports that nobody else has."""

from typing import Any

import pytest

from local.kube.addresses import NODE_PORTS
from local.kube.errors import ApiError
from tests.unit.local_kube.conftest import Api


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def test_every_service_has_its_own_address(kube: Api) -> None:
    addresses = [kube.create("services", service(f"s{number}"))["spec"]["clusterIP"] for number in range(5)]
    assert len(set(addresses)) == 5
    taken = kube.create("services", service("mine", clusterIP="10.96.5.5"))
    assert taken["spec"]["clusterIPs"] == ["10.96.5.5"]
    with pytest.raises(ApiError, match="provided IP is already allocated"):
        kube.create("services", service("other", clusterIP="10.96.5.5"))
    kube.delete("services", "mine")
    kube.create("services", service("other", clusterIP="10.96.5.5"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("8.8.8.8", "the provided IP is not in the valid range"),
        ("x", "must be a valid IP address"),
    ],
)
def test_addresses_that_cannot_be_had(kube: Api, address: str, message: str) -> None:
    with pytest.raises(ApiError, match=message):
        kube.create("services", service("a", clusterIP=address))


def test_an_address_stays(kube: Api) -> None:
    address = kube.create("services", service("a"))["spec"]["clusterIP"]
    changed = kube.patch("services", "a", {"spec": {"selector": {"x": "y"}}})
    assert changed["spec"]["clusterIP"] == address
    with pytest.raises(ApiError, match="may not change once set"):
        kube.patch("services", "a", {"spec": {"clusterIP": "10.96.7.7"}})


def test_headless_and_external_services_have_none(kube: Api) -> None:
    headless = kube.create("services", service("a", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    external = kube.create("services", service("b", type="ExternalName", externalName="example.com"))
    assert "clusterIP" not in external["spec"]


def test_node_ports(kube: Api) -> None:
    first = kube.create("services", service("a", type="NodePort"))["spec"]["ports"][0]["nodePort"]
    second = kube.create("services", service("b", type="NodePort"))["spec"]["ports"][0]["nodePort"]
    assert first in NODE_PORTS
    assert second in NODE_PORTS
    assert first != second
    kept = kube.patch("services", "a", {"metadata": {"labels": {"x": "y"}}})
    assert kept["spec"]["ports"][0]["nodePort"] == first
    with pytest.raises(ApiError, match="provided port is already allocated"):
        kube.create("services", service("c", type="NodePort", ports=[{"port": 80, "nodePort": first}]))
    with pytest.raises(ApiError, match="not in the valid range"):
        kube.create("services", service("c", type="NodePort", ports=[{"port": 80, "nodePort": 80}]))
