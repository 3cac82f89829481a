"""Repositories: ids as git computes them, refs, and what is in LFS."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from local.hub import gitobjects
from local.hub.lfs import LfsRule, pointer, rule_from_gitattributes
from local.hub.repository import Repository, files_below


def git(directory: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "local.hub" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "local.hub@localhost" for who in ("AUTHOR", "COMMITTER")},
    }
    for who in ("AUTHOR", "COMMITTER"):
        environment[f"GIT_{who}_DATE"] = f"{gitobjects.FIRST_COMMIT_TIME} +0000"
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_ids_are_those_of_git(tmp_path: Path) -> None:
    files = {
        "README.md": b"# hi\n",
        "a/b.txt": b"1",
        "a.txt": b"2",
        "a/c/d.txt": b"",
        "a-b/x": b"3",
        "\u00e4/\U0001f917": b"4",
    }
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    repository = Repository("org/name", tmp_path, lfs_rule=LfsRule(patterns=()))
    commit = repository.find("main")
    assert commit is not None
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Update org/name")
    assert commit.id == git(tmp_path, "rev-parse", "HEAD")
    for path in ("a", "a/c", "a-b"):
        assert commit.directories[path] == git(tmp_path, "rev-parse", f"HEAD:{path}")
    for path in files:
        assert commit.files[path].blob_id == git(tmp_path, "rev-parse", f"HEAD:{path}")


def test_a_commit_is_named_by_its_content_and_its_history() -> None:
    one, same, other = (Repository("o/n", {"a": content}) for content in (b"1", b"1", b"2"))
    assert one.refs() == same.refs() != other.refs()
    first = one.find("main")
    again = one.commit({"a": b"1"})
    assert first is not None
    assert again != first.id


def test_branches_tags_and_commits_are_found() -> None:
    repository = Repository("o/n", {"a": b"1"}, revisions={"v2": {"a": b"2"}, "refs/pr/1": {"a": b"3"}})
    first = repository.find("main")
    assert first is not None
    repository.tag("v1", "main")
    second = repository.commit({"a": b"4"})
    for name in ("v1", "refs/tags/v1", first.id, first.id[:8]):
        assert repository.find(name) is first
    for name in ("main", "refs/heads/main", second):
        found = repository.find(name)
        assert found is not None
        assert found.id == second
        assert found.parent == first.id
    assert repository.find("refs/pr/1") is not None
    for name in ("", "v3", "0" * 40, first.id[:5], "refs/heads/v9"):
        assert repository.find(name) is None
    assert repository.move("main", "v2") == repository.find("v2").id  # type: ignore[union-attr]  # made above
    with pytest.raises(KeyError, match="v9"):
        repository.move("main", "v9")


def test_hostile_names_get_ids_too() -> None:
    files = {
        "../../etc/passwd": b"1",
        "/abs": b"2",
        "a": b"3",
        "a/b": b"4",
        "x\0y": b"5",
        "n\nl": b"6",
        "a//b": b"7",
        "A": b"8",
    }
    commit = Repository("o/n", dict(files)).find("main")
    assert commit is not None
    assert set(commit.files) == set(files)


def test_large_and_binary_files_are_in_lfs() -> None:
    content = b"\0" * 10
    commit = Repository(
        "o/n", {"m.safetensors": content, "empty.bin": b"", "big.txt": b"x" * 1_048_577, "a.txt": b"x"}
    ).find("main")
    assert commit is not None
    model = commit.files["m.safetensors"]
    assert model.sha256 == hashlib.sha256(content).hexdigest() == model.etag
    assert model.blob_id == gitobjects.blob_id(pointer(model.sha256, 10))
    assert model.pointer_size == len(pointer(model.sha256, 10))
    assert commit.files["big.txt"].sha256 is not None
    assert commit.files["empty.bin"].sha256 is None
    assert commit.files["a.txt"].etag == gitobjects.blob_id(b"x")


def test_gitattributes_decide() -> None:
    attributes = b"# comment\n*.txt filter=lfs diff=lfs -text\ndata/*.json filter=lfs\nkeep.txt -filter\n*.md text\n"
    files = {
        ".gitattributes": attributes,
        "a.txt": b"1",
        "x/a.txt": b"1",
        "m.safetensors": b"1",
        "data/a.json": b"1",
        "a.json": b"1",
    }
    commit = Repository("o/n", dict(files)).find("main")
    assert commit is not None
    assert {path for path, file in commit.files.items() if file.sha256} == {"a.txt", "x/a.txt", "data/a.json"}


def test_later_attributes_override_earlier_ones() -> None:
    rule = rule_from_gitattributes("*.bin filter=lfs\n*.bin !filter\n")
    assert not rule.applies("a.bin", 1)


def test_reads_a_directory_through_links_and_without_git(tmp_path: Path) -> None:
    (tmp_path / "repo/.git").mkdir(parents=True)
    (tmp_path / "repo/.git/HEAD").write_text("x")
    (tmp_path / "blob").write_text("content")
    (tmp_path / "repo/link").symlink_to(tmp_path / "blob")
    assert files_below(tmp_path / "repo") == {"link": tmp_path / "blob"}


def test_refuses_names_that_json_cannot_say(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(ValueError, match="UTF-8"):
        files_below(tmp_path)
