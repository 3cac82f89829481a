"""Reading pods: what is kept of them, and which directories of the host they see."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.expansion import expanded
from controller.pods import Container, Mount, host_path, read_pod

POD: dict[str, Any] = {
    "metadata": {
        "name": "web-0",
        "namespace": "team-a",
        "uid": "u1",
        "creationTimestamp": "2026-01-02T03:04:00Z",
        "labels": {"app": "web", "nvidia.com/dynamo-base-model-hash": "0a1b2c3d"},
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "x" * 100_000,
            "modelcache.nvidia.com/uses": "llama",
            "evilnvidia.com/x": "no",
        },
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    },
    "spec": {
        "nodeName": "node-1",
        "volumes": [
            {"name": "models", "hostPath": {"path": "/var/lib/dynamo-models/models/team-a/", "type": "Directory"}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "initContainers": [
            {"name": "warm", "volumeMounts": [{"name": "models", "mountPath": "/m", "subPath": "qwen"}]},
        ],
        "containers": [
            {
                "name": "main",
                "image": "engine",
                "ports": [{"name": "system", "containerPort": 9090}, {"containerPort": 8000}],
                "volumeMounts": [
                    {"name": "models", "mountPath": "/models", "readOnly": True},
                    {"name": "tmp", "mountPath": "/models/tmp"},
                ],
            }
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "startTime": "2026-01-02T03:04:05Z",
        "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {
                "name": "main",
                "restartCount": 2,
                "containerID": "containerd://abc",
                "state": {"running": {"startedAt": "2026-01-02T03:05:00Z"}},
            }
        ],
    },
}


def test_what_is_kept_of_a_pod() -> None:
    pod = read_pod(json.dumps(POD).encode())
    assert (pod.namespace, pod.name, pod.uid, pod.node, pod.ip) == ("team-a", "web-0", "u1", "node-1", "10.0.0.7")
    assert pod.since == 1767323045.0
    assert pod.ready
    assert pod.active
    assert not pod.deleting
    assert pod.restarts == 2
    assert pod.labels == {"nvidia.com/dynamo-base-model-hash": "0a1b2c3d"}
    assert pod.annotations == {"modelcache.nvidia.com/uses": "llama"}
    models = "/var/lib/dynamo-models/models/team-a"
    assert pod.containers == (
        Container(
            "main",
            mounts=(Mount(models, "/models"), Mount("", "/models/tmp")),
            ports=(("system", 9090), ("", 8000)),
            restarts=2,
            start="containerd://abc 2026-01-02T03:05:00Z",
        ),
    )
    assert pod.extra_mounts == (Mount(f"{models}/qwen", "/m"),)


def test_a_pod_of_which_little_is_known_yet() -> None:
    pod = read_pod(b'{"metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-01-02T03:04:00Z"}}')
    assert pod.since == 1767323040.0
    assert not pod.active
    assert (pod.containers, pod.mounts, pod.ready) == ((), (), False)


def test_a_container_that_does_not_run_has_no_start() -> None:
    status = {"containerStatuses": [{"name": "main", "containerID": "c", "state": {"waiting": {"reason": "Back"}}}]}
    assert read_pod(json.dumps({**POD, "status": status}).encode()).containers[0].start == ""


@pytest.mark.parametrize(
    ("phase", "active"), [("Pending", True), ("Running", True), ("Succeeded", False), ("Failed", False)]
)
def test_a_pod_that_has_ended_uses_nothing(phase: str, active: bool) -> None:
    assert read_pod(json.dumps({**POD, "status": {"phase": phase}}).encode()).active is active


def test_a_pod_of_other_types_is_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        read_pod(b'{"metadata": {"name": 1}}')


@pytest.mark.parametrize(
    ("volume", "sub_path", "expected"),
    [
        ("/a/b", "", "/a/b"),
        ("//a//b/./", "", "/a/b"),
        ("/a", "models/x", "/a/models/x"),
        ("/a", "../etc", "/a"),
        ("/a", "/etc", "/a"),
        ("/a/../etc", "", ""),
        ("a", "", ""),
        ("", "", ""),
        ("/", "", "/"),
    ],
)
def test_which_directory_of_the_host_a_mount_shows(volume: str, sub_path: str, expected: str) -> None:
    assert host_path(volume, sub_path) == expected


def mounted(expression: str, env: list[object]) -> Mount:
    """The mount of `/a` with this expression, in a pod `p` of namespace `ns`."""
    container = {
        "name": "main",
        "env": env,
        "volumeMounts": [{"name": "v", "mountPath": "/m", "subPathExpr": expression}],
    }
    pod = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"team/x": "red"}},
        "spec": {"nodeName": "n", "volumes": [{"name": "v", "hostPath": {"path": "/a"}}], "containers": [container]},
    }
    (mount,) = read_pod(json.dumps(pod).encode()).containers[0].mounts
    return mount


def downward(name: str, path: str) -> object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("models/x", Mount("/a/models/x", "/m")),
        ("models/$(NS)", Mount("/a/models/ns", "/m")),
        ("$(POD)/$(NODE)", Mount("/a/p/n", "/m")),
        ("models/$(TEAM)", Mount("/a/models/red", "/m")),
        ("models/$(NO_TEAM)x", Mount("/a/models/x", "/m")),
        ("$(BOTH)", Mount("/a/models/ns", "/m")),
        ("models/$$(NS)", Mount("/a/models/$(NS)", "/m")),
        ("models/$NS", Mount("/a/models/$NS", "/m")),
        ("$(UP)", Mount("/a", "/m")),
        # What comes from elsewhere, or is not there at all, cannot be told.
        ("models/$(SECRET)/x", Mount("/a/models", "/m", exact=False)),
        ("models/x$(NOTHING)", Mount("/a/models", "/m", exact=False)),
        ("$(BEHIND)", Mount("/a", "/m", exact=False)),
        ("$(IP)", Mount("/a", "/m", exact=False)),
    ],
)
def test_an_expression_is_read_as_the_kubelet_reads_it(expression: str, expected: Mount) -> None:
    env = [
        downward("NS", "metadata.namespace"),
        downward("POD", "metadata.name"),
        downward("NODE", "spec.nodeName"),
        downward("TEAM", "metadata.labels['team/x']"),
        downward("NO_TEAM", "metadata.annotations['none']"),
        downward("IP", "status.podIP"),
        {"name": "BOTH", "value": "models/$(NS)"},
        {"name": "UP", "value": "../$(NS)"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "BEHIND", "value": "$(SECRET)"},
    ]
    assert mounted(expression, env) == expected


@given(volume=st.text("/.a$(", max_size=12), below=st.text("/.a$(", max_size=12))
def test_a_mount_never_leads_out_of_its_volume(volume: str, below: str) -> None:
    path = host_path(volume, below)
    top = host_path(volume)
    assert path == top or (top != "" and path.startswith(top.rstrip("/") + "/"))
    assert ".." not in path.split("/")


@given(
    text=st.text("$()A/.", max_size=12),
    values=st.dictionaries(st.sampled_from(["A", "", "AA"]), st.none() | st.text("$(A)./")),
)
def test_an_expression_without_references_stays_as_it_is(text: str, values: dict[str, str | None]) -> None:
    found = expanded(text, values)
    if "$" not in text:
        assert found == text
    assert found is not None or "$(" in text
