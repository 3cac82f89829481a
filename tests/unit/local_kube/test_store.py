"""Versions and history: any past moment that is still known can be read again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube import store as store_module
from local.kube.journal import NoJournal
from local.kube.store import OBJECT_LIMIT, Change, Expired, Store, TooLarge


def obj(namespace: str, name: str, value: int = 0) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "v1", "kind": "Thing", "metadata": metadata, "value": value}


def listed(store: Store, version: int | None = None, **place: str) -> list[tuple[str, str, int]]:
    items = store.items("things", **place) if version is None else store.items_at("things", version, **place)
    return [(stored.namespace, stored.name, stored.object["value"]) for stored in items]


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "remove"]), st.sampled_from(["", "a", "a-b", "b"]), st.sampled_from("xyz")),
    max_size=20,
)


@given(STEPS)
def test_every_moment_can_be_listed_again(steps: list[tuple[str, str, str]]) -> None:
    store = Store(NoJournal())
    moments: dict[int, list[tuple[str, str, int]]] = {}
    store.put("things", obj("b", "x"))
    moments[store.version] = listed(store)
    for number, (step, namespace, name) in enumerate(steps):
        present = store.get("things", namespace, name)
        if step == "put":
            store.put("things", obj(namespace, name, number))
        elif present is not None:
            store.remove("things", present)
        moments[store.version] = listed(store)
    for version, expected in moments.items():
        assert listed(store, version) == expected
        for namespace in ("a", "b"):
            assert listed(store, version, namespace=namespace) == [item for item in expected if item[0] == namespace]


@given(STEPS)
def test_replaying_the_changes_leads_to_the_present(steps: list[tuple[str, str, str]]) -> None:
    store = Store(NoJournal())
    seen: list[Change] = []
    store.subscribe(seen.append, "things")
    for number, (step, namespace, name) in enumerate(steps):
        present = store.get("things", namespace, name)
        if step == "put":
            store.put("things", obj(namespace, name, number))
        elif present is not None:
            store.remove("things", present)
    changes = store.changes_after("things", 0)
    assert changes == seen
    assert [change.version for change in changes] == sorted({change.version for change in changes})
    world: dict[tuple[str, str], int] = {}
    for change in changes:
        key = (change.new.namespace, change.new.name)
        assert (change.old.object["value"] if change.old else None) == world.get(key)
        if change.deleted:
            del world[key]
        else:
            world[key] = change.new.object["value"]
    assert sorted((*key, value) for key, value in world.items()) == sorted(listed(store))


def test_keys_are_ordered_as_etcd_orders_them() -> None:
    store = Store(NoJournal())
    for namespace, name in (("a", "z"), ("a-b", "a"), ("a", "b.c"), ("a", "b"), ("a", "b-c")):
        store.put("things", obj(namespace, name))
    assert [item[:2] for item in listed(store)] == [("a-b", "a"), ("a", "b"), ("a", "b-c"), ("a", "b.c"), ("a", "z")]


def test_a_page_goes_on_behind_its_last_key() -> None:
    store = Store(NoJournal())
    for name in "abcd":
        store.put("things", obj("ns", name))
    after = store.version
    store.put("things", obj("ns", "bb"))
    assert [item[1] for item in listed(store, after, namespace="ns", after="ns/b")] == ["c", "d"]
    assert [item[1] for item in listed(store, namespace="ns", after="ns/b")] == ["bb", "c", "d"]


def test_versions_count_all_resources_together() -> None:
    store = Store(NoJournal())
    first = store.put("things", obj("", "a"))
    second = store.put("others", obj("", "a"))
    assert (first.version, second.version) == (1, 2)
    assert second.object["metadata"]["resourceVersion"] == "2"
    removed = store.remove("things", first)
    assert (removed.version, removed.object["metadata"]["resourceVersion"]) == (3, "3")
    assert first.object["metadata"]["resourceVersion"] == "1"


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_LIMIT", 3)
    store = Store(NoJournal())
    for number in range(6):
        store.put("things", obj("", "a", number))
    assert [change.version for change in store.changes_after("things", 3)] == [4, 5, 6]
    with pytest.raises(Expired, match=r"too old resource version: 2 \(3\)"):
        store.changes_after("things", 2)
    with pytest.raises(Expired):
        store.items_at("things", 2)


def test_the_history_of_a_resource_begins_with_its_first_object() -> None:
    store = Store(NoJournal())
    for _ in range(3):
        store.put("others", obj("", "a"))
    store.put("things", obj("", "a"))
    assert len(store.changes_after("things", 3)) == 1
    with pytest.raises(Expired):
        store.changes_after("things", 2)


def test_an_object_that_is_too_large_changes_nothing() -> None:
    store = Store(NoJournal())
    kept = store.put("things", obj("", "a"))
    with pytest.raises(TooLarge):
        store.put("things", obj("", "a") | {"value": "x" * OBJECT_LIMIT})
    assert store.version == 1
    assert store.get("things", "", "a") is kept


class FullDisk(NoJournal):
    """A journal that cannot write any more."""

    def write(self, storage: str, key: str, version: int, encoded: bytes | None) -> None:
        raise OSError("no space left on device")


def test_what_cannot_be_kept_is_not_done() -> None:
    store = Store(FullDisk())
    changes: list[Change] = []
    store.subscribe(changes.append)
    with pytest.raises(OSError, match="no space left"):
        store.put("things", obj("", "a"))
    assert store.version == 0
    assert store.get("things", "", "a") is None
    assert changes == []


def test_a_listener_can_leave_while_it_is_called() -> None:
    store = Store(NoJournal())
    seen: list[int] = []

    def once(change: Change) -> None:
        seen.append(change.version)
        leave()

    leave = store.subscribe(once, "things")
    store.subscribe(lambda change: seen.append(-change.version), "things")
    store.put("things", obj("", "a"))
    store.put("things", obj("", "a"))
    assert seen == [1, -1, -2]


def test_a_resource_with_objects_is_not_forgotten() -> None:
    store = Store(NoJournal())
    kept = store.put("things", obj("", "a"))
    store.forget("things")
    assert store.get("things", "", "a") is kept
    store.remove("things", kept)
    store.forget("things")
    with pytest.raises(Expired):
        store.changes_after("things", 1)


def test_history_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_BYTES", 2500)
    store = Store(NoJournal())
    for number in range(6):
        store.put("things", obj("", "a", number) | {"filling": "x" * 1000})
    assert [change.version for change in store.changes_after("things", 4)] == [5, 6]
    with pytest.raises(Expired):
        store.changes_after("things", 3)
