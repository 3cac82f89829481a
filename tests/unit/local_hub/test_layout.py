"""Repositories from directories."""

import json
from pathlib import Path

import pytest

from local.hub.layout import load


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for directory, content in {"org/name": "main", "org/name@v1": "one", "org/other": "other"}.items():
        (tmp_path / "root" / directory).mkdir(parents=True)
        (tmp_path / "root" / directory / "a.txt").write_text(content)
    return tmp_path / "root"


def test_a_root_of_organizations(root: Path) -> None:
    settings = {"gated": "auto", "tokens": ["hf_x"], "tags": {"v1.0": "v1"}, "files": {"../../etc/passwd": "x"}}
    (root / "org/name.hub.json").write_text(json.dumps(settings))
    name, other = load([str(root)])
    assert (name.name, other.name) == ("org/name", "org/other")
    assert name.gated == "auto"
    assert name.tokens == {"hf_x"}
    main, tagged, branch = name.find("main"), name.find("v1.0"), name.find("v1")
    assert main is not None
    assert set(main.files) == {"a.txt", "../../etc/passwd"}
    assert tagged is branch is not None
    assert other.gated is False


def test_single_repositories(root: Path) -> None:
    (repository,) = load([f"x/y={root / 'org/name'}", f"x/y@next={root / 'org/other'}"])
    assert repository.name == "x/y"
    assert set(repository.refs()[0]) == {"main", "next"}


def test_settings_alone_make_an_empty_repository(root: Path) -> None:
    (root / "org/empty.hub.json").write_text("{}")
    empty = load([str(root)])[0]
    commit = empty.find("main")
    assert commit is not None
    assert dict(commit.files) == {}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "name.hub.json"),
        ('{"typo": 1}', "typo"),
        ('{"gated": "maybe"}', "gated"),
        ('{"tags": {"v": "nope"}}', "nope"),
    ],
)
def test_wrong_settings_are_named(root: Path, settings: str, says: str) -> None:
    (root / "org/name.hub.json").write_text(settings)
    with pytest.raises(ValueError, match=says):
        load([str(root)])


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        load([str(root / "nowhere")])
    with pytest.raises(ValueError, match="nowhere"):
        load([f"a/b={root / 'nowhere'}"])
    with pytest.raises(ValueError, match="twice"):
        load([str(root), f"org/name={root / 'org/other'}"])
    with pytest.raises(ValueError, match="organization/name"):
        load([f"name={root / 'org/other'}"])
