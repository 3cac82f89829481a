"""Another CRD of the same name is told from ours by its fields."""

from __future__ import annotations

import copy
from typing import Any

from controller.crdcheck import difference, field_paths
from modelcache.api.crd import custom_resource_definition


def ours() -> dict[str, Any]:
    return copy.deepcopy(custom_resource_definition())


def version(definition: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definition["spec"]["versions"][0]
    return found


def test_our_own_is_accepted() -> None:
    assert difference(ours()) is None


def test_a_newer_one_with_more_fields_is_accepted() -> None:
    newer = ours()
    spec = version(newer)["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["future"] = {"type": "string"}
    newer["spec"]["versions"].append({"name": "v1", "served": True, "schema": {}})
    assert difference(newer) is None


def test_the_one_of_the_operator_is_refused_with_the_fields_it_lacks() -> None:
    foreign = ours()
    properties = version(foreign)["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["properties"] = {
        name: properties["spec"]["properties"][name] for name in ("modelName", "baseModelName", "modelType")
    }
    problem = difference(foreign)
    assert problem is not None
    assert "spec.version" in problem
    assert "kubectl apply" in problem


def test_a_missing_nested_field_is_found() -> None:
    older = ours()
    status = version(older)["schema"]["openAPIV3Schema"]["properties"]["status"]
    del status["properties"]["nodeProblems"]["items"]["properties"]["nextTry"]
    problem = difference(older)
    assert problem is not None
    assert "status.nodeProblems.nextTry" in problem


def test_without_our_version_or_the_status_subresource() -> None:
    renamed = ours()
    version(renamed)["name"] = "v9"
    assert "v1alpha1" in (difference(renamed) or "")
    bare = ours()
    del version(bare)["subresources"]
    assert "status subresource" in (difference(bare) or "")
    assert difference({}) is not None


def test_paths_go_through_lists() -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": {}}}}, "c": {"properties": {"d": {}}}}}
    assert list(field_paths(schema)) == ["a", "a.b", "c", "c.d"]
