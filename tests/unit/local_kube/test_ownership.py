"""Server-side apply as a whole: who owns what after any sequence of writes."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.kube.errors import ApiError
from local.kube.fieldset import compare, fields_of, from_fields_v1
from local.kube.ownership import APPLY, decode
from tests.unit.local_kube.conftest import WIDGETS, Api

SPECS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(0, 2),
        "color": st.sampled_from(["red", "blue"]),
        "map": st.dictionaries(st.sampled_from("mno"), st.sampled_from("st"), max_size=2),
        "whole": st.fixed_dictionaries({}, optional={"a": st.sampled_from("st"), "b": st.sampled_from("st")}),
        "atoms": st.lists(st.sampled_from("st"), max_size=2),
        "tags": st.lists(st.sampled_from("stu"), max_size=2, unique=True),
        "ports": st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"name": st.sampled_from("st")}),
            max_size=2,
            unique_by=lambda port: port["port"],
        ),
    },
)
# What can be there without content, and go with the content that others put in and take out again.
CONTAINERS = {("f:spec",), *(("f:spec", f"f:{name}") for name in ("map", "whole", "tags", "ports"))}
STEPS = st.lists(st.tuples(st.sampled_from(["apply", "patch"]), st.sampled_from("ABC"), SPECS), min_size=1, max_size=5)
some = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def owned(obj: Any, manager: str) -> Any:
    """fieldsV1 of the manager; None when it owns nothing."""
    entries = obj["metadata"].get("managedFields", [])
    return next((entry["fieldsV1"] for entry in entries if entry["manager"] == manager), None)


def with_widgets(check: Any) -> None:
    async def run() -> None:
        kube = Api()
        kube.create("customresourcedefinitions", WIDGETS)
        await kube.settle()
        check(kube)
        kube.cluster.close()

    asyncio.run(run())


def play(kube: Api, steps: list[tuple[str, str, Any]]) -> None:
    for verb, manager, spec in steps:
        if verb == "apply" or kube.get("widgets", "a") is None:
            kube.apply("widgets", {"metadata": {"name": "a"}, "spec": spec}, manager, force=True)
        else:
            kube.patch("widgets", "a", {"spec": spec}, manager)


@some
@given(STEPS, SPECS)
def test_the_last_applier_gets_what_it_asked_for(steps: list[tuple[str, str, Any]], spec: Any) -> None:
    def check(kube: Api) -> None:
        play(kube, steps)
        result = kube.apply("widgets", {"metadata": {"name": "a"}, "spec": spec}, "last", force=True)
        schema = kube.resource("widgets").schema or {}
        claimed = fields_of(schema, {"spec": spec})
        assert claimed <= fields_of(schema, result) | {("f:spec",), ("f:spec", "f:map"), ("f:spec", "f:whole")}
        # Exactly what was applied, and nothing else, belongs to it.
        assert from_fields_v1(owned(result, "last") or {}) == claimed
        difference = compare(schema, {"spec": spec}, {"spec": result.get("spec", {})})
        assert not difference.modified - {("f:spec",), ("f:spec", "f:map")}

    with_widgets(check)


@some
@given(STEPS, SPECS)
def test_applying_again_changes_nothing(steps: list[tuple[str, str, Any]], spec: Any) -> None:
    def check(kube: Api) -> None:
        play(kube, steps)
        first = kube.apply("widgets", {"metadata": {"name": "a"}, "spec": spec}, "last", force=True)
        kube.clock.advance(60)
        again = kube.apply("widgets", {"metadata": {"name": "a"}, "spec": spec}, "last")
        assert again == first

    with_widgets(check)


@some
@given(STEPS)
def test_every_owned_field_exists_and_appliers_apart_own_apart(steps: list[tuple[str, str, Any]]) -> None:
    def check(kube: Api) -> None:
        play(kube, steps)
        stored = kube.get("widgets", "a")
        assert stored is not None
        schema = kube.resource("widgets").schema or {}
        everything = fields_of(schema, stored)
        parents = {path[:depth] for path in everything for depth in range(1, len(path))}
        for manager, entry in decode(stored["metadata"].get("managedFields", [])).items():
            # What was applied empty is owned as such, and goes when others take out its content.
            gone = entry.fields - everything - parents - CONTAINERS
            assert not gone, f"{manager} owns what is not there"

    with_widgets(check)


@some
@given(STEPS, SPECS)
def test_an_applier_that_wants_nothing_leaves_nothing_behind(steps: list[tuple[str, str, Any]], spec: Any) -> None:
    def check(kube: Api) -> None:
        play(kube, steps)
        before = kube.get("widgets", "a")
        assert before is not None
        kube.apply("widgets", {"metadata": {"name": "a"}, "spec": spec}, "guest", force=True)
        after = kube.apply("widgets", {"metadata": {"name": "a"}}, "guest", force=True)
        assert owned(after, "guest") is None
        schema = kube.resource("widgets").schema or {}
        untouched = fields_of(schema, before) - fields_of(schema, {"spec": spec})
        # Size has a default, and metadata has the managers in it.
        kept = {path for path in untouched if path[:2] != ("f:spec", "f:size") and path[0] != "f:metadata"}
        lost = kept - fields_of(schema, after)
        # A field of others is only gone if it was inside something that the guest replaced as a whole, or empty.
        inside = {("f:spec", "f:whole"), ("f:spec", "f:atoms"), ("f:spec", "f:ports")}
        assert {path[:2] for path in lost - CONTAINERS} <= inside

    with_widgets(check)


def test_a_conflict_names_field_and_manager(widgets: Api) -> None:
    widgets.apply("widgets", {"metadata": {"name": "a"}, "spec": {"color": "red"}}, "one")
    with pytest.raises(ApiError) as refusal:
        widgets.apply("widgets", {"metadata": {"name": "a"}, "spec": {"color": "blue"}}, "two")
    assert refusal.value.code == 409
    assert refusal.value.message == 'Apply failed with 1 conflict: conflict with "one": .spec.color'
    assert refusal.value.status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.color"}
    ]


def test_conflicts_are_listed_by_manager(widgets: Api) -> None:
    widgets.apply("widgets", {"metadata": {"name": "a"}, "spec": {"color": "red"}}, "one")
    widgets.patch("widgets", "a", {"spec": {"size": 2}}, "two")
    with pytest.raises(ApiError) as refusal:
        widgets.apply("widgets", {"metadata": {"name": "a"}, "spec": {"color": "blue", "size": 1}}, "three")
    assert refusal.value.message == (
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.color\n'
        'conflicts with "two" using unit.example.com/v1:\n- .spec.size'
    )


def test_the_same_value_is_owned_together(widgets: Api) -> None:
    for manager in ("one", "two"):
        widgets.apply("widgets", {"metadata": {"name": "a"}, "spec": {"color": "red"}}, manager)
    left = widgets.apply("widgets", {"metadata": {"name": "a"}}, "one")
    assert left["spec"]["color"] == "red"
    left = widgets.apply("widgets", {"metadata": {"name": "a"}}, "two")
    assert "color" not in left.get("spec", {})


def test_two_appliers_of_one_set(widgets: Api) -> None:
    widgets.apply("widgets", {"metadata": {"name": "a", "finalizers": ["x/one"]}}, "one")
    both = widgets.apply("widgets", {"metadata": {"name": "a", "finalizers": ["x/two"]}}, "two")
    assert both["metadata"]["finalizers"] == ["x/one", "x/two"]
    left = widgets.apply("widgets", {"metadata": {"name": "a"}}, "one")
    assert left["metadata"]["finalizers"] == ["x/two"]


def test_an_untracked_object_belongs_to_those_before_the_first_apply(kube: Api) -> None:
    kube.create("configmaps", {"metadata": {"name": "a"}, "data": {"k": "v"}})
    kube.patch("configmaps", "a", {"metadata": {"managedFields": []}})
    untracked = kube.get("configmaps", "a")
    assert untracked is not None
    assert "managedFields" not in untracked["metadata"]
    with pytest.raises(ApiError) as refusal:
        kube.apply("configmaps", {"metadata": {"name": "a"}, "data": {"k": "w"}}, "one")
    assert 'conflict with "before-first-apply" using v1: .data.k' in refusal.value.message


def test_the_oldest_updaters_are_merged(kube: Api) -> None:
    kube.create("configmaps", {"metadata": {"name": "a"}, "data": {"k0": "v"}}, "manager-0")
    for number in range(1, 15):
        kube.clock.advance(1)
        kube.patch("configmaps", "a", {"data": {f"k{number}": "v"}}, f"manager-{number}")
    stored = kube.get("configmaps", "a")
    assert stored is not None
    managers = decode(stored["metadata"]["managedFields"])
    assert len(managers) == 10
    ancient = next(owned for manager, owned in managers.items() if manager.name == "ancient-changes")
    assert {("f:data", f"f:k{number}") for number in range(6)} <= ancient.fields
    assert not any(manager.operation == APPLY for manager in managers)


def test_times_change_only_with_the_fields(widgets: Api) -> None:
    applied = {"metadata": {"name": "a"}, "spec": {"color": "red"}}
    first = widgets.apply("widgets", applied, "one")
    widgets.clock.advance(60)
    widgets.patch("widgets", "a", {"spec": {"size": 2}}, "two")
    again = widgets.apply("widgets", applied, "one")
    times = {entry["manager"]: entry["time"] for entry in again["metadata"]["managedFields"]}
    assert times == {"one": first["metadata"]["managedFields"][0]["time"], "two": "2030-01-01T00:01:00Z"}


def test_kubectl_takes_over_what_client_side_apply_wrote(kube: Api) -> None:
    last = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}'
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": last}
    created = {"metadata": {"name": "a", "annotations": annotations}, "data": {"k": "v"}}
    kube.create("configmaps", created, "kubectl-client-side-apply")
    applied = kube.apply("configmaps", {"metadata": {"name": "a"}, "data": {"k": "w"}}, "kubectl")
    assert applied["data"] == {"k": "w"}
    kept = applied["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    assert '"k":"w"' in kept


def test_the_status_belongs_to_its_own_path(widgets: Api) -> None:
    widgets.apply("widgets", {"metadata": {"name": "a"}, "spec": {"color": "red"}, "status": {"x": 1}}, "one")
    stored = widgets.get("widgets", "a")
    assert stored is not None
    assert "status" not in stored
    wanted = {"metadata": {"name": "a"}, "spec": {"color": "blue"}, "status": {"x": 1}}
    applied = widgets.apply("widgets", wanted, "one", subresource="status")
    assert (applied["spec"]["color"], applied["status"]) == ("red", {"x": 1})
    entries = {entry.get("subresource", ""): entry["fieldsV1"] for entry in applied["metadata"]["managedFields"]}
    assert entries == {"": {"f:spec": {"f:color": {}}}, "status": {"f:status": {"f:x": {}}}}


def test_what_the_server_adds_belongs_to_nobody(kube: Api) -> None:
    created = kube.create("namespaces", {"metadata": {"name": "a"}})
    (entry,) = created["metadata"]["managedFields"]
    assert entry["fieldsV1"] == {"f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/metadata.name": {}}}}
    assert created["spec"] == {"finalizers": ["kubernetes"]}
