"""What `kubectl get` shows."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.resources import BUILTIN_RESOURCES, Resource
from local.kube.table import render_table
from local.kube.table_columns import BUILTIN_TABLES

Object = dict[str, Any]

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
META = {"name": "n", "creationTimestamp": "2026-11-22T11:55:00Z"}


def builtin(kind: str, group: str = "") -> Resource:
    return next(item for item in BUILTIN_RESOURCES if (item.kind, item.group) == (kind, group))


def row(kind: str, group: str = "", **fields: Any) -> dict[str, Any]:
    """The cells of one object by column name."""
    table = render_table(builtin(kind, group), [{"metadata": META, **fields}], "None", NOW)
    names = [column["name"] for column in table["columnDefinitions"]]
    (only,) = table["rows"]
    assert len(only["cells"]) == len(names)
    return dict(zip(names, only["cells"], strict=True))


CUSTOM = Resource(
    "example.com",
    "v1",
    "things",
    "thing",
    "Thing",
    "ThingList",
    namespaced=True,
    custom=True,
    printer_columns=(
        {"name": "Text", "type": "string", "jsonPath": ".s", "description": "A text."},
        {"name": "Count", "type": "integer", "jsonPath": ".i"},
        {"name": "Share", "type": "number", "jsonPath": ".f", "format": "float"},
        {"name": "On", "type": "boolean", "jsonPath": ".b"},
        {"name": "Ready", "type": "string", "jsonPath": '.c[?(@.type=="Ready")].status', "priority": 1},
        {"name": "When", "type": "date", "jsonPath": ".t"},
    ),
)


def custom_cells(obj: Object) -> list[Any]:
    table = render_table(CUSTOM, [{"metadata": META, **obj}], "None", NOW)
    cells: list[Any] = table["rows"][0]["cells"]
    return cells


class TestCustomResources:
    def test_columns(self) -> None:
        table = render_table(CUSTOM, [], "Metadata", NOW)
        assert [(column["name"], column["type"], column["priority"]) for column in table["columnDefinitions"]] == [
            ("Name", "string", 0),
            ("Text", "string", 0),
            ("Count", "integer", 0),
            ("Share", "number", 0),
            ("On", "boolean", 0),
            ("Ready", "string", 1),
            ("When", "date", 0),
        ]
        assert table["columnDefinitions"][1]["description"] == "A text."
        assert table["columnDefinitions"][2]["description"] == (
            "Custom resource definition column (in JSONPath format): .i"
        )
        assert (table["kind"], table["apiVersion"], table["rows"]) == ("Table", "meta.k8s.io/v1", [])

    def test_cells(self) -> None:
        obj = {
            "s": "x",
            "i": 3,
            "f": 1,
            "b": False,
            "c": [{"type": "Ready", "status": "True"}],
            "t": "2026-11-22T11:00:00Z",
        }
        assert custom_cells(obj) == ["n", "x", 3, 1.0, False, "True", "60m"]

    def test_missing_values_are_null(self) -> None:
        assert custom_cells({}) == ["n", None, None, None, None, None, None]

    def test_values_of_another_type_are_null(self) -> None:
        obj: dict[str, Any] = {"s": None, "i": "3", "f": "x", "b": 1, "c": {}, "t": 5}
        assert custom_cells(obj) == ["n", "<nil>", None, None, None, None, None]

    @pytest.mark.parametrize(
        ("value", "text"),
        [(True, "true"), (2.0, "2"), (1.5, "1.5"), ([1, "a"], "[1 a]"), ({"b": 1, "a": [2]}, "map[a:[2] b:1]")],
    )
    def test_text_columns_show_anything(self, value: Any, text: str) -> None:
        assert custom_cells({"s": value})[1] == text

    def test_malformed_dates(self) -> None:
        assert custom_cells({"t": "yesterday"})[6] == "<invalid>"

    def test_whole_numbers_of_floats(self) -> None:
        assert custom_cells({"i": 2.7})[2] == 2

    def test_age_by_default(self) -> None:
        plain = replace(CUSTOM, printer_columns=())
        table = render_table(plain, [{"metadata": META}], "None", NOW)
        assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Age"]
        assert table["rows"][0]["cells"] == ["n", "5m"]


def test_what_rows_carry() -> None:
    obj = {"metadata": META, "data": {"a": "b"}}
    config_map = builtin("ConfigMap")
    assert render_table(config_map, [obj], "None", NOW)["rows"][0]["object"] is None
    assert render_table(config_map, [obj], "Object", NOW)["rows"][0]["object"] == obj
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": META}
    assert render_table(config_map, [obj], "Metadata", NOW)["rows"][0]["object"] == partial


def test_kinds_without_columns_of_their_own() -> None:
    crd = "CustomResourceDefinition"
    assert row(crd, "apiextensions.k8s.io") == {"Name": "n", "Created At": "2026-11-22T11:55:00Z"}


class TestBuiltinKinds:
    def test_a_waiting_pod(self) -> None:
        spec = {"containers": [{"name": "a"}, {"name": "b"}]}
        cells = row("Pod", spec=spec, status={"phase": "Pending"})
        assert (cells["Ready"], cells["Status"], cells["Restarts"], cells["Age"]) == ("0/2", "Pending", "0", "5m")
        assert (cells["IP"], cells["Node"], cells["Readiness Gates"]) == ("<none>", "<none>", "<none>")

    def test_a_running_pod(self) -> None:
        restarted = {"lastState": {"terminated": {"finishedAt": "2026-11-22T11:00:00Z"}}, "restartCount": 2}
        status = {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "gate", "status": "True"}],
            "containerStatuses": [{"name": "a", "ready": True, "state": {"running": {}}, **restarted}],
        }
        spec = {"containers": [{"name": "a"}], "nodeName": "node", "readinessGates": [{"conditionType": "gate"}]}
        cells = row("Pod", spec=spec, status=status)
        assert (cells["Ready"], cells["Status"], cells["Restarts"]) == ("1/1", "Running", "2 (60m ago)")
        assert (cells["IP"], cells["Node"], cells["Readiness Gates"]) == ("10.0.0.1", "node", "1/1")

    @pytest.mark.parametrize(
        ("status", "word"),
        [
            ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
            (
                {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]},
                "ErrImagePull",
            ),
            (
                {"phase": "Running", "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]},
                "OOMKilled",
            ),
            ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
            ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, "Signal:9"),
            ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {}}]}, "Init:0/1"),
            (
                {
                    "phase": "Pending",
                    "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "Boom"}}}],
                },
                "Init:Boom",
            ),
            (
                {
                    "phase": "Pending",
                    "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1}}}],
                },
                "Init:ExitCode:1",
            ),
            ({}, "Unknown"),
        ],
    )
    def test_the_word_for_a_pod(self, status: Object, word: str) -> None:
        assert row("Pod", spec={"initContainers": [{"name": "i"}]}, status=status)["Status"] == word

    def test_a_pod_that_goes(self) -> None:
        cells = row("Pod", metadata={**META, "deletionTimestamp": "2026-11-22T11:59:00Z"}, status={"phase": "Running"})
        assert cells["Status"] == "Terminating"

    def test_a_completed_pod_has_a_condition(self) -> None:
        table = render_table(builtin("Pod"), [{"metadata": META, "status": {"phase": "Succeeded"}}], "None", NOW)
        assert table["rows"][0]["conditions"][0]["reason"] == "Succeeded"

    def test_a_node(self) -> None:
        labels = {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/gpu": "", "kubernetes.io/role": "edge"}
        status = {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0"},
        }
        cells = row("Node", metadata={**META, "labels": labels}, spec={"unschedulable": True}, status=status)
        assert cells["Status"] == "Ready,SchedulingDisabled"
        assert (cells["Roles"], cells["Version"]) == ("edge,gpu,worker", "v1.36.0")
        assert (cells["Internal-IP"], cells["External-IP"], cells["OS-Image"]) == ("10.0.0.2", "<none>", "<unknown>")
        assert row("Node")["Status"] == "Unknown"

    def test_services(self) -> None:
        ports = [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]
        cells = row(
            "Service", spec={"type": "NodePort", "clusterIP": "10.96.0.1", "ports": ports, "selector": {"a": "b"}}
        )
        assert (cells["Cluster-IP"], cells["Port(s)"], cells["Selector"]) == ("10.96.0.1", "80/TCP,53:30053/UDP", "a=b")
        assert row("Service", spec={"type": "LoadBalancer"})["External-IP"] == "<pending>"
        assert row("Service", spec={"type": "ExternalName", "externalName": "x.y"})["External-IP"] == "x.y"

    def test_workloads(self) -> None:
        template = {"spec": {"containers": [{"name": "c", "image": "i:1"}], "nodeSelector": {"gpu": "true"}}}
        selector = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "Exists"}]}
        cells = row("DaemonSet", "apps", spec={"template": template, "selector": selector}, status={"numberReady": 2})
        assert (cells["Ready"], cells["Node Selector"], cells["Containers"], cells["Images"]) == (
            2,
            "gpu=true",
            "c",
            "i:1",
        )
        assert cells["Selector"] == "a=b,k"
        cells = row("Deployment", "apps", spec={"replicas": 3}, status={"readyReplicas": 1})
        assert (cells["Ready"], cells["Up-to-date"]) == ("1/3", 0)

    def test_events_of_both_groups(self) -> None:
        core: dict[str, Any] = {
            "type": "Normal",
            "reason": "Made",
            "message": "made it \n",
            "count": 4,
            "involvedObject": {"kind": "Pod", "name": "p"},
            "firstTimestamp": "2026-11-22T11:00:00Z",
            "lastTimestamp": "2026-11-22T11:59:00Z",
            "source": {"component": "me", "host": "here"},
        }
        cells = row("Event", **core)
        assert (cells["Last Seen"], cells["First Seen"], cells["Count"]) == ("60s", "60m", 4)
        assert (cells["Object"], cells["Message"], cells["Source"]) == ("pod/p", "made it", "me, here")
        new: dict[str, Any] = {
            "eventTime": "2026-11-22T11:59:30.000000Z",
            "note": "n",
            "regarding": {"kind": "Node", "name": "x"},
            "reportingController": "c",
        }
        cells = row("Event", "events.k8s.io", **new)
        assert (cells["Last Seen"], cells["Object"], cells["Message"], cells["Count"]) == ("30s", "node/x", "n", 1)

    def test_endpoints(self) -> None:
        addresses = [{"ip": f"10.0.0.{number}"} for number in range(1, 6)]
        subsets = [{"addresses": addresses, "ports": [{"port": 80}]}]
        shown = "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
        assert row("Endpoints", subsets=subsets)["Endpoints"] == shown
        cells = row("EndpointSlice", "discovery.k8s.io", addressType="IPv4", ports=[{"port": 9090}])
        assert (cells["Ports"], cells["Endpoints"]) == ("9090", "<unset>")

    def test_small_kinds(self) -> None:
        assert row("Lease", "coordination.k8s.io", spec={"holderIdentity": "me"})["Holder"] == "me"
        assert row("ConfigMap", data={"a": ""}, binaryData={"b": ""})["Data"] == 2
        assert row("Secret", type="Opaque", data={"a": ""}) == {"Name": "n", "Type": "Opaque", "Data": 1, "Age": "5m"}
        assert row("Namespace", status={"phase": "Active"})["Status"] == "Active"
        binding = row(
            "RoleBinding",
            "rbac.authorization.k8s.io",
            roleRef={"kind": "Role", "name": "r"},
            subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "d"}],
        )
        assert (binding["Role"], binding["Users"], binding["ServiceAccounts"]) == ("Role/r", "u", "d/s")
        claim = row("PersistentVolumeClaim", spec={"volumeName": "v"}, status={"accessModes": ["ReadWriteMany"]})
        assert (claim["Access Modes"], claim["VolumeMode"]) == ("RWX", "<unset>")
        policy = row("ValidatingAdmissionPolicy", "admissionregistration.k8s.io", spec={"validations": [{}]})
        assert (policy["Validations"], policy["ParamKind"]) == (1, "<unset>")


@pytest.mark.parametrize(("group", "kind"), sorted(BUILTIN_TABLES))
@given(
    st.dictionaries(
        st.sampled_from(["spec", "status", "data", "subsets", "subjects"]), st.none() | st.just({}) | st.just([])
    )
)
def test_no_object_is_too_poor_for_a_row(group: str, kind: str, fields: Object) -> None:
    resource = builtin(kind, group)
    table = render_table(resource, [{"metadata": {}, **fields}], "None", NOW)
    assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
