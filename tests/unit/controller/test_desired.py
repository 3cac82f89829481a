"""Agents remove what they are not told to keep, so nothing is left out for want of knowledge."""

from __future__ import annotations

from typing import Any

import msgspec

from controller.desired import KEEP, to_message, verdict
from controller.tracked import Memory, Order, Tracked
from modelcache.api.model import DynamoModel
from modelcache.kube.resources import ObjectKey
from modelcache.sources.base import Credential

KEY = ObjectKey("ns", "m")
ORDER = Order(digest="d" * 64, hub_ref="main")


def model(*, source: bool = True, uid: str = "u1", **metadata: Any) -> DynamoModel:
    spec = {"modelName": "m", **({"source": {"uri": "hf://org/name"}} if source else {})}
    return msgspec.convert(
        {"metadata": {"name": "m", "namespace": "ns", "uid": uid, **metadata}, "spec": spec}, DynamoModel
    )


def tracked(assigned: tuple[str, ...] | None, *, arrivals: int = 5, uid: str = "u1", **fields: Any) -> Tracked:
    return Tracked(KEY, uid, assigned=assigned, arrivals=arrivals, order=ORDER, **fields)


def test_an_assigned_node_is_told_what_to_hold() -> None:
    assert verdict(model(), tracked(("a",)), "a", 9) == ORDER


def test_a_node_that_was_considered_and_not_chosen_is_told_to_remove_it() -> None:
    assert verdict(model(), tracked(("b",), arrivals=5), "a", 5) is None


def test_a_node_that_came_after_the_placement_keeps_what_it_has() -> None:
    assert verdict(model(), tracked(("b",), arrivals=5), "a", 6) == KEEP


def test_before_the_first_look_everything_is_kept() -> None:
    assert verdict(model(), None, "a", 1) == KEEP
    assert verdict(model(), Tracked(KEY, "u1"), "a", 1) == KEEP


def test_what_was_decided_about_a_deleted_namesake_does_not_count() -> None:
    assert verdict(model(uid="u2"), tracked(("b",), uid="u1"), "a", 1) == KEEP
    assert verdict(model(uid="u2"), tracked((), uid="u1", removing=True), "a", 1) == KEEP


def test_an_unreadable_model_is_kept_on_every_node() -> None:
    assert verdict(None, None, "a", 1) == KEEP
    assert verdict(None, tracked(("b",)), "a", 1) == KEEP
    assert verdict(None, tracked(("a",)), "a", 1) == ORDER
    assert verdict(None, tracked((), removing=True), "a", 1) is None


def test_without_a_manifest_the_node_keeps_what_it_has() -> None:
    waiting = tracked(("a",))
    waiting.order = None
    assert verdict(model(), waiting, "a", 1) == KEEP


def test_deleted_models_and_models_without_source_are_not_held() -> None:
    deleted = model(deletionTimestamp="2026-01-01T00:00:00Z")
    assert verdict(deleted, tracked(("a",)), "a", 1) is None
    assert verdict(deleted, None, "a", 1) is None
    assert verdict(model(source=False), None, "a", 1) is None


def test_messages_are_the_same_for_the_same_orders() -> None:
    one, two = ObjectKey("a", "x"), ObjectKey("b", "x")
    order = Order(ORDER.digest, "v1", "e" * 64, "again", Credential({"token": "hf_secret"}))
    message = to_message([(two, KEEP), (one, order)])
    assert message == to_message([(one, order), (two, KEEP)])
    assert message[0].manifest_digest == ORDER.digest
    assert message[0].credential.values == {"token": "hf_secret"}
    assert (message[0].hub_ref, message[0].tree_digest, message[0].attempt) == ("v1", "e" * 64, "again")
    assert message[1].manifest_digest == ""
    assert not message[1].HasField("credential")
    assert "hf_secret" not in repr(order)


def test_the_memory_counts_models_per_node() -> None:
    memory = Memory()
    first = memory.of(KEY, "u1")
    assert memory.assign(first, ("a", "b")) == {"a", "b"}
    assert memory.assign(first, ("b", "c")) == {"a", "c"}
    other = memory.of(ObjectKey("ns", "other"), "u9")
    memory.assign(other, ("b",))
    assert (memory.load["a"], memory.load["b"], memory.load["c"]) == (0, 2, 1)
    assert memory.of(KEY, "u1") is first
    assert memory.of(KEY, "u2") is not first
    assert memory.load["c"] == 0
    memory.drop(ObjectKey("ns", "other"))
    assert memory.load["b"] == 0
