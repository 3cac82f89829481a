"""Which models a pod uses, from its mounts and its annotation."""

from __future__ import annotations

import pytest

from controller.pods import Container, Mount, Pod
from controller.uses import Use, to_messages, uses_of
from modelcache.api.labels import USES_ANNOTATION

ROOT = "/var/lib/dynamo-models"
REVISION = "a" * 40


def pod(*paths: str, uses: str | None = None, phase: str = "Running", node: str = "n", uid: str = "u") -> Pod:
    mounts = tuple(Mount(path, f"/mnt/{number}") for number, path in enumerate(paths))
    annotations = {} if uses is None else {USES_ANNOTATION: uses}
    return Pod(
        "team", "web-0", uid, node, 1000.9, phase=phase, annotations=annotations, containers=(Container("c", mounts),)
    )


@pytest.mark.parametrize(
    ("path", "use"),
    [
        ("models/team", ("team", "", "")),
        ("models/team/llama", ("team", "llama", "")),
        ("models/team/llama/current", ("team", "llama", "")),
        ("models/team/llama/current/nested", ("team", "llama", "")),
        (f"models/team/llama/{REVISION}", ("team", "llama", REVISION)),
        (f"models/team/llama/{REVISION}/nested/x", ("team", "llama", REVISION)),
        ("models/other/llama", ("other", "llama", "")),
        ("hub/team", ("team", "", "")),
        ("hub/team/models--org--name/snapshots", ("team", "", "")),
        ("", None),
        ("models", None),
        ("hub", None),
        ("blobs/sha256", None),
        ("models/Not_A_Namespace/x", None),
        ("models/team/Not_A_Name", None),
    ],
)
def test_what_a_mount_uses(path: str, use: tuple[str, str, str] | None) -> None:
    expected = () if use is None else (Use(*use, "mount"),)
    assert uses_of(pod(f"{ROOT}/{path}".rstrip("/")), ROOT) == expected
    assert uses_of(pod(f"{ROOT}/{path}".rstrip("/")), ROOT + "/") == expected


@pytest.mark.parametrize("path", ["/", "/var/lib", "/var/lib/dynamo-models-2/models/team", "/other/models/team", ""])
def test_what_is_not_below_the_cache_uses_nothing(path: str) -> None:
    assert uses_of(pod(path), ROOT) == ()


def test_without_a_known_cache_directory_only_the_annotation_counts() -> None:
    assert uses_of(pod("/models/team/llama", uses="qwen"), "") == (Use("team", "qwen", "", "annotation"),)


def test_the_annotation_says_which_models_of_the_namespace_it_is() -> None:
    wide = f"{ROOT}/models/team"
    assert uses_of(pod(wide, uses="llama, qwen"), ROOT) == (
        Use("team", "llama", "", "annotation"),
        Use("team", "qwen", "", "annotation"),
    )
    assert uses_of(pod(wide, uses=""), ROOT) == ()
    assert uses_of(pod(wide, uses="../etc /x UPPER"), ROOT) == ()


def test_the_annotation_takes_nothing_away_from_a_mount_of_one_model() -> None:
    found = uses_of(pod(f"{ROOT}/models/team/llama", uses="qwen"), ROOT)
    assert {use.name for use in found} == {"llama", "qwen"}


def test_the_same_use_of_several_containers_is_one() -> None:
    assert len(uses_of(pod(f"{ROOT}/models/team/llama", f"{ROOT}/models/team/llama/current"), ROOT)) == 1


@pytest.mark.parametrize(("phase", "node"), [("Succeeded", "n"), ("Failed", "n"), ("Pending", "")])
def test_a_pod_that_runs_nowhere_uses_nothing(phase: str, node: str) -> None:
    assert uses_of(pod(f"{ROOT}/models/team", uses="llama", phase=phase, node=node), ROOT) == ()


def test_as_agents_get_it() -> None:
    one, two = pod(f"{ROOT}/models/team/b", uses="a", uid="1"), pod(f"{ROOT}/models/team", uid="2")
    messages = to_messages([two, one], ROOT)
    assert messages == to_messages([one, two], ROOT)
    assert [(m.pod_uid, m.model.name, m.kind, m.since.seconds) for m in messages] == [
        ("1", "a", "annotation", 1000),
        ("1", "b", "mount", 1000),
        ("2", "", "mount", 1000),
    ]
