"""Reading everything again: what only reading can find, and that it is remembered."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.store import ProblemKind, Store
from agent.store.watching import Touched
from tests.support.caching import OLD, digest, publish

WEIGHTS = bytes(range(250)) * 10
FILES = {"config.json": b"{}", "weights/part": WEIGHTS}
KEY, TWIN = ("team", "model", OLD), ("team", "twin", OLD)
PART = digest(WEIGHTS)


def free(count: int) -> None:
    """Reading costs nothing."""


def flip(path: Path) -> None:
    found = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    path.chmod(0o444)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.fixture(autouse=True)
def models(store: Store) -> None:
    publish(store, "model", FILES)
    publish(store, "twin", FILES, repo="acme/twin")


def test_every_inode_is_read_once_and_sound_content_stays(store: Store) -> None:
    counts: list[int] = []
    for sha256 in store.patrol.schedule(0.0).due:
        assert store.patrol.scrub(sha256, counts.append) == []
    assert sum(counts) == len(WEIGHTS) + 2, "two models and two hub views share their files"
    assert store.quick_check(*KEY) == []


def test_a_flipped_bit_is_damage_to_everything_that_shares_the_file(root: Path) -> None:
    with Store.open(root.with_name("second")) as store:
        publish(store, "model", FILES)
        publish(store, "twin", FILES, repo="acme/twin")
        flip(store.paths.snapshot(*KEY) / "weights/part")
        assert store.patrol.look(KEY) == []
        assert store.patrol.scrub(PART, free) == [KEY, TWIN]
        assert [problem.kind for problem in store.patrol.look(TWIN)] == [ProblemKind.UNPROVEN]
    with Store.open(root.with_name("second")) as store:
        assert [problem.kind for problem in store.patrol.look(KEY)] == [ProblemKind.UNPROVEN], "also after a crash"
        assert store.patrol.scrub(digest(b"{}"), free) == []


def test_copies_are_read_as_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an inode has no link left to give, a published file is a file of its own."""

    def no_links(*arguments: object, **options: object) -> None:
        raise OSError(31, "too many links")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", no_links)
        publish(store, "copied", FILES, repo="acme/copied")
    key = ("team", "copied", OLD)
    place = store.paths.snapshot(*key) / "weights/part"
    view = store.paths.hub_repo("team", "acme/copied") / "snapshots" / OLD / "weights/part"
    assert len({place.stat().st_ino, view.stat().st_ino, store.paths.blob(PART).stat().st_ino}) == 3
    assert store.patrol.look(key) == []
    counts: list[int] = []
    assert store.patrol.scrub(PART, counts.append) == []
    assert sum(counts) == 3 * len(WEIGHTS)

    flip(place)
    assert store.patrol.scrub(PART, free) == [key]
    assert [problem.path for problem in store.patrol.look(key)] == [place]
    store.restore(*key)
    assert place.read_bytes() == WEIGHTS
    assert store.patrol.look(key) == []

    flip(view)
    assert store.patrol.scrub(PART, free) == [key]
    assert view.read_bytes() == WEIGHTS, "put right on the spot"
    assert store.patrol.scrub(PART, free) == []


def test_what_a_change_concerns(store: Store) -> None:
    publish(store, "else", {"x": b"x"}, namespace="other", repo="acme/else")
    concerned = store.patrol.concerned
    assert concerned(Touched(sha256=PART)) == [KEY, TWIN]
    assert concerned(Touched(namespace="team", name="twin")) == [TWIN]
    assert concerned(Touched(namespace="team", repo="models--acme--model")) == [KEY]
    assert concerned(Touched(namespace="team")) == [KEY, TWIN]
    assert concerned(Touched()) == [("other", "else", OLD), KEY, TWIN]
    assert concerned(Touched(sha256="0" * 64)) == []
    assert store.patrol.look(("team", "gone", OLD)) == []


@pytest.mark.parametrize(
    "change",
    [Path.unlink, lambda path: path.chmod(0o600), lambda path: os.utime(path, (1, 1))],
    ids=["deleted", "mode", "touched"],
)
def test_altered_blobs_are_seen_without_reading(store: Store, change: Callable[[Path], object]) -> None:
    assert store.patrol.altered_blobs() == []
    change(store.paths.blob(PART))
    assert store.patrol.altered_blobs() == [PART]
