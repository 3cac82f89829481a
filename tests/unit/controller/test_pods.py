"""Reading pods: what is kept of them, and which directories of the host they see."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ("volume", "sub_path", "expression", "expected"),
    [
        ("/a/b", "", "", "/a/b"),
        ("//a//b/./", "", "", "/a/b"),
        ("/a", "models/x", "", "/a/models/x"),
        ("/a", "", "models/$(NAME)/x", "/a/models"),
        ("/a", "", "models/x$(NAME)", "/a/models"),
        ("/a", "", "$(NAME)", "/a"),
        ("/a", "", "models/x", "/a/models/x"),
        ("/a", "../etc", "", "/a"),
        ("/a", "/etc", "", "/a"),
        ("/a/../etc", "", "", ""),
        ("a", "", "", ""),
        ("", "", "", ""),
        ("/", "", "", "/"),
    ],
)
def test_which_directory_of_the_host_a_mount_shows(volume: str, sub_path: str, expression: str, expected: str) -> None:
    assert host_path(volume, sub_path, expression) == expected


@given(volume=st.text("/.a$(", max_size=12), below=st.text("/.a$(", max_size=12), expression=st.booleans())
def test_a_mount_never_leads_out_of_its_volume(volume: str, below: str, expression: bool) -> None:
    path = host_path(volume, "" if expression else below, below if expression else "")
    top = host_path(volume)
    assert path == top or (top != "" and path.startswith(top.rstrip("/") + "/"))
    assert ".." not in path.split("/")
