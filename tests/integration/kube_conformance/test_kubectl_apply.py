"""kubectl apply on the client's and on the server's side, with diff, dry run, validation and kustomize."""

import stat
from pathlib import Path

import pytest

from tests.integration.kube_conformance.objects import configmap, managers, widget
from tests.support.api import Api
from tests.support.kubectl import Kubectl

pytestmark = pytest.mark.conformance


def test_apply_creates_changes_and_removes(api: Api, kc: Kubectl, configmaps: str, widgets: str) -> None:
    for path, kind, first, second in (
        (configmaps, "configmap/a", configmap("a", {"k": "1", "l": "2"}), configmap("a", {"k": "3"})),
        (
            widgets,
            "widget.conformance.example.com/a",
            widget("a", size=1, nick="al", limits={"x": "1", "y": "2"}),
            widget("a", size=2, limits={"x": "1"}),
        ),
    ):
        assert kc("apply", "-f", "-", input=first).stdout.strip() == f"{kind} created"
        assert kc("apply", "-f", "-", input=first).stdout.strip() == f"{kind} unchanged"
        # What somebody else added stays; what the manifest no longer has goes.
        api.patch(f"{path}/a", {"metadata": {"labels": {"foreign": "label"}}}).expect(200)
        assert kc("apply", "-f", "-", input=second).stdout.strip() == f"{kind} configured"
        found = api.get(f"{path}/a").expect(200)
        assert found["metadata"]["labels"] == {"foreign": "label"}
        assert "kubectl.kubernetes.io/last-applied-configuration" in found["metadata"]["annotations"]
        assert ("kubectl-client-side-apply", "Update") in managers(found)
        if path == configmaps:
            assert found["data"] == {"k": "3"}
        else:
            assert (found["spec"]["size"], found["spec"]["limits"]) == (2, {"x": "1"})
            assert "nick" not in found["spec"]


def test_apply_several_documents(api: Api, kc: Kubectl, configmaps: str, widgets: str) -> None:
    manifest = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: m
data:
  text: |
    two
    lines
---
apiVersion: conformance.example.com/v1alpha1
kind: Widget
metadata:
  name: w
spec:
  size: 4
