"""What is done about damage: good content is found wherever it still is, and what is bad stays known as bad until it is not."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from agent.store import IndexLocked, NewBlob, ProblemKind, PublishConflict, Store
from agent.store import index as index_module
from tests.support.caching import NEW, OLD, add_blob, digest, manifest, publish

WEIGHTS = bytes(range(250)) * 10
FILES = {"config.json": b"{}", "weights/part": WEIGHTS}
KEY = ("team", "model", OLD)
PART = digest(WEIGHTS)


def flip(path: Path) -> None:
    """One bit of a file turns over, as on a bad disk: nothing else about it changes."""
    found = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1234)
        byte = file.read(1)
        file.seek(1234)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def separate(path: Path, data: bytes) -> None:
    """Breaks a hard link: another inode with this content takes its place."""
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)


def problems(store: Store) -> set[tuple[str, ProblemKind]]:
    return {(problem.path.name, problem.kind) for problem in store.quick_check(*KEY)}


@pytest.fixture
def model(store: Store) -> Path:
    """The published file of interest."""
    publish(store, "model", FILES)
    return store.paths.snapshot(*KEY) / "weights/part"


def test_a_good_published_file_takes_the_place_of_a_damaged_blob(store: Store, model: Path) -> None:
    blob = store.paths.blob(PART)
    separate(blob, b"!" * len(WEIGHTS))
    with blob.open("rb") as reader:
        assert store.verify_blob(PART)
        assert reader.read() == b"!" * len(WEIGHTS), "who has it open keeps what he has"
    assert blob.samefile(model)
    assert store.quick_check(*KEY) == []
    assert store.deep_check(*KEY) == []


def test_content_that_is_wrong_everywhere_is_not_believed_again(root: Path) -> None:
    with Store.open(root) as store:
        publish(store, "model", FILES)
        publish(store, "twin", FILES, repo="acme/twin")
        path = store.paths.snapshot(*KEY) / "weights/part"
        flip(path)
        assert problems(store) == set(), "nobody has read it"
        assert not store.verify_blob(PART)
        bad = path.read_bytes()
    with Store.open(root) as store:
        assert problems(store) == {("part", ProblemKind.UNPROVEN)}
        assert store.quick_check("team", "twin", OLD)
        assert path.read_bytes() == bad, "nothing vanishes under a reader"
        with path.open("rb") as reader:
            add_blob(store, WEIGHTS)
            assert problems(store) == {("part", ProblemKind.UNPROVEN)}, "the published file is still the bad one"
            assert store.restore(*KEY) == [path]
            assert reader.read() == bad
        assert path.read_bytes() == WEIGHTS
        assert problems(store) == set()
        assert store.quick_check("team", "twin", OLD), "each model is put right by itself"
        store.restore("team", "twin", OLD)
        for row in store.published():
            assert store.quick_check(*row.key) == store.deep_check(*row.key) == []


def test_what_is_left_of_dropped_content_is_offered_with_its_piece_digests(store: Store) -> None:
    partial = store.paths.partial / "data"
    partial.write_bytes(WEIGHTS)
    digests = b"".join(xxhash.xxh3_128_digest(WEIGHTS[start : start + 1000]) for start in range(0, 2500, 1000))
    store.commit_blobs([NewBlob(partial, PART, len(WEIGHTS), piece_bytes=1000, piece_digests=digests)])
    publish(store, "model", FILES)
    path = store.paths.snapshot(*KEY) / "weights/part"
    flip(path)
    assert not store.verify_blob(PART)
    assert store.remains(PART) == (path, 1000, digests)
    assert store.remains("0" * 64) is None
    store.remove_model("team", "model")
    assert store.remains(PART) is None
    store.collect_garbage()
    assert store.pieces(PART) is None


def test_a_deleted_blob_is_linked_back_without_reading(root: Path) -> None:
    def never(count: int) -> None:
        raise AssertionError("something was read")

    with Store.open(root) as store:
        publish(store, "model", FILES)
        blob, path = store.paths.blob(PART), store.paths.snapshot(*KEY) / "weights/part"
        assert store.relink(PART)
        blob.unlink()
        assert store.relink(PART)
        assert blob.samefile(path)
        separate(blob, WEIGHTS)
        assert not store.relink(PART), "another file: it has to be read"
        assert not store.relink("0" * 64)
        assert store.verify_blob(PART)
        store.restore(*KEY)
        blob.unlink()
    with Store.open(root) as store:
        assert store.report.relinked_blobs == 1
        assert not store.report.clean
        assert blob.samefile(path)
        assert store.quick_check(*KEY) == []
        blob.unlink()
        path.unlink()
        for view in store.paths.hub.rglob("part"):
            view.unlink()
    with Store.open(root) as store:
        assert (store.report.relinked_blobs, store.report.forgotten_blobs) == (0, 1)
        assert ("part", ProblemKind.UNPROVEN) in problems(store)


ALTERATIONS: dict[str, Callable[[Path], None]] = {
    "a file that nobody may read": lambda top: (top / "config.json").chmod(0),
    "a file that everybody may write": lambda top: (top / "config.json").chmod(0o666),
    "a directory that nobody may enter": lambda top: (top / "weights").chmod(0o700),
    "a model that nobody may enter": lambda top: top.parent.chmod(0o700),
    "a file of somebody else": lambda top: os.chown(top / "config.json", 12345, 12345),
    "a directory of somebody else": lambda top: os.chown(top / "weights", 12345, 12345),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_modes_and_owners_are_put_back(store: Store, model: Path, alteration: str) -> None:
    if "somebody" in alteration and os.geteuid() != 0:
        pytest.skip("needs the right to give files away")
    top = store.paths.snapshot(*KEY)
    ALTERATIONS[alteration](top)
    found = store.quick_check(*KEY)
    assert {problem.kind for problem in found} == {ProblemKind.CHANGED}
    for sha256 in {problem.sha256 for problem in found if problem.sha256}:
        assert store.verify_blob(sha256)
    store.restore(*KEY)
    assert store.quick_check(*KEY) == []
    assert (top / "config.json").stat().st_mode & 0o777 == 0o444
    assert {path.stat().st_uid for path in (top, top / "weights", top / "config.json")} == {os.geteuid()}


@pytest.fixture
def locked(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Somebody else holds the index from the call on, until he closes."""
    others: list[sqlite3.Connection] = []

    def lock() -> sqlite3.Connection:
        other = sqlite3.connect(store.paths.index, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        others.append(other)
        return other

    store._index._connection.execute("PRAGMA busy_timeout = 20")
    yield lock
    for other in others:
        other.close()


def test_what_a_locked_index_interrupted_goes_on_when_it_is_free(
    store: Store, locked: Callable[[], sqlite3.Connection]
) -> None:
    add_blob(store, FILES["config.json"])
    add_blob(store, WEIGHTS)
    other = locked()
    with pytest.raises(IndexLocked, match=r"another process .* holds it"):
        publish(store, "model", FILES)
    assert store.published() == []
    assert store.paths.snapshot(*KEY).is_dir(), "the directory came first"
    other.close()
    publish(store, "model", FILES)
    assert store.quick_check(*KEY) == store.deep_check(*KEY) == []

    other = locked()
    with pytest.raises(IndexLocked):
        store.remove_model("team", "model")
    assert not store.paths.snapshot(*KEY).exists()
    assert list(store.paths.staging.iterdir()) == [], "it takes no room while it waits"
    other.close()
    store.remove_model("team", "model")
    assert store.published() == []
    store.collect_garbage()
    assert [path for path in store.paths.blobs.rglob("*") if path.is_file()] == []
    assert list(store.paths.records.rglob("*.json")) == []


def test_a_directory_with_the_record_of_other_content_is_not_taken_for_ours(store: Store, model: Path) -> None:
    record = store.paths.record(*KEY)
    kept = record.read_bytes()
    store.remove_model("team", "model")
    model.parent.mkdir(parents=True)
    record.parent.mkdir(parents=True)
    record.write_bytes(kept)
    with pytest.raises(PublishConflict, match="not made by this agent"):
        store.publish("team", "model", manifest(FILES | {"config.json": b"[]"} if add_blob(store, b"[]") else {}))


def test_an_index_that_is_only_busy_at_start_is_not_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "BUSY_SECONDS", 0.02)
    with Store.open(root) as store:
        publish(store, "model", FILES)
        publish(store, "model", FILES, NEW)
    other = sqlite3.connect(root / "state.sqlite3", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(IndexLocked):
        Store.open(root)
    other.close()
    with Store.open(root) as store:
        assert store.report.clean
        assert len(store.published()) == 2
        assert all(row.verified_at is not None for row in store.published())


def test_damage_is_remembered_also_for_a_snapshot_that_nobody_has_read_as_a_whole(root: Path) -> None:
    """As after a crash between the publication of a directory and its row, or after the loss of the index."""
    with Store.open(root) as store:
        publish(store, "model", FILES)
    (root / "state.sqlite3").unlink()
    with Store.open(root) as store:
        assert store.published()[0].verified_at is None
        assert store.quick_check(*KEY) == []
        flip(store.paths.snapshot(*KEY) / "weights/part")
        assert not store.verify_blob(PART)
        assert problems(store) == {("part", ProblemKind.UNPROVEN)}
