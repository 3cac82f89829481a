"""Desired states from the wire: whole, or with one bad entry, or not at all."""

from __future__ import annotations

import pytest

from agent.desired import HEARTBEAT_SECONDS, UnusableDesiredState, Wanted, read_desired
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import DesiredModel, DesiredState, ModelKey
from tests.support.controller import wish

DIGEST = "0123456789abcdef" * 4


def test_everything_that_is_said_about_a_model_arrives() -> None:
    entry = wish("team-a", "llama", DIGEST, token="secret", hub_ref="main", tree_digest=DIGEST, attempt="2")
    desired = read_desired(DesiredState(nonce="n7", models=[entry], heartbeat_seconds=30))
    wanted = desired.models[ObjectKey("team-a", "llama")]
    assert (desired.nonce, desired.heartbeat) == ("n7", 30.0)
    assert (wanted.manifest_digest, wanted.hub_ref, wanted.tree_digest, wanted.attempt) == (DIGEST, "main", DIGEST, "2")
    assert wanted.credential is not None
    assert wanted.credential.values == {"token": "secret"}
    assert wanted.flaw == ""


def test_equal_messages_give_equal_wishes() -> None:
    first, again = (read_desired(DesiredState(nonce=n, models=[wish("a", "b", DIGEST, token="t")])) for n in ("1", "2"))
    assert first.models == again.models


def test_no_digest_and_no_credential_are_none() -> None:
    desired = read_desired(DesiredState(models=[wish("a", "b")]))
    assert desired.models == {ObjectKey("a", "b"): Wanted(manifest_digest=None)}
    assert desired.heartbeat == HEARTBEAT_SECONDS


def test_a_wish_does_not_show_its_credential() -> None:
    wanted = read_desired(DesiredState(models=[wish("a", "b", DIGEST, token="hf_canary")])).models[ObjectKey("a", "b")]
    assert "hf_canary" not in repr(wanted)
    assert "hf_canary" not in str(wanted)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("", "x"),
        ("a", ""),
        ("..", "x"),
        ("a", ".."),
        ("a", "../../etc"),
        ("a/b", "x"),
        ("A", "x"),
        ("a", "x\x00"),
        ("a.b", "x"),
        ("a" * 64, "x"),
        ("a", "x" * 254),
    ],
)
def test_a_name_that_cannot_be_one_spoils_the_whole_message(namespace: str, name: str) -> None:
    models = [wish("good", "one", DIGEST), DesiredModel(model=ModelKey(namespace=namespace, name=name))]
    with pytest.raises(UnusableDesiredState):
        read_desired(DesiredState(models=models))


def test_a_model_that_is_listed_twice_spoils_the_whole_message() -> None:
    with pytest.raises(UnusableDesiredState, match="a/b is listed twice"):
        read_desired(DesiredState(models=[wish("a", "b", DIGEST), wish("a", "b")]))


@pytest.mark.parametrize(
    "entry",
    [
        wish("a", "bad", "../../etc/passwd"),
        wish("a", "bad", DIGEST.upper()),
        wish("a", "bad", DIGEST, tree_digest="sha256:" + DIGEST),
        wish("a", "bad", DIGEST, hub_ref="../../main"),
    ],
)
def test_bad_details_stay_with_their_model(entry: DesiredModel) -> None:
    desired = read_desired(DesiredState(models=[entry, wish("a", "good", DIGEST)]))
    assert desired.models[ObjectKey("a", "bad")].flaw
    assert not desired.models[ObjectKey("a", "good")].flaw


@pytest.mark.parametrize(("said", "meant"), [(0, HEARTBEAT_SECONDS), (1, 1.0), (4_000_000_000, 3600.0)])
def test_the_heartbeat_stays_within_reason(said: int, meant: float) -> None:
    assert read_desired(DesiredState(heartbeat_seconds=said)).heartbeat == meant
