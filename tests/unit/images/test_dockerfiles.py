"""The images without building them: their Dockerfiles, their context, and a wheel that comes out the same twice."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app
from tests.support.manifests import pod_templates, render
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[3]
SIDES = ["agent", "controller"]
KNOWN = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "LABEL", "USER", "ENTRYPOINT", "CMD"}


def instructions(side: str) -> list[tuple[str, str]]:
    """Instruction and arguments, comments dropped and continued lines joined, as the Dockerfile reference has them."""
    text = "\n".join(
        line for line in (ROOT / f"Dockerfile.{side}").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    joined = re.sub(r"\\\n", " ", text)
    parsed = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        parsed.append((word, rest.strip()))
    return parsed


def stages(side: str) -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(side):
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


@pytest.mark.parametrize("side", SIDES)
def test_instructions_are_known_and_there_is_no_healthcheck(side: str) -> None:
    assert {word for word, _ in instructions(side)} <= KNOWN


@pytest.mark.parametrize("side", SIDES)
def test_both_stages_come_from_the_base_that_is_an_argument(side: str) -> None:
    assert instructions(side)[0][0] == "ARG"
    assert instructions(side)[0][1].startswith("BASE_IMAGE=")
    build, final = stages(side)
    assert build[0] == ("FROM", "${BASE_IMAGE} AS build")
    assert final[0] == ("FROM", "${BASE_IMAGE}")


@pytest.mark.parametrize("side", SIDES)
def test_the_result_is_only_copied_and_runs_as_nobody(side: str) -> None:
    _, final = stages(side)
    words = [word for word, _ in final]
    assert "RUN" not in words
    assert [rest for word, rest in final if word == "COPY"] == ["--from=build /opt/modelcache /opt/modelcache"]
    assert ("USER", "65532:65532") in final
    assert words.index("USER") < words.index("ENTRYPOINT")
    pod = dict(pod_templates(render()))[f"modelcache-{side}"]["spec"]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (65532, 65532)


@pytest.mark.parametrize("side", SIDES)
def test_what_is_installed_comes_from_hashed_locks_or_from_here(side: str) -> None:
    build, _ = stages(side)
    commands = [command.strip() for word, rest in build if word == "RUN" for command in rest.split("&&")]
    installs = [command for command in commands if " install " in command]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps --no-index" in command
    assert not [command for command in commands if re.search(r"apt|apk|curl|wget|gcc", command)]
    assert any("PIP_ONLY_BINARY=:all:" in rest for word, rest in build if word == "ENV")


@pytest.mark.parametrize("side", SIDES)
def test_everything_that_is_copied_exists_and_is_in_the_context(side: str) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    build, _ = stages(side)
    copied = {source for word, rest in build if word == "COPY" for source in rest.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("side", SIDES)
def test_images_say_what_they_are(side: str) -> None:
    _, final = stages(side)
    (labels,) = [rest for word, rest in final if word == "LABEL"]
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("side", SIDES)
def test_manifests_give_commands_that_exist(side: str) -> None:
    _, final = stages(side)
    assert ("ENTRYPOINT", '["modelcache"]') in final
    assert json.loads(next(rest for word, rest in final if word == "CMD")) == [side]
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]  # a group: there are several commands
    pod = dict(pod_templates(render()))[f"modelcache-{side}"]["spec"]
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        assert container["args"][0] in commands


def test_one_commit_gives_one_wheel(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        out = tmp_path / name
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
            cwd=ROOT,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        (wheel,) = out.glob("*.whl")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
