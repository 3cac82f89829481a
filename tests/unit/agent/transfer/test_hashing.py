import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.cancel import CancelToken
from agent.transfer.hashing import Digests, FileDigest, Follower, HashPool
from agent.transfer.partial import PartialFile
from modelcache.manifest import ManifestFile, Sha256

PIECE = 100
CONTENT = bytes(range(251)) * 4
PATIENCE = 30.0


@pytest.fixture
def pool() -> Iterator[HashPool]:
    with HashPool(2) as pool:
        yield pool


class Watch:
    """A partial file and its follower, with everything that the follower says."""

    def __init__(self, directory: Path, *, git: bool = False, boot: bytes = b"b" * 16) -> None:
        self.partial = PartialFile(directory / "key", len(CONTENT), PIECE, boot)
        self.partial.prepare()
        self.partial.open()
        self.cancel = CancelToken()
        self.verified = 0
        self.bad: list[int] = []
        self.digests: Digests | None = None
        self.error: Exception | None = None
        self.changed = threading.Condition()
        self.follower = Follower(
            self.partial,
            digest=FileDigest(self.partial.size, git=git),
            cancel=self.cancel,
            verified=self._verified,
            bad=self._bad,
            done=self._done,
            failed=self._failed,
        )

    def put(self, index: int) -> None:
        piece = self.partial.piece(index)
        data = CONTENT[piece.start : piece.end]
        self.partial.write(piece.start, memoryview(data))
        self.partial.finish(index, xxhash.xxh3_128_digest(data))

    def _verified(self, count: int) -> None:
        with self.changed:
            self.verified += count
            self.changed.notify_all()

    def _bad(self, index: int) -> None:
        with self.changed:
            self.bad.append(index)
            self.changed.notify_all()

    def _done(self, digests: Digests) -> None:
        with self.changed:
            assert self.digests is None
            self.digests = digests
            self.changed.notify_all()

    def _failed(self, error: Exception) -> None:
        with self.changed:
            self.error = error
            self.changed.notify_all()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=10))
def test_digests_are_those_of_sha256_and_git(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    digest = FileDigest(len(whole), git=True)
    for part in parts:
        digest.update(memoryview(part))
    assert digest.result() == Digests(
        hashlib.sha256(whole).hexdigest(), hashlib.sha1(b"blob %d\0" % len(whole) + whole).hexdigest()
    )


def test_the_empty_git_blob_has_the_well_known_id() -> None:
    assert FileDigest(0, git=True).result().git_oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@pytest.mark.parametrize("order", [list(range(11)), list(reversed(range(11))), [5, 1, 0, 3, 2, 4, 10, 9, 8, 7, 6]])
def test_any_order_of_pieces_gives_the_digest_of_the_file(tmp_path: Path, pool: HashPool, order: list[int]) -> None:
    watch = Watch(tmp_path, git=True)
    for index in order:
        watch.put(index)
        pool.wake(watch.follower)
    with watch.changed:
        assert watch.changed.wait_for(lambda: watch.digests is not None, PATIENCE)
    assert watch.digests is not None
    assert watch.digests.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert watch.digests.git_oid == hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    assert watch.verified == len(CONTENT)
    pool.rest(watch.follower)
    watch.partial.close()


def test_a_bad_piece_of_an_earlier_run_is_found_and_does_not_spoil_the_digest(tmp_path: Path, pool: HashPool) -> None:
    first = Watch(tmp_path)
    for index in range(11):
        first.put(index)
    first.partial.write(350, memoryview(b"?"))  # the disk changes its mind about piece 3
    first.partial.close()

    watch = Watch(tmp_path)
    assert watch.partial.missing() == []
    pool.wake(watch.follower)
    with watch.changed:
        assert watch.changed.wait_for(lambda: watch.bad == [3], PATIENCE)
    pool.rest(watch.follower)
    assert watch.partial.missing() == [3]
    assert watch.verified == 300
    watch.put(3)
    pool.wake(watch.follower)
    with watch.changed:
        assert watch.changed.wait_for(lambda: watch.digests is not None, PATIENCE)
    assert watch.digests == Digests(hashlib.sha256(CONTENT).hexdigest(), None)
    pool.rest(watch.follower)
    watch.partial.close()


def test_a_file_that_was_cut_off_is_an_error_not_a_hang(tmp_path: Path, pool: HashPool) -> None:
    watch = Watch(tmp_path)
    watch.put(0)
    watch.partial.data.write_bytes(b"short")
    pool.wake(watch.follower)
    with watch.changed:
        assert watch.changed.wait_for(lambda: watch.error is not None, PATIENCE)
    assert "cut off" in str(watch.error)
    pool.rest(watch.follower)
    watch.partial.close()


def test_a_cancelled_follower_comes_to_rest(tmp_path: Path, pool: HashPool) -> None:
    watch = Watch(tmp_path)
    watch.cancel.cancel()
    watch.put(0)
    pool.wake(watch.follower)
    pool.rest(watch.follower)
    assert watch.digests is None
    assert watch.error is None
    watch.partial.close()


@pytest.mark.parametrize(("sha256", "computed"), [(None, "crc32:cbf43926"), (Sha256("0" * 64), None)])
def test_a_published_checksum_is_computed_where_no_sha256_is_known(sha256: Sha256 | None, computed: str | None) -> None:
    digest = FileDigest.of(ManifestFile(path="a", size=9, sha256=sha256, checksum="crc32:00000000"))
    digest.update(memoryview(b"12345"))
    before = digest.copy()
    digest.update(memoryview(b"xxx"))
    before.update(memoryview(b"6789"))
    assert before.result() == Digests(hashlib.sha256(b"123456789").hexdigest(), None, computed)
