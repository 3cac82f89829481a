"""A crash before every single change of the file system, in every operation of the store.

After each: the store opens, what is published is whole and right, the operation has happened or has not, nothing is
leaked, the hub view is what a store that was rebuilt from the disk alone would show, and the operation can be repeated.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.store import BlobMissing, ProblemKind, Store
from tests.support.caching import NEW, OLD, add_blob, digest, lasting, manifest, publish, tree
from tests.support.crashing import survives

FIRST = {"config.json": b"{}", "weights/part-1": b"1" * 100, "weights/part-2": b"2" * 100}
SECOND = FIRST | {"config.json": b"{2}", "extra": b"x"}
SHARED = {"config.json": b"{}", "other": b"o"}
CONTENTS = {("model", OLD): FIRST, ("model", NEW): SECOND, ("other", OLD): SHARED}


def with_two_models(root: Path) -> None:
    with Store.open(root) as store:
        publish(store, "model", FIRST)
        publish(store, "other", SHARED, ref="v1")


def with_two_snapshots(root: Path) -> None:
    with_two_models(root)
    with Store.open(root) as store:
        publish(store, "model", SECOND, NEW)


def with_damage(root: Path) -> None:
    with_two_models(root)
    damaged = root / "models/team/model" / OLD / "weights/part-1"
    damaged.chmod(0o644)
    damaged.write_bytes(b"?" * 100)


def publish_first(store: Store) -> None:
    publish(store, "model", FIRST)


def publish_second(store: Store) -> None:
    publish(store, "model", SECOND, NEW)


def publish_elsewhere(store: Store) -> None:
    publish(store, "model", FIRST, ref="stable")


def remove_snapshot(store: Store) -> None:
    store.remove_snapshot("team", "model", NEW)


def remove_model(store: Store) -> None:
    store.remove_model("team", "model")
    store.collect_garbage()


def repair(store: Store) -> None:
    for problem in store.deep_check("team", "model", OLD):
        if problem.kind is ProblemKind.DAMAGED and problem.path == store.paths.blob(problem.sha256):
            store.drop_blob(problem.sha256)
    for data in FIRST.values():
        if not store.has_blob(digest(data)) and not store.verify_blob(digest(data)):
            add_blob(store, data)
    store.restore("team", "model", OLD)


Action = Callable[[Store], None]
OPERATIONS: dict[str, tuple[Callable[[Path], None], Action]] = {
    "first publication": (lambda root: None, publish_first),
    "second publication": (with_two_models, publish_second),
    "another branch": (with_two_models, publish_elsewhere),
    "removing a snapshot": (with_two_snapshots, remove_snapshot),
    "removing a model": (with_two_snapshots, remove_model),
    "repair": (with_damage, repair),
}


def check(root: Path, *, damaged: bool = False) -> None:
    """Opens the store after a crash and looks at everything."""
    with Store.open(root) as store:
        assert store.report.strangers == []
        assert not store.report.rebuilt
        published = {(row.name, row.snapshot) for row in store.published()}
        on_disk = {
            (path.parent.name, path.name) for path in store.paths.models.glob("team/*/*") if not path.is_symlink()
        }
        assert published == on_disk
        for row in store.published():
            target = store.paths.snapshot(*row.key)
            found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
            if not damaged:
                assert found == CONTENTS[row.name, row.snapshot]
                assert store.quick_check(*row.key) == []
        for name in {name for name, _ in published}:
            link = store.paths.current("team", name)
            assert not link.is_symlink() or link.is_dir(), "current leads nowhere"
        assert list(store.paths.staging.iterdir()) == []
        if not damaged:
            store.collect_garbage()
            needed = {digest(data) for row in store.published() for data in CONTENTS[row.name, row.snapshot].values()}
            assert {path.name for path in store.paths.blobs.rglob("*") if path.is_file()} == needed
            assert len(list(store.paths.manifests.iterdir())) == len(published)
            assert len(list(store.paths.records.glob("*/*/*"))) == len(published)
        seen = tree(store.paths.hub), [lasting(row) for row in store.published()]
    if damaged:
        return

    # The index is only a copy: without it the same is known, and the hub view is the same.
    copy = root.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, symlinks=True)
    for index in copy.glob("state.sqlite3*"):
        index.unlink()
    with Store.open(copy) as store:
        assert seen == (tree(store.paths.hub), [lasting(row) for row in store.published()])


def in_store(root: Path, act: Action) -> Callable[[Callable[[], None]], None]:
    """An action for `survives` that counts what `act` changes in an open store."""

    def action(count: Callable[[], None]) -> None:
        with Store.open(root) as store:
            count()
            act(store)

    return action


def opening(root: Path) -> Callable[[Callable[[], None]], None]:
    """An action for `survives`: only opening the store."""

    def action(count: Callable[[], None]) -> None:
        count()
        Store.open(root).close()

    return action


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_before_every_change(root: Path, operation: str) -> None:
    prepare, act = OPERATIONS[operation]
    points = 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        prepare(root)
        finished = survives(in_store(root, act), points)
        check(root, damaged=operation == "repair" and not finished)
        with Store.open(root) as store:
            act(store)  # whatever was left undone can be done
            for row in store.published():
                assert store.deep_check(*row.key) == []
        if finished:
            break
        points += 1
    assert points > 5


def test_killed_while_the_root_is_made(root: Path) -> None:
    points = 0
    while not survives(opening(root), points):
        check(root)
        shutil.rmtree(root)
        points += 1
    assert points > 15


def test_killed_again_while_recovering(root: Path) -> None:
    """Recovery may be interrupted, too: at every change, in the state that a removal leaves after its first step."""
    points = 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        with_two_snapshots(root)
        assert not survives(in_store(root, lambda store: store.remove_model("team", "model")), 2)
        assert not (root / "models/team/model").exists()
        assert list((root / "staging").iterdir()) != []
        finished = survives(opening(root), points)
        check(root)
        if finished:
            break
        points += 1
    assert points > 5


def add_content(store: Store) -> None:
    add_blob(store, b"content")


def test_after_a_crash_of_a_commit_the_blob_is_read_before_it_is_used(root: Path) -> None:
    """Between the rename of a blob and its row: it is here, but nobody can prove that it was checked."""

    points = 0
    unproven = 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        Store.open(root).close()
        finished = survives(in_store(root, add_content), points)
        with Store.open(root) as store:
            if store.blob(digest(b"content")) is not None and not store.has_blob(digest(b"content")):
                unproven += 1
                with pytest.raises(BlobMissing):
                    store.publish("team", "model", manifest({"a": b"content"}))
                assert store.verify_blob(digest(b"content"))
                assert store.has_blob(digest(b"content"))
        if finished:
            break
        points += 1
    assert unproven >= 1
