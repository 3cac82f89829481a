"""kubectl changing and ending objects: patch, label, annotate, wait, delete."""

import json

import pytest

from tests.integration.kube_conformance.objects import configmap, names, pod, widget
from tests.support.api import Api
from tests.support.kubectl import Kubectl
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.conformance

WIDGET_A = "widget.conformance.example.com/a"


def test_patch(api: Api, kc: Kubectl, widgets: str, namespace: str) -> None:
    api.post(widgets, widget("a", steps=["one"])).expect(201)

    def patch(kind: str, changes: object, *more: str) -> str:
        return kc("patch", "widget", "a", f"--type={kind}", "-p", json.dumps(changes), *more).stdout.strip()

    assert patch("merge", {"spec": {"size": 2}}) == f"{WIDGET_A} patched"
    assert patch("merge", {"spec": {"size": 2}}) == f"{WIDGET_A} patched (no change)"
    patch("json", [{"op": "add", "path": "/spec/steps/-", "value": "two"}])
    patch("merge", {"status": {"phase": "Ready"}, "spec": {"size": 50}}, "--subresource=status")
    found = api.get(f"{widgets}/a").expect(200)
    assert (found["spec"]["size"], found["spec"]["steps"]) == (2, ["one", "two"])
    assert found["status"] == {"phase": "Ready"}
    strategic = kc("patch", "widget", "a", "-p", '{"spec":{"size":3}}', check=False)
    assert strategic.code == 1
    assert "accepted media types include" in strategic.stderr
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.post(pods, pod("p", "busybox:1", "busybox:2")).expect(201)
    kc("patch", "pod", "p", "-p", '{"spec":{"containers":[{"name":"c1","image":"busybox:3"}]}}')
    images = [container["image"] for container in api.get(f"{pods}/p").expect(200)["spec"]["containers"]]
    assert images == ["busybox:1", "busybox:3"]


def test_label_and_annotate(api: Api, kc: Kubectl, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)

    def labels() -> dict[str, str]:
        found: dict[str, str] = api.get(f"{widgets}/a").expect(200)["metadata"].get("labels", {})
        return found

    assert kc("label", "widget", "a", "team=x", "tier=1").stdout.strip() == f"{WIDGET_A} labeled"
    assert labels() == {"team": "x", "tier": "1"}
    refused = kc("label", "widget", "a", "team=y", check=False)
    assert refused.code == 1
    assert "'team' already has a value (x), and --overwrite is false" in refused.stderr
    kc("label", "widget", "a", "team=y", "--overwrite")
    assert kc("label", "widget", "a", "tier-").stdout.strip() == f"{WIDGET_A} unlabeled"
    assert labels() == {"team": "y"}
    wrong = kc("label", "widget", "a", "team=not valid", "--overwrite", check=False)
    assert wrong.code == 1
    assert labels() == {"team": "y"}
    assert kc("annotate", "widget", "a", "note=some text").stdout.strip() == f"{WIDGET_A} annotated"
    assert api.get(f"{widgets}/a").expect(200)["metadata"]["annotations"] == {"note": "some text"}
    kc("annotate", "widget", "a", "note-")
    assert "annotations" not in api.get(f"{widgets}/a").expect(200)["metadata"]


def test_wait_for_a_condition_and_for_a_field(api: Api, kc: Kubectl, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    early = kc("wait", "widget/a", "--for=condition=Ready", "--timeout=1s", check=False)
    assert early.code == 1
    assert "timed out waiting for the condition on widgets/a" in early.stderr
    with (
        kc.start("wait", "widget/a", "--for=condition=Ready", f"--timeout={PATIENCE:g}s") as condition,
        kc.start("wait", "widget/a", "--for=jsonpath={.status.phase}=Ready", f"--timeout={PATIENCE:g}s") as field,
    ):
        unready = {"status": {"phase": "Downloading", "conditions": [{"type": "Ready", "status": "False"}]}}
        api.patch(f"{widgets}/a/status", unready).expect(200)
        ready = {"status": {"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}}
        api.patch(f"{widgets}/a/status", ready).expect(200)
        for process in (condition, field):
            assert process.first_line() == f"{WIDGET_A} condition met"
            assert process.wait() == 0
    # True already: the answer comes at once.
    assert kc("wait", "widgets", "--all", "--for=condition=Ready").lines() == [f"{WIDGET_A} condition met"]


def test_delete_waits_for_finalizers(api: Api, kc: Kubectl, widgets: str) -> None:
    api.post(widgets, widget("a", {"finalizers": ["example.com/held"]})).expect(201)
    with kc.start("delete", "widget", "a") as delete, api.watch(widgets) as watch:
        watch.until(lambda event: "deletionTimestamp" in event["object"]["metadata"])
        assert delete.first_line().startswith('widget.conformance.example.com "a" deleted')
        assert delete.returncode is None
        with kc.start("wait", "widget/a", "--for=delete", f"--timeout={PATIENCE:g}s") as wait:
            kc("patch", "widget", "a", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
            assert delete.wait() == 0
            assert wait.wait() == 0
    assert api.get(f"{widgets}/a").status == 404


def test_delete_without_waiting(api: Api, kc: Kubectl, widgets: str) -> None:
    api.post(widgets, widget("a", {"finalizers": ["example.com/held"]})).expect(201)
    said = kc("delete", "widget", "a", "--wait=false").stdout
    assert said.startswith('widget.conformance.example.com "a" deleted')
    assert api.get(f"{widgets}/a").expect(200)["metadata"]["deletionTimestamp"]
    kc("patch", "widget", "a", "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
    assert api.get(f"{widgets}/a").status == 404


def test_delete_by_selector_name_and_file(api: Api, kc: Kubectl, configmaps: str) -> None:
    for name in "abcdef":
        api.post(configmaps, configmap(name, labels={"odd": str("abcdef".index(name) % 2)})).expect(201)
    lines = kc("delete", "configmaps", "-l", "odd=1").lines()
    assert [line.split()[:3] for line in lines] == [["configmap", f'"{name}"', "deleted"] for name in "bdf"]
    kc("delete", "configmap", "a")
    kc("delete", "-f", "-", input=configmap("c"))
    assert names(api.get(configmaps).expect(200)) == ["e"]
    missing = kc("delete", "configmap", "a", check=False)
    assert missing.code == 1
    assert missing.stderr.strip() == 'Error from server (NotFound): configmaps "a" not found'
    kc("delete", "configmap", "a", "--ignore-not-found")
    kc("delete", "configmaps", "--all")
    assert names(api.get(configmaps).expect(200)) == []
