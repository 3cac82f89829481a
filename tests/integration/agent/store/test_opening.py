"""Opening a cache root: what is refused, what is rebuilt, and that an index that is lost costs nothing but a look."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.store import ProblemKind, Store, StoreLocked, StoreUnusable
from tests.support.caching import NEW, OLD, add_blob, digest, lasting, publish, tree
from tests.support.memory import memory_directory
from tests.support.waiting import PATIENCE

FILES = {"config.json": b"{}", "weights/part": bytes(range(250)) * 10}


@pytest.fixture
def filled(root: Path) -> Path:
    """A cache with two revisions of one model and one more model."""
    with Store.open(root) as store:
        publish(store, "model", FILES, ref="v1")
        publish(store, "model", FILES | {"config.json": b"{2}"}, NEW, ref="v1")
        publish(store, "other", {"x": b"x"}, repo="acme/other")
        add_blob(store, b"downloaded, not published")
    return root


def known(store: Store) -> object:
    return [lasting(row) for row in store.published()], tree(store.paths.root / "hub")


def test_a_second_agent_is_refused(root: Path) -> None:
    with Store.open(root):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}.*{root}"):
            Store.open(root)
        # Another process, too.
        code = f"from agent.store import Store; from pathlib import Path; Store.open(Path({str(root)!r}))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert "StoreLocked" in done.stderr
    Store.open(root).close()


def test_a_root_that_is_a_file_is_refused(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreUnusable, match="cannot be used"):
        Store.open(root)
    assert root.read_bytes() == b""


def test_something_else_in_place_of_a_directory_is_refused(root: Path) -> None:
    root.mkdir()
    (root / "models").write_bytes(b"precious")
    with pytest.raises(StoreUnusable, match="models: is not a directory; move away what lies there"):
        Store.open(root)
    (root / "models").unlink()
    (root / "models").symlink_to("/etc")
    with pytest.raises(StoreUnusable, match="move away what lies there"):
        Store.open(root)


@pytest.fixture
def mounted(root: Path) -> Iterator[Callable[[Path, str], None]]:
    """Mounts a tmpfs with options. Needs the right to mount."""
    done: list[Path] = []

    def mount(target: Path, options: str) -> None:
        target.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("needs the right to mount a tmpfs")
        done.append(target)

    yield mount
    for target in reversed(done):
        subprocess.run(["umount", str(target)], check=True)


def test_parts_on_different_file_systems_are_refused(root: Path, mounted: Callable[[Path, str], None]) -> None:
    mounted(root / "models", "size=1m")
    with pytest.raises(StoreUnusable, match=r"different file systems.*has to be on one"):
        Store.open(root)


def test_a_read_only_file_system_is_refused(root: Path, mounted: Callable[[Path, str], None]) -> None:
    mounted(root, "size=1m,ro")
    with pytest.raises(StoreUnusable, match="mount the file system of the cache root read-write"):
        Store.open(root)


def test_a_root_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs the right to become somebody else")
    with memory_directory(tmp_path) as directory:
        directory.chmod(0o755)
        root = directory / "cache"
        with Store.open(root) as store:
            publish(store, "model", FILES)
            before = known(store)
        os.seteuid(12345)
        try:
            with pytest.raises(StoreUnusable, match=f"{root} cannot be used.*give the agent's user write access"):
                Store.open(root)
        finally:
            os.seteuid(0)
        with Store.open(root) as store:
            assert store.report.clean
            assert known(store) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: index.unlink(),
        lambda index: index.write_bytes(b""),
        lambda index: index.write_bytes(b"not a database at all" * 1000),
        lambda index: index.write_bytes(index.read_bytes()[:5000]),
        lambda index: _execute(index, "PRAGMA user_version = 99"),
        lambda index: _execute(index, "DROP TABLE files"),
    ],
    ids=["missing", "empty", "garbage", "cut off", "of a newer version", "without a table"],
)
def test_the_index_is_rebuilt_from_the_disk_alone(filled: Path, damage: Callable[[Path], None]) -> None:
    with Store.open(filled) as store:
        before = known(store)
    damage(filled / "state.sqlite3")
    with Store.open(filled) as store:
        assert store.report.rebuilt
        assert store.report.reason
        assert not store.report.clean
        assert known(store) == before
        for row in store.published():
            assert store.quick_check(*row.key) == []
            assert row.verified_at is None
            assert store.deep_check(*row.key) == []
        assert store.collect_garbage().garbage.blobs == (digest(b"downloaded, not published"),)
        publish(store, "third", FILES, ref=None)
    with Store.open(filled) as store:
        assert store.report.clean


def _execute(index: Path, statement: str) -> None:
    connection = sqlite3.connect(index)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_pages_that_cannot_be_read_are_noticed_at_start(filled: Path) -> None:
    index = filled / "state.sqlite3"
    data = bytearray(index.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 100] = b"\xff" * 100
    index.write_bytes(data)
    with Store.open(filled) as store:
        assert store.report.rebuilt
        assert len(store.published()) == 3
    assert (filled / "state.sqlite3.damaged").exists()


def test_an_index_of_an_older_time_is_brought_up_to_date(filled: Path) -> None:
    """A backup of the database that was put back: the disk decides."""
    old = (filled / "state.sqlite3").read_bytes()
    with Store.open(filled) as store:
        store.remove_snapshot("team", "model", OLD)
        store.remove_model("team", "other")
        store.collect_garbage()
        publish(store, "newer", {"n": b"n"}, repo="acme/newer")
        now = known(store)
    (filled / "state.sqlite3").write_bytes(old)
    with Store.open(filled) as store:
        assert known(store) == now
        assert store.report.forgotten == [("team", "model", OLD), ("team", "other", OLD)]
        assert store.report.adopted == [("team", "newer", OLD)]
        assert store.report.forgotten_blobs == 3
        assert store.report.adopted_blobs == 1


def test_what_is_not_ours_is_reported_and_left_alone(filled: Path) -> None:
    foreign = [
        filled / "models/team/model/notes.txt",
        filled / "models/readme",
        filled / "models/team/mine/rev",
        filled / "blobs/sha256/ab/garbage",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
    foreign[2].mkdir()
    for path in (foreign[0], foreign[1], foreign[3]):
        path.write_bytes(b"")
    with Store.open(filled) as store:
        assert sorted(store.report.strangers) == sorted(foreign)
        store.collect_garbage()
        assert all(path.exists() for path in foreign)


def test_a_published_directory_whose_manifest_is_lost_is_published_again_without_a_download(filled: Path) -> None:
    for manifest in (filled / "manifests").iterdir():
        manifest.unlink()
    (filled / "state.sqlite3").unlink()
    with Store.open(filled) as store:
        assert [key for key, _ in store.report.removed] == [
            ("team", "model", OLD),
            ("team", "model", NEW),
            ("team", "other", OLD),
        ]
        assert store.published() == []
        assert list(store.paths.hub.iterdir()) == []
        for data in FILES.values():
            assert store.verify_blob(digest(data))
        publish(store, "model", FILES)
        assert store.quick_check("team", "model", OLD) == []


def test_lost_and_damaged_records_are_written_again(filled: Path) -> None:
    first, second = sorted((filled / "records/team/model").iterdir())
    first.unlink()
    second.write_bytes(b"{")
    Store.open(filled).close()
    (filled / "state.sqlite3").unlink()
    with Store.open(filled) as store:
        assert len(store.published()) == 3
        assert store.report.removed == []


def test_a_current_that_leads_nowhere_is_removed(filled: Path) -> None:
    link = filled / "models/team/model/current"
    link.unlink()
    link.symlink_to("../../../../etc")
    with Store.open(filled) as store:
        assert not link.is_symlink()
        assert [row.current for row in store.published() if row.name == "model"] == [False, False]
        store.set_current("team", "model", OLD)
        assert (link / "config.json").read_bytes() == b"{}"


def test_changes_while_no_agent_was_running_are_found_by_the_quick_check(filled: Path) -> None:
    (filled / "models/team/model" / OLD / "config.json").unlink()
    with Store.open(filled) as store:
        (problem,) = store.quick_check("team", "model", OLD)
        assert problem.kind is ProblemKind.MISSING
        store.restore("team", "model", OLD)
        assert store.quick_check("team", "model", OLD) == []


def test_partials_stay_until_somebody_says_otherwise(root: Path) -> None:
    with Store.open(root) as store:
        store.paths.partial_file("key").mkdir()
    with Store.open(root) as store:
        assert store.paths.partial_file("key").is_dir()
        store.collect_garbage()
        assert not store.paths.partial_file("key").exists()
