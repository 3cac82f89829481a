"""Which changes of a Node matter, and the size of things that depend on names."""

from __future__ import annotations

import msgspec

from controller.manifests import _name
from controller.nodes import Node, NodeMeta, relevant
from modelcache.api.labels import model_labels
from modelcache.api.model import DynamoModel


def node(**labels: str) -> Node:
    return Node(NodeMeta("a", labels))


def test_labels_matter_but_not_our_own() -> None:
    assert relevant(None, node())
    assert relevant(node(), None)
    assert relevant(node(gpu="h100"), node(gpu="a100"))
    assert not relevant(node(gpu="h100"), node(gpu="h100"))
    assert not relevant(node(gpu="h100"), Node(NodeMeta("a", {"gpu": "h100", **model_labels("ns", "m", "rev")})))
    assert not relevant(Node(NodeMeta("a")), node())


def test_config_maps_of_the_longest_names_can_be_named() -> None:
    def name(model: str, uid: str = "12345678-1234", digest: str = "d" * 64, number: int = 0) -> str:
        body = {"metadata": {"name": model, "namespace": "ns", "uid": uid}, "spec": {"modelName": "m"}}
        return _name(msgspec.convert(body, DynamoModel), digest, number)

    assert len(name("x" * 253, number=999_999)) <= 253
    assert name("a" * 189 + "." + "b" * 60).startswith("a" * 189 + "-manifest-")
    assert len({name("m"), name("m", uid="87654321"), name("m", digest="e" * 64), name("m", number=1)}) == 4
