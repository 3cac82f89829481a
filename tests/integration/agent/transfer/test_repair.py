"""A damaged file is mended from what is good in it: only bad pieces are asked for, and readers keep what they have open."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.store import HubClaim, Remains, Store
from agent.transfer.partial import PartialFile
from agent.transfer.seeding import seed
from modelcache.manifest import Manifest
from tests.support.fetching import PIECE, Fetching, content
from tests.support.origin import Request
from tests.support.waiting import PATIENCE

Make = Callable[..., Fetching]
SIZE = 6 * PIECE + 100


def published(engine: Fetching, data: bytes) -> tuple[Manifest, Path]:
    """A model with one large and one small file, fetched and published; the large file."""
    manifest = engine.serve(("weights", data), ("config.json", b"{}"))
    engine.fetch(manifest)
    engine.store.publish("team", "model", manifest, HubClaim(repo_id="org/model", commit=manifest.revision))
    engine.store.set_current("team", "model", manifest.snapshot)
    engine.origin.seen.clear()
    return manifest, engine.store.paths.snapshot("team", "model", manifest.snapshot) / "weights"


def damage(path: Path, change: Callable[[bytearray], object]) -> bytes:
    """Changes a published file in place, as a disk or a stray write does; what it contains then."""
    data = bytearray(path.read_bytes())
    change(data)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
        file.truncate(len(data))
    path.chmod(0o444)
    return bytes(data)


def flip(*offsets: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        for offset in offsets:
            data[offset] ^= 0x10

    return change


def cut(size: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        del data[size:]

    return change


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (flip(3 * PIECE + 5), [3]),
        (flip(0, 6 * PIECE), [0, 6]),
        (cut(4 * PIECE + 1), [4, 5, 6]),
        (cut(0), [0, 1, 2, 3, 4, 5, 6]),
        (lambda data: data.extend(b"more"), []),
        (flip(*range(0, SIZE, PIECE)), [0, 1, 2, 3, 4, 5, 6]),
    ],
    ids=["one bit", "first and last piece", "cut off", "emptied", "longer", "every piece"],
)
def test_only_bad_pieces_are_fetched(
    fetching: Make, store: Store, change: Callable[[bytearray], object], bad: list[int]
) -> None:
    engine, data = fetching(), content(SIZE)
    manifest, path = published(engine, data)
    bytes_before = damage(path, change)
    sha256 = str(manifest.files[-1].sha256)
    with path.open("rb") as reader:
        assert not store.verify_blob(sha256)
        engine.fetch(manifest)
        store.restore("team", "model", manifest.snapshot)
        assert reader.read() == bytes_before, "who reads it keeps what he has open"
    assert path.read_bytes() == data
    assert sorted(seen.start or 0 for seen in engine.origin.seen) == [number * PIECE for number in bad]
    assert store.quick_check("team", "model", manifest.snapshot) == []
    assert store.deep_check("team", "model", manifest.snapshot) == []
    assert engine.partials() == []
    pieces = store.pieces(sha256)
    assert pieces is not None
    assert len(pieces[1]) == 7 * 16


def test_a_repair_that_was_cut_off_goes_on_where_it_was(fetching: Make, store: Store) -> None:
    engine, data = fetching(connections=1), content(SIZE)
    manifest, path = published(engine, data)
    damage(path, flip(PIECE, 2 * PIECE, 5 * PIECE))
    assert not store.verify_blob(str(manifest.files[-1].sha256))
    second = threading.Event()

    def stop_at_the_second(request: Request, whole: bytes) -> None:
        if request.start == PIECE:
            request.serve(whole)
        else:
            second.set()
            engine.origin.closing.wait(PATIENCE)

    engine.origin.always["/weights"] = stop_at_the_second
    first = engine.in_thread(manifest)
    assert second.wait(PATIENCE)
    first.cancel.cancel()
    first.join()
    assert [seen.start or 0 for seen in engine.origin.seen] == [PIECE, 2 * PIECE]
    assert len(engine.partials()) == 1
    engine.origin.always.clear()
    engine.origin.seen.clear()
    path.unlink()  # what was good in it has been taken over already
    engine.fetch(manifest)
    assert sorted(seen.start or 0 for seen in engine.origin.seen) == [2 * PIECE, 5 * PIECE]
    store.restore("team", "model", manifest.snapshot)
    assert path.read_bytes() == data


def test_piece_digests_that_are_wrong_cost_a_download_and_nothing_else(fetching: Make, store: Store) -> None:
    engine, data = fetching(), content(SIZE)
    manifest, path = published(engine, data)
    sha256 = str(manifest.files[-1].sha256)
    found = store.pieces(sha256)
    assert found is not None
    store._index.set_pieces([(sha256, PIECE, b"\xee" * len(found[1]))])
    damage(path, flip(9))
    assert not store.verify_blob(sha256)
    engine.fetch(manifest)
    assert len(engine.origin.seen) == 7
    store._index.set_pieces([(sha256, 2 * PIECE, found[1])])
    store.restore("team", "model", manifest.snapshot)
    damage(path, flip(9))
    assert not store.verify_blob(sha256)
    engine.fetch(manifest)
    store.restore("team", "model", manifest.snapshot)
    assert path.read_bytes() == data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(min_size=101, max_size=1000),
    flips=st.lists(st.integers(0, 999), max_size=5),
    size=st.integers(0, 1200),
)
def test_every_good_piece_is_taken_and_no_bad_one(tmp_path: Path, data: bytes, flips: list[int], size: int) -> None:
    piece_bytes, bad = 100, bytearray(data)
    for offset in flips:
        bad[offset % len(data)] ^= 1
    damaged = bytes(bad)[:size].ljust(min(size, len(data) + 1), b"\0")
    source = tmp_path / "damaged"
    source.write_bytes(damaged)
    pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
    digests = b"".join(xxhash.xxh3_128_digest(piece) for piece in pieces)
    partial = PartialFile(tmp_path / "partial", len(data), piece_bytes, os.urandom(16))
    partial.prepare()
    partial.open()
    try:
        seed(partial, Remains(source, piece_bytes, digests), lambda count: None)
        good = [number for number, piece in enumerate(pieces) if damaged[number * piece_bytes :][: len(piece)] == piece]
        assert [number for number in range(len(pieces)) if partial.finished(number)] == good
        written = partial.data.read_bytes()
        assert all(written[number * piece_bytes :][:piece_bytes] == pieces[number] for number in good)
    finally:
        partial.discard()
