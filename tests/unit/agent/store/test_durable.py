import errno
import os
from pathlib import Path

import pytest

from agent.store import durable


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, staging: Path) -> None:
    target = tmp_path / "file"
    for content in (b"first", b"second"):
        durable.write_file(target, content, staging, 0o640)
        assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(staging) == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_file(target, b"new", staging, 0o600)
    assert target.read_bytes() == b"old"
    assert os.listdir(staging) == []


def test_the_content_is_on_disk_before_the_name_is(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_rename, real_fsync = Path.rename, os.fsync

    def rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)

    def fsync(descriptor: int) -> None:
        order.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write_file(tmp_path / "file", b"x", staging, 0o600)
    assert order == ["file", "rename", "directory"]


def test_a_symlink_is_replaced_in_one_step(tmp_path: Path, staging: Path) -> None:
    link = tmp_path / "current"
    durable.replace_symlink(link, "one", staging)
    durable.replace_symlink(link, "two", staging)
    assert os.readlink(link) == "two"
    assert os.listdir(staging) == []


def test_a_reader_of_a_replaced_file_keeps_it(tmp_path: Path, staging: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.write_bytes(b"bad")
    good.write_bytes(b"good")
    with bad.open("rb") as reader:
        durable.place_link(good, bad, staging)
        assert reader.read() == b"bad"
    assert bad.read_bytes() == b"good"
    assert bad.stat().st_ino == good.stat().st_ino
    durable.place_link(good, bad, staging)  # a link to the same inode already
    assert os.listdir(staging) == []


def test_a_copy_is_made_when_no_link_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    source.chmod(0o444)
    os.utime(source, ns=(1, 123456789))

    def link(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", link)
    durable.link_or_copy(source, target)
    assert target.read_bytes() == b"content"
    assert target.stat().st_ino != source.stat().st_ino
    assert (target.stat().st_mode & 0o777, target.stat().st_mtime_ns) == (0o444, 123456789)


def test_a_tree_of_links(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(b"x")
    old = os.umask(0o077)
    try:
        durable.link_tree([("a", source), ("b/c", source), ("b/d/e", source)], tmp_path / "tree")
        durable.make_directories(tmp_path / "p" / "q", tmp_path, 0o755)
    finally:
        os.umask(old)
    assert sorted(str(p.relative_to(tmp_path / "tree")) for p in (tmp_path / "tree").rglob("*")) == [
        "a", "b", "b/c", "b/d", "b/d/e",
    ]  # fmt: skip
    for directory in ("tree", "tree/b", "tree/b/d", "p", "p/q"):  # whatever the umask
        assert (tmp_path / directory).stat().st_mode & 0o777 == 0o755


def test_removing_never_follows_symlinks(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_bytes(b"x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "keep")
    (tmp_path / "direct").symlink_to(tmp_path / "keep")
    for path in (tmp_path / "tree", tmp_path / "direct", tmp_path / "never there"):
        durable.remove_tree(path)
        assert not os.path.lexists(path)
    assert (tmp_path / "keep" / "file").exists()


def test_empty_parents_go_as_far_as_they_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "other").mkdir()
    durable.remove_empty_parents(tmp_path / "a" / "b" / "c", tmp_path)
    assert os.listdir(tmp_path / "a") == ["other"]
    durable.remove_empty_parents(tmp_path / "a" / "gone", tmp_path)
    assert os.listdir(tmp_path / "a") == ["other"]


def test_everything_is_synced_and_what_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "directory"]
    paths[0].write_bytes(b"a")
    paths[1].write_bytes(b"b")
    paths[2].mkdir()
    synced: set[str] = set()

    def spy(descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.add(name)

    monkeypatch.setattr(os, "fsync", spy)
    durable.sync_all(paths)
    assert synced == {"a", "b", "directory"}
    durable.sync_all([])
    (tmp_path / "broken").write_bytes(b"c")
    with pytest.raises(OSError, match="broken"):
        durable.sync_all([*paths, tmp_path / "broken"])
