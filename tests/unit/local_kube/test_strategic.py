"""Strategic merge patch: lists by key, sets, and the directives."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.builtin_schemas import builtin_schema
from local.kube.strategic import StrategicError, strategic_merge

POD = builtin_schema("", "v1", "Pod")
DEPLOYMENT = builtin_schema("apps", "v1", "Deployment")


def pod(*containers: Any, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


def c(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


@pytest.mark.parametrize(
    ("original", "patch", "expected"),
    [
        # items of the same key are merged, new ones come last
        (
            pod(c("a", image="1"), c("b")),
            pod(c("b", image="2"), c("c")),
            pod(c("a", image="1"), c("b", image="2"), c("c")),
        ),
        # nested lists have keys of their own
        (
            pod(c("a", env=[{"name": "x", "value": "1"}])),
            pod(c("a", env=[{"name": "y", "value": "2"}])),
            pod(c("a", env=[{"name": "x", "value": "1"}, {"name": "y", "value": "2"}])),
        ),
        # null removes a field
        (pod(c("a", image="1", tty=True)), pod(c("a", tty=None)), pod(c("a", image="1"))),
        # delete one item
        (pod(c("a"), c("b")), pod({"name": "a", "$patch": "delete"}), pod(c("b"))),
        # replace a list
        (pod(c("a"), c("b")), pod({"$patch": "replace"}, c("z")), pod(c("z"))),
        # replace an object
        (
            {"metadata": {"labels": {"a": "1"}}},
            {"metadata": {"labels": {"$patch": "replace", "b": "2"}}},
            {"metadata": {"labels": {"b": "2"}}},
        ),
        # delete an object
        ({"metadata": {"name": "x"}, "spec": {}}, {"spec": {"$patch": "delete"}}, {"metadata": {"name": "x"}}),
        # lists without a merge key are one value
        (pod(c("a", command=["1", "2"])), pod(c("a", command=["3"])), pod(c("a", command=["3"]))),
        # sets grow
        (
            {"metadata": {"finalizers": ["x/a"]}},
            {"metadata": {"finalizers": ["x/b", "x/a"]}},
            {"metadata": {"finalizers": ["x/a", "x/b"]}},
        ),
        # and shrink by name
        (
            {"metadata": {"finalizers": ["x/a", "x/b"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"]}},
            {"metadata": {"finalizers": ["x/b"]}},
        ),
        # the order of the result
        (
            pod(c("a"), c("b"), c("c")),
            {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}},
            pod(c("c"), c("b"), c("a")),
        ),
        # what the order does not name stays before what it preceded
        (
            pod(c("server"), c("a"), c("b")),
            {
                "spec": {
                    "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                    "containers": [c("a", image="2")],
                }
            },
            pod(c("server"), c("b"), c("a", image="2")),
        ),
        # one-of structs keep only what the patch says
        (
            {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}},
            {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
            {"spec": {"strategy": {"type": "Recreate"}}},
        ),
    ],
)
def test_merge(original: Any, patch: Any, expected: Any) -> None:
    schema = DEPLOYMENT if "strategy" in original.get("spec", {}) else POD
    assert strategic_merge(schema, original, patch) == expected


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (pod({"image": "x"}), "does not contain declared merge key: name"),
        (pod("text"), "does not contain declared merge key: name"),
        ({"spec": {"$patch": "explode"}}, "is none of delete, merge, replace"),
        ({"metadata": {"finalizers": [{"a": 1}]}}, "items of this list have no merge key"),
        ({"spec": {"$retainKeys": ["a"], "b": 1}}, "'b' is missing"),
        ({"spec": {"$setElementOrder/containers": "x"}}, "expected a list"),
    ],
)
def test_refusals(patch: Any, message: str) -> None:
    with pytest.raises(StrategicError) as refusal:
        strategic_merge(POD, pod(c("a")), patch)
    assert message in str(refusal.value)


def test_the_original_is_not_touched() -> None:
    original = pod(c("a", env=[{"name": "x"}]))
    strategic_merge(POD, original, pod(c("a", env=[{"name": "y"}]), c("b")))
    assert original == pod(c("a", env=[{"name": "x"}]))


NAMES = st.lists(st.sampled_from("abcde"), unique=True, max_size=4)


@given(NAMES, NAMES)
def test_every_name_once_and_the_old_ones_first(old: list[str], new: list[str]) -> None:
    result = strategic_merge(POD, pod(*map(c, old)), pod(*map(c, new)))
    found = [container["name"] for container in result["spec"]["containers"]]
    assert found == old + [name for name in new if name not in old]


@given(NAMES, NAMES)
def test_a_patch_applied_twice_is_applied_once(old: list[str], new: list[str]) -> None:
    patch = pod(*(c(name, image="x") for name in new))
    once = strategic_merge(POD, pod(*map(c, old)), patch)
    assert strategic_merge(POD, once, patch) == once


@given(NAMES, st.permutations("abcde"))
def test_an_order_orders(names: list[str], order: list[str]) -> None:
    patch = {"spec": {"$setElementOrder/containers": [{"name": name} for name in order]}}
    result = strategic_merge(POD, pod(*map(c, names)), patch)
    assert [container["name"] for container in result["spec"]["containers"]] == [n for n in order if n in names]
