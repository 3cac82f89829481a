"""Giving the cache's directory to the agent, and refusing to give away anything else."""

import os
import stat
from pathlib import Path

import pytest

from agent.prepare import MODE, PrepareError, parse_owner, prepare

OWNER = (65532, 65532)


class Recorder:
    """Notes what root would do."""

    def __init__(self) -> None:
        self.owners: list[tuple[int, int]] = []
        self.attributes: list[tuple[str, bytes]] = []

    def chown(self, descriptor: int, uid: int, gid: int) -> None:
        os.fstat(descriptor)
        self.owners.append((uid, gid))

    def set_attribute(self, descriptor: int, name: str, value: bytes) -> None:
        os.fstat(descriptor)
        self.attributes.append((name, value))

    def prepare(self, root: Path, owner: tuple[int, int] = OWNER, label: str = "") -> bool:
        return prepare(root, owner, label, chown=self.chown, set_attribute=self.set_attribute)


@pytest.mark.parametrize("content", [[], ["lost+found"], ["state.sqlite3", "blobs"], ["agent.lock"]])
def test_an_empty_directory_or_a_cache_changes_its_owner(tmp_path: Path, content: list[str]) -> None:
    root, recorder = tmp_path / "cache", Recorder()
    root.mkdir(mode=0o700)
    for name in content:
        (root / name).touch()
    assert recorder.prepare(root)
    assert recorder.owners == [OWNER]
    assert stat.S_IMODE(root.stat().st_mode) == MODE


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    recorder = Recorder()
    assert recorder.prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_directory_with_other_things_is_not_given_away(tmp_path: Path) -> None:
    (tmp_path / "dpkg").mkdir()
    recorder = Recorder()
    with pytest.raises(PrepareError, match=r"'dpkg' for one.*cacheRoot"):
        recorder.prepare(tmp_path)
    assert recorder.owners == []


def test_what_belongs_to_the_agent_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "anything").mkdir()
    tmp_path.chmod(0o700)
    recorder = Recorder()
    assert not recorder.prepare(tmp_path, (os.getuid(), os.getgid()))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(PrepareError):
        Recorder().prepare(tmp_path / "link")


def test_the_label_is_set_also_when_the_owner_is_right(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.prepare(tmp_path, (os.getuid(), os.getgid()), "system_u:object_r:container_file_t:s0")
    assert recorder.attributes == [("security.selinux", b"system_u:object_r:container_file_t:s0\0")]


def test_what_root_may_not_do_is_said(tmp_path: Path) -> None:
    def refuse(descriptor: int, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(PrepareError, match="cannot be given to user 65532: Operation not permitted"):
        prepare(tmp_path, OWNER, chown=refuse)


@pytest.mark.parametrize("text", ["", "1", "a:b", "1:", "-1:2", "²:1"])
def test_an_owner_is_two_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="uid:gid"):
        parse_owner(text)


def test_an_owner_in_numbers() -> None:
    assert parse_owner("65532:100") == (65532, 100)
