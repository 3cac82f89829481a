"""kubectl reading: get in all its outputs, get -w, describe and explain."""

import pytest

from tests.integration.kube_conformance.objects import configmap, node, widget
from tests.support.api import Api
from tests.support.kubectl import Kubectl

pytestmark = pytest.mark.conformance


@pytest.fixture
def three(api: Api, widgets: str) -> str:
    """Path of three Widgets: a (size 3, labelled), b (size 1, ready), c (size 2, red)."""
    api.post(widgets, widget("a", {"labels": {"team": "x"}}, size=3, nick="al")).expect(201)
    api.post(widgets, widget("b", size=1)).expect(201)
    api.post(widgets, widget("c", {"labels": {"team": "y"}}, size=2, color="red")).expect(201)
    ready = {"status": {"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]}}
    api.patch(f"{widgets}/b/status", ready).expect(200)
    return widgets


@pytest.mark.usefixtures("three")
def test_columns(kc: Kubectl) -> None:
    header, a, b, c = kc("get", "widgets").lines()
    assert header.split() == ["NAME", "COLOR", "SIZE", "READY", "AGE"]
    assert a.split()[:3] == ["a", "green", "3"]
    assert b.split()[:4] == ["b", "green", "1", "True"]
    assert c.split()[:3] == ["c", "red", "2"]
    wide = kc("get", "wg", "-o", "wide").table()
    assert wide[0] == ["NAME", "COLOR", "SIZE", "READY", "NICK", "AGE"]
    assert kc("get", "widgets", "--no-headers", "-o", "name").lines() == [
        f"widget.conformance.example.com/{name}" for name in "abc"
    ]


@pytest.mark.usefixtures("three")
def test_outputs(kc: Kubectl) -> None:
    assert kc("get", "widget", "b", "-o", "jsonpath={.status.phase}").stdout == "Ready"
    path = '{range .items[*]}{.metadata.name}={.spec.size}{"\\n"}{end}'
    assert kc("get", "widgets", "-o", f"jsonpath={path}").lines() == ["a=3", "b=1", "c=2"]
    columns = kc("get", "widgets", "-o", "custom-columns=NAME:.metadata.name,SIZE:.spec.size").table()
    assert columns == [["NAME", "SIZE"], ["a", "3"], ["b", "1"], ["c", "2"]]
    found = kc("get", "widgets", "-o", "json").json()
    assert (found["kind"], [item["spec"]["size"] for item in found["items"]]) == ("List", [3, 1, 2])
    text = kc("get", "widget", "a", "-o", "yaml").lines()
    assert "kind: Widget" in text
    assert "  managedFields:" not in text


@pytest.mark.usefixtures("three")
def test_selection_and_order(kc: Kubectl) -> None:
    def got(*arguments: str) -> list[str]:
        return [name.rpartition("/")[2] for name in kc("get", "widgets", "-o", "name", *arguments).lines()]

    assert got("-l", "team in (x,y),team!=x") == ["c"]
    assert got("--field-selector", "metadata.name!=a,spec.color=red") == ["c"]
    assert got("--sort-by", ".spec.size") == ["b", "c", "a"]
    assert got("--chunk-size", "1") == ["a", "b", "c"]
    # Sorted tables are made from the server's rows and the objects within them.
    rows = kc("get", "widgets", "--sort-by", "{.spec.size}", "--show-labels").table()
    assert [row[0] for row in rows] == ["NAME", "b", "c", "a"]
    assert rows[0][-1] == "LABELS"
    assert [row[-1] for row in rows[1:]] == ["<none>", "team=y", "team=x"]
    labelled = kc("get", "widgets", "-L", "team", "--no-headers").table()
    assert [row[-1] for row in labelled if row[0] in "ac"] == ["x", "y"]


def test_several_kinds_and_namespaces(api: Api, kc: Kubectl, configmaps: str, three: str, namespace: str) -> None:
    api.post(configmaps, configmap("m", {"k": "v"})).expect(201)
    lines = kc("get", "configmap/m", "widget/a").lines()
    assert [line.split()[0] for line in lines if line] == [
        "NAME",
        "configmap/m",
        "NAME",
        "widget.conformance.example.com/a",
    ]
    rows = kc("get", "widgets", "--all-namespaces").table()
    assert rows[0][:2] == ["NAMESPACE", "NAME"]
    assert [namespace, "a"] in [row[:2] for row in rows]


def test_what_is_not_there(kc: Kubectl, widgets: str, namespace: str) -> None:
    assert kc("get", "widgets").stderr.strip() == f"No resources found in {namespace} namespace."
    missing = kc("get", "widget", "absent", check=False)
    assert missing.code == 1
    assert missing.stderr.strip() == (
        'Error from server (NotFound): widgets.conformance.example.com "absent" not found'
    )
    assert kc("get", "widget", "absent", "--ignore-not-found").stdout == ""


def test_nodes(api: Api, kubectl: Kubectl) -> None:
    api.post("/api/v1/nodes", node("kubectl-node", **{"nvidia.com/gpu.present": "true"})).expect(201)
    try:
        rows = kubectl("get", "nodes", "kubectl-node", "--show-labels").table()
        assert rows[0] == ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "LABELS"]
        assert rows[1][:3] == ["kubectl-node", "Unknown", "<none>"]
        assert rows[1][-1] == "nvidia.com/gpu.present=true"
        assert kubectl("get", "nodes", "-l", "nvidia.com/gpu.present=true", "-o", "name").lines() == [
            "node/kubectl-node"
        ]
        text = kubectl("describe", "node", "kubectl-node").stdout
        assert "nvidia.com/gpu.present=true" in text
        kubectl("cordon", "kubectl-node")
        assert "SchedulingDisabled" in kubectl("get", "node", "kubectl-node").stdout
    finally:
        api.delete("/api/v1/nodes/kubectl-node").expect(200)


def test_watching(api: Api, kc: Kubectl, widgets: str) -> None:
    api.post(widgets, widget("a")).expect(201)
    with kc.start("get", "widgets", "--watch", "--output-watch-events") as watch:
        watch.wait_for_line(lambda line: line.split()[:4] == ["ADDED", "a", "green", "1"])
        api.patch(f"{widgets}/a", {"spec": {"color": "red"}}).expect(200)
        watch.wait_for_line(lambda line: line.split()[:4] == ["MODIFIED", "a", "red", "1"])
        api.patch(f"{widgets}/a/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}).expect(200)
        watch.wait_for_line(lambda line: line.split()[:5] == ["MODIFIED", "a", "red", "1", "True"])
        api.delete(f"{widgets}/a").expect(200)
        watch.wait_for_line(lambda line: line.split()[:2] == ["DELETED", "a"])


def test_describe_shows_spec_status_and_events(api: Api, kc: Kubectl, three: str, namespace: str) -> None:
    uid = api.get(f"{three}/b").expect(200)["metadata"]["uid"]
    about = {"apiVersion": "conformance.example.com/v1alpha1", "kind": "Widget", "name": "b", "uid": uid}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "b.1"},
        "involvedObject": {**about, "namespace": namespace},
        "reason": "Painted",
        "message": "it is green now",
        "type": "Normal",
        "source": {"component": "painter"},
        "firstTimestamp": "2024-05-01T10:00:00Z",
        "lastTimestamp": "2024-05-01T10:00:00Z",
        "count": 1,
    }
    api.post(f"/api/v1/namespaces/{namespace}/events", event).expect(201)
    text = kc("describe", "widget", "b").stdout
    assert "API Version:  conformance.example.com/v1alpha1" in text
    for words in (["Color:", "green"], ["Size:", "1"], ["Phase:", "Ready"]):
        assert words in [line.split() for line in text.splitlines()]
    (line,) = [line.split() for line in text.splitlines() if "Painted" in line]
    assert line[:2] == ["Normal", "Painted"]
    assert line[-5:] == ["painter", "it", "is", "green", "now"]
    assert "Painted" not in kc("describe", "widget", "a").stdout
    listed = kc("get", "events", "--field-selector", "involvedObject.name=b").table()
    assert listed[0] == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert listed[1][1:4] == ["Normal", "Painted", "widget/b"]


@pytest.mark.usefixtures("widget_crd")
def test_explain(kubectl: Kubectl) -> None:
    top = kubectl("explain", "widgets").stdout
    assert "Widget is what the conformance tests are about." in top
    assert ["KIND:", "Widget"] in [line.split() for line in top.splitlines()]
    field = kubectl("explain", "widget.spec.color").stdout
    assert "FIELD: color <string>" in field
    assert "Colour of the outside." in field
    assert "red" in field
    nested = kubectl("explain", "widgets.spec.ports.name").stdout
    assert "What the port is called." in nested
    tree = kubectl("explain", "widgets", "--recursive").stdout
    for words in (
        ["size", "<integer>", "-required-"],
        ["lastTransitionTime", "<string>"],
        ["limits", "<map[string]string>"],
    ):
        assert words in [line.split() for line in tree.splitlines()]
    missing = kubectl("explain", "widgets.spec.absent", check=False)
    assert missing.code == 1
    assert "absent" in missing.stderr
    assert "FIELD: data <map[string]string>" in kubectl("explain", "configmap.data").stdout
