"""Every way in which a published model can be changed behind the agent's back: noticed, and mended."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from agent.store import BlobMissing, NewBlob, NotPublished, ProblemKind, Store
from tests.support.caching import OLD, add_blob, digest, publish

FILES = {"config.json": b"{}", "weights/part": bytes(range(250)) * 10, "empty": b""}
KEY = ("team", "model", OLD)


@pytest.fixture(autouse=True)
def model(store: Store) -> None:
    publish(store, "model", FILES)
    assert store.quick_check(*KEY) == []


def published(store: Store, path: str) -> Path:
    return store.paths.snapshot(*KEY) / path


def in_hub(store: Store, path: str) -> Path:
    return store.paths.hub_cache("team") / "models--acme--model" / "snapshots" / OLD / path


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"")


def to_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


CHANGES: dict[str, tuple[Callable[[Path], None], ProblemKind]] = {
    "removed": (Path.unlink, ProblemKind.MISSING),
    "truncated": (lambda path: overwrite(path, b"x"), ProblemKind.CHANGED),
    "rewritten with the same size": (lambda path: overwrite(path, b"!" * 2500), ProblemKind.CHANGED),
    "replaced by the same bytes": (lambda path: replace(path, FILES["weights/part"]), ProblemKind.CHANGED),
    "touched": (lambda path: os.utime(path, (1, 1)), ProblemKind.CHANGED),
    "a directory": (to_directory, ProblemKind.NOT_A_FILE),
    "a symlink": (to_symlink, ProblemKind.NOT_A_FILE),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", [published, in_hub])
def test_a_changed_file_is_noticed_and_mended(store: Store, change: str, where: Callable[[Store, str], Path]) -> None:
    act, kind = CHANGES[change]
    path = where(store, "weights/part")
    act(path)
    problems = store.quick_check(*KEY)
    assert (path, kind) in {(problem.path, problem.kind) for problem in problems}
    assert all(problem.sha256 in ("", digest(FILES["weights/part"])) for problem in problems)

    # What the agent does: read, drop what is bad, fetch it again, put it in place.
    for problem in store.deep_check(*KEY):
        if problem.kind is ProblemKind.DAMAGED and problem.path == store.paths.blob(problem.sha256):
            store.drop_blob(problem.sha256)
            with pytest.raises(BlobMissing):
                store.restore(*KEY)
            add_blob(store, FILES["weights/part"])
    store.restore(*KEY)
    assert store.quick_check(*KEY) == []
    assert store.deep_check(*KEY) == []
    for place in (published, in_hub):
        assert place(store, "weights/part").read_bytes() == FILES["weights/part"]
        assert not place(store, "weights/part").is_symlink()


@pytest.mark.parametrize("whole", ["models/team/model", f"models/team/model/{OLD}", "hub/team", "models"])
def test_whole_directories_that_are_gone_come_back(store: Store, whole: str) -> None:
    shutil.rmtree(store.paths.root / whole)
    problems = store.quick_check(*KEY)
    assert {problem.kind for problem in problems if problem.path.name != "current"} == {ProblemKind.MISSING}
    store.restore(*KEY)
    assert store.quick_check(*KEY) == []
    assert in_hub(store, "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "change",
    [Path.unlink, lambda link: (link.unlink(), link.symlink_to("/etc")), lambda link: (link.unlink(), link.mkdir())],
)
def test_a_current_that_was_changed_is_put_back(store: Store, change: Callable[[Path], object]) -> None:
    link = store.paths.current("team", "model")
    change(link)
    (problem,) = store.quick_check(*KEY)
    assert problem.path == link
    assert store.restore(*KEY) == [link]
    assert os.readlink(link) == OLD
    assert store.quick_check(*KEY) == []
    assert Path("/etc").is_dir()


@pytest.mark.parametrize("name", ["evil.py", "weights/more", "link"])
def test_a_file_that_does_not_belong_is_noticed_and_removed(store: Store, name: str) -> None:
    path = published(store, name)
    if name == "link":
        path.symlink_to("/etc")
    else:
        path.write_bytes(b"import os")
    for check in (store.quick_check, store.deep_check):
        assert [(problem.path, problem.kind) for problem in check(*KEY)] == [(path, ProblemKind.UNEXPECTED)]
    store.restore(*KEY)
    assert store.quick_check(*KEY) == []
    assert Path("/etc").is_dir()


def test_a_flipped_bit_that_changes_nothing_else_is_found_by_reading(store: Store) -> None:
    path = published(store, "weights/part")
    found = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1234)
        file.write(b"\xff")
    path.chmod(0o444)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert store.quick_check(*KEY) == []
    problems = store.deep_check(*KEY)
    assert {problem.kind for problem in problems} == {ProblemKind.DAMAGED}
    # The published file, its blob and the file in the hub view are one inode.
    assert {problem.path for problem in problems} == {
        path,
        in_hub(store, "weights/part"),
        store.paths.blob(digest(FILES["weights/part"])),
    }
    assert digest(path.read_bytes()) in problems[0].detail
    assert digest(FILES["weights/part"]) in problems[0].detail


def test_bad_pieces_are_named_where_their_digests_are_known(store: Store) -> None:
    store.remove_model("team", "model")
    store.collect_garbage()
    data = bytes(range(250)) * 10
    path = store.paths.partial / "data"
    path.write_bytes(data)
    digests = b"".join(xxhash.xxh3_128_digest(data[start : start + 1000]) for start in range(0, 2500, 1000))
    store.commit_blobs([NewBlob(path, digest(data), len(data), piece_bytes=1000, piece_digests=digests)])
    publish(store, "model", {"weights/part": data})
    overwrite(published(store, "weights/part"), data[:2100] + b"?" + data[2101:])
    assert {problem.bad_pieces for problem in store.deep_check(*KEY)} == {(2,)}
    overwrite(published(store, "weights/part"), b"?" + data[1:2400])
    assert {problem.bad_pieces for problem in store.deep_check(*KEY)} == {(0, 2)}


def test_a_reader_keeps_the_file_that_it_has_open(store: Store) -> None:
    path = published(store, "config.json")
    replace(path, b"[]")
    with path.open("rb") as reader:
        store.restore(*KEY)
        assert reader.read() == b"[]"
    assert path.read_bytes() == b"{}"


def test_good_content_that_was_only_touched_is_taken_as_it_is(store: Store) -> None:
    os.utime(published(store, "config.json"), (5, 5))
    inode = published(store, "config.json").stat().st_ino
    assert store.quick_check(*KEY)
    assert store.deep_check(*KEY) == []
    assert store.quick_check(*KEY) == []
    assert published(store, "config.json").stat().st_ino == inode
    assert store.has_blob(digest(b"{}"))


def test_a_blob_that_somebody_deleted_is_linked_back(store: Store) -> None:
    blob = store.paths.blob(digest(FILES["weights/part"]))
    blob.unlink()
    assert store.deep_check(*KEY) == []
    assert blob.stat().st_ino == published(store, "weights/part").stat().st_ino
    store.restore(*KEY)


def test_every_inode_is_read_once_and_reading_can_be_stopped(store: Store) -> None:
    counts: list[int] = []
    assert store.deep_check(*KEY, counts.append) == []
    assert sum(counts) == sum(map(len, FILES.values()))

    class Stop(Exception):
        pass

    def stop(count: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        store.deep_check(*KEY, stop)


def test_a_check_of_nothing_is_an_error(store: Store) -> None:
    for check in (store.quick_check, store.deep_check, store.restore):
        with pytest.raises(NotPublished, match="no snapshot"):
            check("team", "model", "c" * 40)


def test_verified_at_says_when_everything_was_read(root: Path) -> None:
    now = [1000.0]
    store = Store.open(root.with_name("clocked"), clock=lambda: now[0])
    publish(store, "model", FILES)
    now[0] = 2000.0
    assert store.published()[0].verified_at == 1000.0
    store.deep_check(*KEY)
    assert store.published()[0].verified_at == 2000.0
    overwrite(published(store, "config.json"), b"xx")
    now[0] = 3000.0
    assert store.deep_check(*KEY)
    assert store.published()[0].verified_at == 2000.0
