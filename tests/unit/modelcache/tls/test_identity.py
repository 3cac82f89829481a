"""What the one URI in a certificate may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.tls.identity import CONTROLLER, Identity, is_node_name


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?){0,3}", fullmatch=True))
def test_an_identity_is_what_its_uri_says(node: str) -> None:
    assert Identity.parse(Identity(node).uri) == Identity(node)


def test_the_controller_is_not_a_node_of_that_name() -> None:
    assert Identity.parse(CONTROLLER.uri) == CONTROLLER
    assert Identity.parse(Identity("controller").uri) == Identity("controller")
    assert Identity("controller") != CONTROLLER


@given(st.text())
def test_nothing_else_is_an_identity(text: str) -> None:
    found = Identity.parse(text)
    assert found is None or found.uri == text


@pytest.mark.parametrize(
    "uri",
    ["", "urn:modelcache:node:", "urn:modelcache:node:A", "urn:modelcache:node:a/b", "urn:modelcache:node:a\n",
     "urn:modelcache:controller:", "URN:modelcache:node:a", "spiffe://modelcache/node/a", "urn:modelcache:node:" + "a" * 254],
)  # fmt: skip
def test_these_are_none(uri: str) -> None:
    assert Identity.parse(uri) is None


def test_names_of_nodes() -> None:
    assert is_node_name("ip-10-0-0-1.eu-west-1.compute.internal")
    assert not any(map(is_node_name, ("", "-a", "a-", "a..b", "Ä", "a_b", "a" * 254)))