"""
    assert kc("apply", "-f", "-", input=manifest).lines() == [
        "configmap/m created",
        "widget.conformance.example.com/w created",
    ]
    assert api.get(f"{configmaps}/m").expect(200)["data"] == {"text": "two\nlines\n"}
    assert api.get(f"{widgets}/w").expect(200)["spec"]["size"] == 4
    kc("delete", "-f", "-", input=manifest)
    assert api.get(f"{configmaps}/m").status == 404


def test_two_managers_on_the_server_side(api: Api, kc: Kubectl, configmaps: str) -> None:
    def apply(manager: str, data: dict[str, str], *more: str) -> tuple[int, str]:
        body = configmap("a", data)
        arguments = ("apply", "--server-side", f"--field-manager={manager}", *more, "-f", "-")
        result = kc(*arguments, input=body, check=False)
        return result.code, result.stdout + result.stderr

    assert apply("one", {"k": "1", "l": "1"}) == (0, "configmap/a serverside-applied\n")
    code, said = apply("two", {"k": "2"})
    assert code == 1
    assert 'Apply failed with 1 conflict: conflict with "one": .data.k' in said
    assert "--force-conflicts" in said
    assert apply("two", {"k": "2"}, "--force-conflicts")[0] == 0
    assert api.get(f"{configmaps}/a").expect(200)["data"] == {"k": "2", "l": "1"}
    # The first manager gives the field up, and then they agree again.
    assert apply("one", {"l": "1"})[0] == 0
    found = api.get(f"{configmaps}/a").expect(200)
    assert found["data"] == {"k": "2", "l": "1"}
    fields = {entry["manager"]: entry["fieldsV1"] for entry in found["metadata"]["managedFields"]}
    assert fields == {"one": {"f:data": {"f:l": {}}}, "two": {"f:data": {"f:k": {}}}}


def test_server_side_apply_takes_over_from_client_side(api: Api, kc: Kubectl, widgets: str) -> None:
    kc("apply", "-f", "-", input=widget("a", nick="al"))
    kc("apply", "--server-side", "-f", "-", input=widget("a", size=2))
    found = api.get(f"{widgets}/a").expect(200)
    assert found["spec"]["size"] == 2
    assert "nick" not in found["spec"]
    assert ("kubectl", "Apply") in managers(found)
    assert ("kubectl-client-side-apply", "Update") not in managers(found)


def test_unknown_fields_are_refused(api: Api, kc: Kubectl, configmaps: str, widgets: str) -> None:
    for body, field in (({**configmap("a"), "datum": {}}, "datum"), (widget("a", bogus=1), "spec.bogus")):
        for command in (("create",), ("apply",)):
            result = kc(*command, "-f", "-", input=body, check=False)
            assert result.code == 1
            assert f'unknown field "{field}"' in result.stderr
        ignored = kc("apply", "--validate=ignore", "-f", "-", input=body)
        assert ignored.stdout.strip().endswith("/a created")
    assert "bogus" not in api.get(f"{widgets}/a").expect(200)["spec"]


def test_refusals_are_shown(kc: Kubectl, widgets: str) -> None:
    result = kc("apply", "-f", "-", input=widget("a", color="pink"), check=False)
    assert result.code == 1
    assert 'The Widget "a" is invalid' in result.stderr
    assert 'spec.color: Unsupported value: "pink": supported values: "red", "green", "blue"' in result.stderr
    result = kc("apply", "-f", "-", input=widget("a", min=2, max=1), check=False)
    assert "min must not be greater than max" in result.stderr
    lost = widget("a")
    lost["kind"] = "Wodget"
    result = kc("apply", "-f", "-", input=lost, check=False)
    assert result.code == 1
    assert 'no matches for kind "Wodget" in version "conformance.example.com/v1alpha1"' in result.stderr


def test_dry_run_and_diff(api: Api, kc: Kubectl, widgets: str) -> None:
    tried = kc("apply", "--dry-run=server", "-f", "-", input=widget("a"))
    assert tried.stdout.strip() == "widget.conformance.example.com/a created (server dry run)"
    assert api.get(f"{widgets}/a").status == 404
    shown = kc("apply", "--dry-run=server", "-o", "jsonpath={.spec.color}", "-f", "-", input=widget("a"))
    assert shown.stdout == "green"
    created = kc("apply", "-f", "-", input=widget("a"))
    assert created.code == 0
    same = kc("diff", "-f", "-", input=widget("a"), check=False)
    assert (same.code, same.stdout) == (0, "")
    different = kc("diff", "-f", "-", input=widget("a", size=9), check=False)
    assert different.code == 1
    assert "-  size: 1" in different.stdout.splitlines()
    assert "+  size: 9" in different.stdout.splitlines()
    assert api.get(f"{widgets}/a").expect(200)["spec"]["size"] == 1


def test_kustomization(api: Api, kc: Kubectl, configmaps: str, widgets: str, tmp_path: Path) -> None:
    (tmp_path / "widget.yaml").write_text(
        "apiVersion: conformance.example.com/v1alpha1\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: 4\n"
    )
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [widget.yaml]\nnamePrefix: pre-\n"
        "labels:\n  - pairs: {part-of: demo}\n"
        "configMapGenerator:\n  - name: settings\n    literals: [k=v]\n"
        "generatorOptions:\n  disableNameSuffixHash: true\n"
    )
    lines = kc("apply", "-k", tmp_path).lines()
    assert sorted(lines) == ["configmap/pre-settings created", "widget.conformance.example.com/pre-w created"]
    assert api.get(f"{widgets}/pre-w").expect(200)["metadata"]["labels"] == {"part-of": "demo"}
    assert api.get(f"{configmaps}/pre-settings").expect(200)["data"] == {"k": "v"}
    kc("delete", "-k", tmp_path)
    assert api.get(f"{widgets}/pre-w").status == 404


def test_edit(api: Api, kc: Kubectl, widgets: str, tmp_path: Path) -> None:
    api.post(widgets, widget("a")).expect(201)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed "s/size: 1/size: 8/" "$1" > "$1.new" && mv "$1.new" "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    edited = kc("edit", "widget", "a", env={"KUBE_EDITOR": str(editor)})
    assert edited.stdout.strip() == "widget.conformance.example.com/a edited"
    found = api.get(f"{widgets}/a").expect(200)
    assert found["spec"]["size"] == 8
    assert ("kubectl-edit", "Update") in managers(found)
    unchanged = kc("edit", "widget", "a", env={"KUBE_EDITOR": str(editor)})
    assert "Edit cancelled, no changes made." in unchanged.stdout + unchanged.stderr


def test_create_and_replace(api: Api, kc: Kubectl, kubectl: Kubectl, configmaps: str, namespace: str) -> None:
    kc("create", "configmap", "a", "--from-literal=k=v")
    created = api.get(f"{configmaps}/a").expect(200)
    assert created["data"] == {"k": "v"}
    assert managers(created) == [("kubectl-create", "Update")]
    again = kc("create", "configmap", "a", check=False)
    assert again.code == 1
    assert 'configmaps "a" already exists' in again.stderr
    kc("create", "secret", "generic", "s", "--from-literal=token=hf_x")
    secret = kc("get", "secret", "s", "-o", "json").json()
    assert (secret["type"], secret["data"]) == ("Opaque", {"token": "aGZfeA=="})
    kc("replace", "-f", "-", input=configmap("a", {"k": "w"}))
    assert api.get(f"{configmaps}/a").expect(200)["data"] == {"k": "w"}
    stale = configmap("a", {"k": "x"}, resourceVersion=created["metadata"]["resourceVersion"])
    refused = kc("replace", "-f", "-", input=stale, check=False)
    assert refused.code == 1
    assert "the object has been modified; please apply your changes to the latest version" in refused.stderr
    other = f"{namespace}-made"
    assert kubectl("create", "namespace", other).stdout.strip() == f"namespace/{other} created"
    assert kubectl("get", "namespace", other, "--no-headers").table()[0][:2] == [other, "Active"]
    kubectl("delete", "namespace", other, "--wait=false")
    lost = kubectl("create", "configmap", "a", "-n", f"{namespace}-absent", check=False)
    assert f'namespaces "{namespace}-absent" not found' in lost.stderr
