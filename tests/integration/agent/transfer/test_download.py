"""Downloads on which nothing goes wrong: what is asked for, what is not, and what is told."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.store import Store
from agent.transfer import IntegrityError, Progress
from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import NotFound, SourceChanged, Unsupported
from tests.support.fetching import PIECE, Fetching, content, git_oid, listed, manifest_of
from tests.support.origin import Origin, Request, chunked, until_closed
from tests.support.waiting import PATIENCE

Make = Callable[..., Fetching]


def test_a_large_and_small_files(fetching: Make, store: Store) -> None:
    engine = fetching()
    large = content(10 * PIECE + 17)
    manifest = engine.serve(("model.bin", large), ("config.json", b"{}"), ("sub/dir/a.txt", b"abc"))
    digests = engine.fetch(manifest)
    assert digests["model.bin"] == hashlib.sha256(large).hexdigest()
    requests = engine.origin.requests("/model.bin")
    assert sorted((seen.start, seen.end) for seen in requests) == [
        (start, min(start + PIECE, len(large))) for start in range(0, len(large), PIECE)
    ]
    # One request for a small file, without a range: servers that cannot do ranges are enough for it.
    assert [(seen.start, seen.end) for seen in engine.origin.requests("/config.json")] == [(None, None)]
    assert engine.origin.bytes_sent == manifest.size
    assert engine.partials() == []
    mode = os.stat(store.paths.blob(digests["model.bin"])).st_mode & 0o777
    assert mode == 0o444


def test_what_is_asked_is_asked_properly(fetching: Make) -> None:
    engine = fetching()
    engine.fetch(engine.serve(("a", b"a")))
    (seen,) = engine.origin.seen
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["host"] == f"127.0.0.1:{engine.origin.port}"


def test_connections_are_few_and_kept_alive(fetching: Make) -> None:
    engine = fetching(connections=3)
    engine.fetch(engine.serve(*((f"{number}", content(100, number)) for number in range(100))))
    assert len(engine.origin.seen) == 100
    assert len({seen.port for seen in engine.origin.seen}) <= 3


def test_an_empty_file_needs_no_request(fetching: Make) -> None:
    engine = fetching()
    digests = engine.fetch(engine.serve(("__init__.py", b"")))
    assert digests == {"__init__.py": hashlib.sha256(b"").hexdigest()}
    digests = engine.fetch(engine.serve(("py.typed", b""), digest="git"))
    assert digests == {"py.typed": hashlib.sha256(b"").hexdigest()}
    assert engine.origin.seen == []
    assert engine.partials() == []


def test_an_empty_file_with_the_digest_of_another_is_refused(fetching: Make) -> None:
    engine = fetching()
    wrong = listed("a", b"", sha256="0" * 64)
    with pytest.raises(IntegrityError, match="a: the sha256"):
        engine.fetch(manifest_of(wrong))


@pytest.mark.parametrize("digest", ["sha256", "git", "none"])
def test_what_is_here_is_not_fetched_again(fetching: Make, digest: str) -> None:
    engine = fetching()
    files = [("large", content(3 * PIECE)), ("small", b"small"), ("empty", b"")]
    manifest = engine.serve(*files, digest=digest)
    first = engine.fetch(manifest)
    asked = len(engine.origin.seen)
    assert engine.fetch(manifest) == first
    assert len(engine.origin.seen) == asked
    assert engine.told[-1].fetched_bytes == 0
    assert engine.told[-1].received_bytes == manifest.size


def test_a_new_revision_fetches_only_what_changed(fetching: Make) -> None:
    engine = fetching()
    engine.fetch(manifest_of(*_revision(engine, b"old")))
    engine.origin.seen.clear()
    engine.fetch(manifest_of(*_revision(engine, b"new"), revision="d" * 40))
    assert sorted(seen.path for seen in engine.origin.seen) == ["/README.md"]


def _revision(engine: Fetching, readme: bytes) -> list[ManifestFile]:
    engine.origin.files |= {"/w": content(2 * PIECE), "/tokenizer.json": b"tokens", "/README.md": readme}
    return [
        listed("w", content(2 * PIECE)),
        listed("tokenizer.json", b"tokens", digest="git"),
        listed("README.md", readme, digest="git"),
    ]


def test_the_same_content_at_two_paths_is_fetched_once(fetching: Make) -> None:
    engine = fetching()
    data = content(PIECE + 5)
    manifest = engine.serve(("a/w", data), ("b/w", data))
    digests = engine.fetch(manifest)
    assert digests["a/w"] == digests["b/w"]
    assert engine.origin.bytes_sent == len(data)
    last = engine.told[-1]
    assert (last.received_bytes, last.verified_bytes, last.done_files) == (2 * len(data), 2 * len(data), 2)


def test_git_blob_ids_are_checked_and_sha256_computed(fetching: Make) -> None:
    engine = fetching()
    data = content(2 * PIECE)
    good = engine.serve(("a", data), digest="git")
    assert good.files[0].git_oid == git_oid(data)
    assert engine.fetch(good) == {"a": hashlib.sha256(data).hexdigest()}
    with pytest.raises(IntegrityError) as raised:
        engine.fetch(manifest_of(listed("a", data, digest="git", git_oid="1" * 40), revision="e" * 40))
    assert (raised.value.kind, raised.value.expected, raised.value.actual) == ("git blob id", "1" * 40, git_oid(data))


def test_progress_adds_up(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("large", content(5 * PIECE)), ("small", b"abc"))
    engine.fetch(manifest)
    assert engine.told[-1] == Progress(manifest.size, manifest.size, manifest.size, manifest.size, 2, 2, None)


def test_answers_of_any_framing(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("chunked", content(5000, 1)), ("closed", content(5000, 2)))
    engine.origin.always = {"/chunked": chunked, "/closed": until_closed}
    engine.fetch(manifest)
    assert len(engine.origin.seen) == 2


def test_etags_that_differ_mean_another_object(fetching: Make) -> None:
    engine = fetching()
    data = b"object"
    engine.origin.files["/a"] = data

    def tagged(request: Request, content: bytes) -> None:
        request.head(200, {"Content-Length": str(len(content)), "ETag": '"v2"'})
        request.body(content)

    engine.origin.always["/a"] = tagged
    with pytest.raises(SourceChanged, match="ETag"):
        engine.fetch(manifest_of(listed("a", data, digest="none", etag='"v1"')))
    assert engine.fetch(manifest_of(listed("a", data, digest="none", etag='W/"v2"'), revision="f" * 40))


def test_files_of_this_machine(fetching: Make, tmp_path: Path) -> None:
    engine = fetching()
    share = tmp_path / "a share"
    share.mkdir()
    data = content(3 * PIECE + 1)
    (share / "w").write_bytes(data)

    def locate(file: ManifestFile) -> Location:
        return Location((share / file.path).as_uri(), {})

    engine.fetch(manifest_of(listed("w", data)), locate=locate)
    with pytest.raises(NotFound, match="does not exist on this node"):
        engine.fetch(manifest_of(listed("missing", b"x", digest="none")), locate=locate)
    (share / "w2").write_bytes(b"shorter")
    with pytest.raises(SourceChanged, match="has 7 bytes, the manifest says 8"):
        engine.fetch(manifest_of(listed("w2", b"shorter!")), locate=locate)
    with pytest.raises(Unsupported, match="names the host 'server'"):
        engine.fetch(manifest_of(listed("x", b"x")), locate=lambda file: Location("file://server/x", {}))


def test_two_thousand_small_files(fetching: Make, store: Store) -> None:
    engine = fetching()
    manifest = engine.serve(*((f"d{number % 50}/{number}.txt", b"file %d" % number) for number in range(2000)))
    digests = engine.fetch(manifest)
    assert len(engine.origin.seen) == 2000
    assert len(digests) == 2000
    assert engine.partials() == []
    assert store.published() == []


def test_no_file_stays_open(fetching: Make, origin: Origin) -> None:
    engine = fetching(connections=2)
    engine.fetch(engine.serve(("warm", b"up")))
    before = len(os.listdir("/proc/self/fd"))
    engine.fetch(engine.serve(*((f"{number}", content(3 * PIECE, number)) for number in range(10))))
    # The other of the two connections that are kept alive, on both sides.
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert {seen.path for seen in origin.seen} >= {f"/{number}" for number in range(10)}


@pytest.mark.parametrize(("seconds", "early"), [(0.0, True), (3600.0, False)])
def test_pieces_become_durable_at_most_so_often(
    fetching: Make, monkeypatch: pytest.MonkeyPatch, seconds: float, early: bool
) -> None:
    engine = fetching(connections=1, sync_seconds=seconds)
    manifest = engine.serve(("model.bin", content(4 * PIECE)))
    synced = threading.Event()

    def spy(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/data"):
            synced.set()

    def last_piece_waits(request: Request, data: bytes) -> None:
        if early and f"bytes={3 * PIECE}-" in request.headers.get("Range", ""):
            assert synced.wait(PATIENCE)
        request.serve(data)

    monkeypatch.setattr(os, "fdatasync", spy)
    engine.origin.always = {"/model.bin": last_piece_waits}
    engine.fetch(manifest)
    assert synced.is_set() == early
