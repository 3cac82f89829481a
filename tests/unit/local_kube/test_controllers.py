"""What the server does by itself: garbage, namespaces, definitions, the lifetime of Events."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.kube import expiry
from local.kube.cluster import Cluster
from local.kube.errors import ApiError
from local.kube.journal import SqliteJournal
from local.kube.writes import Target
from tests.support.waiting import PATIENCE
from tests.unit.local_kube.conftest import WIDGETS, Api, Clock

some = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

# Object n may be owned by objects with smaller numbers, so there are no circles.
GRAPHS = st.lists(st.frozensets(st.integers(0, 6), max_size=3), min_size=2, max_size=7).map(
    lambda owners: [{number for number in found if number < index} for index, found in enumerate(owners)]
)
POLICIES = st.sampled_from(["", "Background", "Foreground", "Orphan"])


def survivors(owners: list[set[int]], deletions: list[tuple[int, str]]) -> dict[int, set[int]]:
    """The reference: who is left, with which owners, after the deletions one after the other."""
    left = {number: set(found) for number, found in enumerate(owners)}
    for number, policy in deletions:
        if number not in left:
            continue
        del left[number]
        if policy == "Orphan":
            for found in left.values():
                found.discard(number)
        while True:
            # An object that had owners goes with the last one.
            gone = [n for n, found in left.items() if found and not found & left.keys()]
            if not gone:
                break
            for n in gone:
                del left[n]
    return left


@some
@given(GRAPHS, st.lists(st.tuples(st.integers(0, 6), POLICIES), max_size=4), st.booleans())
def test_objects_live_as_long_as_an_owner(
    owners: list[set[int]], deletions: list[tuple[int, str]], blocking: bool
) -> None:
    async def run() -> None:
        kube = Api()
        uids: dict[int, str] = {}
        for number, found in enumerate(owners):
            references = [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": f"n{owner}",
                    "uid": uids[owner],
                    "blockOwnerDeletion": blocking,
                }
                for owner in sorted(found)
            ]
            created = kube.create("configmaps", {"metadata": {"name": f"n{number}", "ownerReferences": references}})
            uids[number] = created["metadata"]["uid"]
        await kube.settle()
        for number, policy in deletions:
            if kube.get("configmaps", f"n{number}") is not None:
                kube.delete("configmaps", f"n{number}", propagation=policy)
                await kube.settle()
        expected = survivors(owners, deletions)
        names = {uid: number for number, uid in uids.items()}
        found_now = {}
        for stored in kube.cluster.store.items("configmaps"):
            metadata = stored.object["metadata"]
            assert "deletionTimestamp" not in metadata
            found_now[names[metadata["uid"]]] = {
                names[owner["uid"]] for owner in metadata.get("ownerReferences", ())
            } & expected.keys()
        assert found_now == {number: found & expected.keys() for number, found in expected.items()}
        kube.cluster.close()

    asyncio.run(run())


async def test_an_owner_of_a_kind_that_is_not_served_is_no_reason_to_delete(kube: Api) -> None:
    owner = {"apiVersion": "later.example.com/v1", "kind": "Later", "name": "x", "uid": "1-2-3"}
    kube.create("configmaps", {"metadata": {"name": "a", "ownerReferences": [owner]}})
    await kube.settle()
    assert kube.get("configmaps", "a") is not None


async def test_an_owner_in_another_namespace_does_not_count(kube: Api) -> None:
    kube.create("namespaces", {"metadata": {"name": "other"}})
    created = kube.create("configmaps", {"metadata": {"name": "owner"}})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": created["metadata"]["uid"]}
    resource = kube.resource("configmaps")
    kube.cluster.store.put(
        "configmaps",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "other", "uid": "u", "ownerReferences": [owner]},
        },
    )
    await kube.settle()
    assert kube.cluster.store.get(resource.storage_key, "other", "a") is None


async def test_thousands_of_dependents_go_in_slices(kube: Api) -> None:
    owner = kube.create("configmaps", {"metadata": {"name": "owner"}})["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    for number in range(500):
        metadata = {"name": f"n{number}", "namespace": "default", "uid": f"u{number}", "ownerReferences": [reference]}
        kube.cluster.store.put("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    await kube.settle()
    empty = asyncio.Event()
    store = kube.cluster.store
    store.subscribe(lambda change: empty.set() if store.count("configmaps") == 0 else None, "configmaps")
    kube.delete("configmaps", "owner")
    async with asyncio.timeout(PATIENCE):
        await empty.wait()


async def test_a_namespace_says_what_holds_it(kube: Api) -> None:
    kube.create("namespaces", {"metadata": {"name": "going"}})
    resource = kube.resource("configmaps")
    metadata = {"name": "held", "namespace": "going", "uid": "u", "finalizers": ["example.com/hold"]}
    kube.cluster.store.put("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    kube.delete("namespaces", "going")
    await kube.settle()
    going = kube.get("namespaces", "going")
    assert going is not None
    conditions = {c["type"]: (c["status"], c["message"]) for c in going["status"]["conditions"]}
    assert conditions["NamespaceContentRemaining"] == (
        "True",
        "Some resources are remaining: configmaps has 1 resource instances",
    )
    assert conditions["NamespaceFinalizersRemaining"] == (
        "True",
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
    )

    def release(obj: dict[str, Any]) -> None:
        del obj["metadata"]["finalizers"]

    kube.cluster.writer.rewrite(Target(resource, "going", "held"), release, "test")
    await kube.settle()
    assert kube.get("namespaces", "going") is None


def definition(plural: str, group: str = "unit.example.com", **names: Any) -> dict[str, Any]:
    spec = {**WIDGETS["spec"], "group": group, "names": {"plural": plural, "kind": plural.title(), **names}}
    return {"metadata": {"name": f"{plural}.{group}"}, "spec": spec}


async def test_a_name_belongs_to_the_first_who_takes_it(widgets: Api) -> None:
    widgets.create("customresourcedefinitions", definition("gadgets", kind="Widget", singular="gadget"))
    await widgets.settle()
    second = widgets.get("customresourcedefinitions", "gadgets.unit.example.com")
    assert second is not None
    conditions = {c["type"]: (c["status"], c["reason"], c["message"]) for c in second["status"]["conditions"]}
    assert conditions == {
        "NamesAccepted": ("False", "KindConflict", '"Widget" is already in use'),
        "Established": ("False", "NotAccepted", "not all names are accepted"),
    }
    assert widgets.cluster.registry.find("unit.example.com", "v1", "gadgets") is None
    # In another group the name is free.
    widgets.create(
        "customresourcedefinitions", definition("gadgets", "other.example.com", kind="Widget", singular="gadget")
    )
    await widgets.settle()
    assert widgets.cluster.registry.find("other.example.com", "v1", "gadgets") is not None


async def test_a_definition_takes_its_objects_along_but_waits_for_their_finalizers(widgets: Api) -> None:
    widgets.create("widgets", {"metadata": {"name": "free"}, "spec": {}})
    widgets.create("widgets", {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}, "spec": {}})
    widgets.delete("customresourcedefinitions", "widgets.unit.example.com")
    await widgets.settle()
    assert widgets.get("widgets", "free") is None
    with pytest.raises(ApiError, match="create is not supported on resources of kind"):
        widgets.create("widgets", {"metadata": {"name": "late"}, "spec": {}})
    widgets.patch("widgets", "held", {"metadata": {"finalizers": None}})
    await widgets.settle()
    assert widgets.cluster.registry.find("unit.example.com", "v1", "widgets") is None
    assert widgets.get("customresourcedefinitions", "widgets.unit.example.com") is None
    # The same definition again starts from nothing.
    widgets.create("customresourcedefinitions", WIDGETS)
    await widgets.settle()
    assert widgets.get("widgets", "held") is None


async def test_events_expire_after_their_last_write(monkeypatch: pytest.MonkeyPatch) -> None:
    kube = Api()
    store = kube.cluster.store
    lifetime = expiry.EventExpiry(store, seconds=0.2)
    lifetime.start()
    gone: asyncio.Queue[str] = asyncio.Queue()
    store.subscribe(lambda change: gone.put_nowait(change.new.name) if change.deleted else None, "events")
    for name in ("a", "b"):
        metadata = {"name": name, "namespace": "default", "uid": name}
        store.put("events", {"apiVersion": "v1", "kind": "Event", "metadata": metadata})
    async with asyncio.timeout(PATIENCE):
        assert [await gone.get(), await gone.get()] == ["a", "b"]
    lifetime.stop()
    kube.cluster.close()


def test_a_restart_goes_on_where_the_controllers_were(tmp_path: Path) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "gone"}

    async def before() -> None:
        cluster = Cluster(SqliteJournal(tmp_path), Clock())
        for name, more in (("orphaned", {"ownerReferences": [owner]}), ("free", {})):
            metadata = {"name": name, "namespace": "default", "uid": name, **more}
            cluster.store.put("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        assert cluster.store.count("configmaps") == 2
        # The loop ends with this coroutine: no controller has had its turn.
        cluster.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(before())
    loop.close()

    async def after() -> None:
        cluster = Cluster(SqliteJournal(tmp_path), Clock())
        for _ in range(5):
            await asyncio.sleep(0)
        assert [stored.name for stored in cluster.store.items("configmaps")] == ["free"]
        cluster.close()

    asyncio.run(after())
