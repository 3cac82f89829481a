"""Re-checking blobs by the digests of their pieces: every kind of damage is found, in the piece where it is."""

import hashlib
import os
import random
from pathlib import Path

import pytest
import xxhash

from agent.store import NewBlob, Store, StoreIOError
from agent.store.checking import damaged_pieces

PIECE = 64 * 1024
CONTENT = random.Random(1).randbytes(5 * PIECE + 1000)
DIGESTS = b"".join(xxhash.xxh3_128_digest(CONTENT[start : start + PIECE]) for start in range(0, len(CONTENT), PIECE))


def flipped(*offsets: int) -> bytes:
    damaged = bytearray(CONTENT)
    for offset in offsets:
        damaged[offset] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize("threads", [1, 2, 9])
@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (CONTENT, ()),
        (flipped(0), (0,)),
        (flipped(PIECE - 1, PIECE, len(CONTENT) - 1), (0, 1, 5)),
        (CONTENT[:-1], (5,)),
        (CONTENT[: 4 * PIECE], (4, 5)),
        (b"", (0, 1, 2, 3, 4, 5)),
        (CONTENT + b"x", (5,)),
        (CONTENT + bytes(PIECE), (5, 6)),
    ],
    ids=[
        "right",
        "first byte",
        "three pieces",
        "one byte short",
        "two pieces short",
        "empty",
        "longer",
        "a piece longer",
    ],
)
def test_names_the_damaged_pieces(tmp_path: Path, content: bytes, bad: tuple[int, ...], threads: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    reads: list[int] = []
    assert damaged_pieces(path, PIECE, DIGESTS, reads.append, threads) == bad
    assert sum(reads) == len(content)


def test_does_not_follow_a_planted_symlink(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (tmp_path / "data").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        damaged_pieces(tmp_path / "data", PIECE, DIGESTS, lambda count: None)


def test_whoever_pays_can_stop_it(tmp_path: Path) -> None:
    def refuse(count: int) -> None:
        raise InterruptedError("stopped")

    (tmp_path / "data").write_bytes(CONTENT)
    with pytest.raises(InterruptedError):
        damaged_pieces(tmp_path / "data", PIECE, DIGESTS, refuse)


def test_checks_a_blob_against_what_was_recorded(tmp_path: Path) -> None:
    known, unknown = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(b"other").hexdigest()
    (tmp_path / "known").write_bytes(CONTENT)
    (tmp_path / "unknown").write_bytes(b"other")
    with Store.open(tmp_path / "cache") as store:
        store.commit_blobs(
            [
                NewBlob(tmp_path / "known", known, len(CONTENT), PIECE, DIGESTS),
                NewBlob(tmp_path / "unknown", unknown, 5),
            ]
        )
        assert store.check_pieces(known) == ()
        assert store.check_pieces(unknown) is None
        blob = store.paths.blob(known)
        os.chmod(blob, 0o600)
        with blob.open("r+b") as file:
            file.seek(3 * PIECE)
            file.write(bytes(10))
        assert store.check_pieces(known) == (3,)
        blob.unlink()
        with pytest.raises(StoreIOError):
            store.check_pieces(known)
