"""The manifests as they would be applied: rendered by the real kubectl, read as plain objects."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.kubectl import binary
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"

Object = dict[str, Any]


@cache
def _rendered(directory: str) -> str:
    done = subprocess.run(
        [binary(), "kustomize", str(MANIFESTS / directory)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", f"kustomize warns about {directory or '.'}: {done.stderr}"
    return done.stdout


def render(directory: str = "") -> list[Object]:
    """The objects of `manifests/<directory>`."""
    return [each for each in yaml.safe_load_all(_rendered(directory)) if each]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind and name."""
    return next(each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)


def pod_templates(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and pod spec of everything that makes pods."""
    for each in objects:
        if each["kind"] in ("Deployment", "DaemonSet"):
            yield each["metadata"]["name"], each["spec"]["template"]


def kustomizations() -> list[str]:
    """Every directory that can be applied by itself, relative to `manifests`; components cannot."""
    found = []
    for file in MANIFESTS.rglob("kustomization.yaml"):
        if yaml.safe_load(file.read_text())["kind"] == "Kustomization":
            found.append(file.parent.relative_to(MANIFESTS).as_posix())
    return sorted("" if name == "." else name for name in found)
