"""Which peer may read what, and for whom."""

from agent.peers.access import Access, Grant
from agent.peers.keys import ContentKey, TenantKey
from modelcache.kube.resources import ObjectKey

SHARED, SECRET = ContentKey("sha256:" + "1" * 64), ContentKey("sha256:" + "2" * 64)
A = Grant({"node-1": "10.0.0.1:1"}, {SHARED: 10, SECRET: 20})
B = Grant({"node-1": "10.0.0.1:1", "node-2": "10.0.0.2:1"}, {SHARED: 10})


def access() -> Access:
    granted = Access()
    granted.grant({ObjectKey("a", "model"): A, ObjectKey("b", "model"): B})
    return granted


def test_a_peer_reads_what_the_controller_has_named_it_for() -> None:
    assert access().find("node-1", SECRET, "a") == (TenantKey("a", SECRET), A)
    assert access().find("node-2", SHARED, "b") == (TenantKey("b", SHARED), B)
    assert access().find("node-3", SHARED, "b") is None


def test_a_grant_of_one_namespace_says_nothing_for_another() -> None:
    assert access().find("node-1", SECRET, "b") is None
    assert access().find("node-2", SHARED, "a") is None
    assert access().find("node-1", SHARED, "elsewhere") is None


def test_who_does_not_say_for_whom_gets_only_what_cannot_be_meant_otherwise() -> None:
    assert access().find("node-1", SECRET, None) == (TenantKey("a", SECRET), A)
    assert access().find("node-2", SHARED, None) == (TenantKey("b", SHARED), B)
    assert access().find("node-1", SHARED, None) is None
