"""What a pod sees through a PersistentVolumeClaim: claim and volume have to agree, and nothing in either is trusted."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.claims import Claim, Volume, directory_of, with_directories
from controller.pods import Mount, Pod, read_pod
from controller.uses import Use, uses_of
from controller.workers import to_messages, workers_among
from modelcache.api.labels import BASE_MODEL_HASH_LABEL

ROOT = "/var/lib/dynamo-models"
CACHE = f"{ROOT}/models/team-a"
REFERENCE = {"namespace": "team-a", "name": "cache", "uid": "u1"}


def claim(volume: str = "pv", uid: str = "u1") -> Claim:
    body = {"metadata": {"name": "cache", "namespace": "team-a", "uid": uid}, "spec": {"volumeName": volume}}
    return msgspec.json.decode(json.dumps(body), type=Claim)


def volume(*, reference: dict[str, str] | None = REFERENCE, **source: Any) -> Volume:
    spec = {"claimRef": reference, **(source or {"hostPath": {"path": CACHE, "type": "Directory"}})}
    return msgspec.json.decode(json.dumps({"metadata": {"name": "pv"}, "spec": spec}), type=Volume)


@pytest.mark.parametrize(
    ("of", "bound_to", "directory"),
    [
        (claim(), volume(), CACHE),
        (claim(), volume(local={"path": f"{CACHE}/"}), CACHE),
        (claim(), volume(reference={"namespace": "team-a", "name": "cache"}), CACHE),
        (claim(volume="another"), volume(), ""),
        (claim(volume=""), volume(), ""),
        (claim(uid="made anew"), volume(), ""),
        (claim(), volume(reference=None), ""),
        (claim(), volume(reference={**REFERENCE, "namespace": "team-b"}), ""),
        (claim(), volume(reference={**REFERENCE, "name": "another"}), ""),
        (claim(), volume(hostPath={"path": f"{CACHE}/../team-b"}), ""),
        (claim(), volume(hostPath={"path": "models"}), ""),
        (claim(), volume(local={}), ""),
        (claim(), volume(nfs={"server": "files", "path": CACHE}), ""),
        (claim(), volume(csi={"driver": "d", "volumeHandle": CACHE}), ""),
    ],
)
def test_the_directory_behind_a_claim(of: Claim, bound_to: Volume, directory: str) -> None:
    assert directory_of(of, bound_to) == directory


@given(path=st.text(), sub_path=st.text())
def test_no_volume_leads_out_of_its_directory(path: str, sub_path: str) -> None:
    directory = directory_of(claim(), volume(hostPath={"path": path}))
    assert directory == "" or (directory.startswith("/") and ".." not in directory.split("/"))
    (mount,) = with_directories(pod({"subPath": sub_path}), lambda name: CACHE).containers[0].mounts
    assert mount.host_path == CACHE or mount.host_path.startswith(f"{CACHE}/")


def pod(mount: dict[str, str], *, name: str = "cache") -> Pod:
    """A worker that mounts the claim `cache` of team-a at /models."""
    body = {
        "metadata": {
            "name": "worker-0", "namespace": "team-a", "uid": "w", "labels": {BASE_MODEL_HASH_LABEL: "0a1b2c3d"},
        },
        "spec": {
            "nodeName": "node-1",
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/models", **mount}]}],
            "initContainers": [{"name": "warm", "volumeMounts": [{"name": "v", "mountPath": "/w", **mount}]}],
        },
    }  # fmt: skip
    return read_pod(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("mount", "seen"),
    [
        ({}, CACHE),
        ({"subPath": "my-lora/"}, f"{CACHE}/my-lora"),
        ({"subPath": "../team-b"}, CACHE),
        ({"subPathExpr": "$(NOBODY_KNOWS)"}, CACHE),
    ],
)
def test_sub_paths_count_from_the_directory_of_the_volume(mount: dict[str, str], seen: str) -> None:
    found = with_directories(pod(mount), {"cache": CACHE}.get)  # type: ignore[arg-type]  # asked for this name alone
    assert [each.host_path for each in found.mounts] == [seen, seen]
    (told,) = to_messages(workers_among([found]))
    exact = "subPathExpr" not in mount
    assert [(each.host_path, each.mount_path) for each in told.mounts] == [(seen if exact else "", "/models")]
    name = "my-lora" if seen != CACHE else ""
    assert uses_of(found, ROOT) == (Use("team-a", name, "", "mount"),)


def test_a_claim_of_which_nothing_is_known_shows_nothing_and_hides_what_is_below_it() -> None:
    found = with_directories(pod({}), lambda name: "")
    assert found.containers[0].mounts == (Mount("", "/models", claim="cache"),)
    assert uses_of(found, ROOT) == ()
    assert [each.host_path for each in to_messages(workers_among([found]))[0].mounts] == [""]
