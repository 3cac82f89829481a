"""Several models at once in one agent: shared content, shared limits, different credentials."""

import threading
from collections.abc import Callable

import pytest

from agent.store import Store
from agent.transfer import Cancelled, IntegrityError
from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import Unauthorized
from tests.support.fetching import PIECE, Fetching, content, listed, manifest_of
from tests.support.instant_clock import InstantClock
from tests.support.origin import Fault, Request
from tests.support.waiting import PATIENCE

Make = Callable[..., Fetching]


def gate(opened: threading.Event) -> Fault:
    """Answers only when the gate is open."""

    def fault(request: Request, data: bytes) -> None:
        assert opened.wait(PATIENCE)
        request.serve(data)

    return fault


@pytest.mark.parametrize("digest", ["sha256", "git"])
def test_what_two_models_share_is_fetched_once(fetching: Make, digest: str) -> None:
    engine = fetching(connections=8)
    shared = content(4 * PIECE, 1)
    opened = threading.Event()
    engine.origin.files = {"/shared": shared, "/a": b"a", "/b": b"b"}
    engine.origin.always["/shared"] = gate(opened)
    files = [listed("shared", shared, digest=digest), listed("a", b"a")]
    first = engine.in_thread(manifest_of(*files))
    engine.origin.until(lambda: len(engine.origin.requests("/shared")) >= 1)
    second = engine.in_thread(manifest_of(files[0], listed("b", b"b")))
    engine.origin.until(lambda: len(engine.origin.requests("/b")) == 1)  # the second is under way, too
    opened.set()
    first.join()
    second.join()
    assert first.error is None
    assert second.error is None
    assert engine.origin.bytes_sent == len(shared) + 2


def test_who_waited_takes_over_with_its_own_credential(fetching: Make) -> None:
    """That one tenant may not read a file says nothing about another."""
    engine = fetching(connections=8)
    shared = content(3 * PIECE)
    refused, waiting = threading.Event(), threading.Event()
    manifest = engine.serve(("shared", shared))

    def checks(request: Request, data: bytes) -> None:
        if request.headers["Authorization"] == "bad":
            refused.set()
            assert waiting.wait(PATIENCE)
            request.status(403)
        else:
            request.serve(data)

    engine.origin.always["/shared"] = checks

    def with_token(token: str) -> Callable[[ManifestFile], Location]:
        return lambda file: Location(engine.origin.url("/shared"), {"Authorization": token})

    first = engine.in_thread(manifest, locate=with_token("bad"))
    assert refused.wait(PATIENCE)
    both = manifest_of(*manifest.files, listed("own", b"own"))
    engine.origin.files["/own"] = b"own"

    def locate(file: ManifestFile) -> Location:
        return Location(engine.origin.url(f"/{file.path}"), {"Authorization": "good"})

    second = engine.in_thread(both, locate=locate)
    engine.origin.until(lambda: len(engine.origin.requests("/own")) == 1)
    waiting.set()
    first.join()
    second.join()
    assert isinstance(first.error, Unauthorized)
    assert second.error is None


def test_who_waited_takes_over_what_a_cancelled_one_had_finished(fetching: Make) -> None:
    engine = fetching(connections=1)
    shared = content(6 * PIECE)
    manifest = engine.serve(("shared", shared))
    opened = threading.Event()

    def stops(request: Request, data: bytes) -> None:
        if request.start == 4 * PIECE:
            assert opened.wait(PATIENCE)
        request.serve(data)

    engine.origin.always["/shared"] = stops
    first = engine.in_thread(manifest)
    engine.origin.until(lambda: len(engine.origin.requests("/shared")) == 5)
    second = engine.in_thread(manifest)
    first.cancel.cancel()
    first.join()
    opened.set()
    second.join()
    assert isinstance(first.error, Cancelled)
    assert second.error is None
    asked = [seen.start or 0 for seen in engine.origin.requests("/shared")]
    assert sorted(set(asked)) == [number * PIECE for number in range(6)]
    assert len(asked) <= 7  # only the piece that was under way was asked for twice


def test_connections_are_shared_by_all_downloads(fetching: Make) -> None:
    engine = fetching(connections=2)
    lock, active, most = threading.Lock(), 0, 0
    engine.origin.files = {f"/{number}": content(2 * PIECE, number) for number in range(12)}

    def counts(request: Request, data: bytes) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        request.serve(data)
        with lock:
            active -= 1

    # A client may have the last byte before the server has counted down, hence one more than the limit is possible.
    engine.origin.always = dict.fromkeys(engine.origin.files, counts)
    fetches = [
        engine.in_thread(manifest_of(*(listed(f"{n}", content(2 * PIECE, n)) for n in range(start, start + 3))))
        for start in range(0, 12, 3)
    ]
    for fetch in fetches:
        fetch.join()
        assert fetch.error is None
    assert most <= 4
    assert len({seen.port for seen in engine.origin.seen}) <= 2


def test_the_bandwidth_limit_holds_for_all_together(fetching: Make) -> None:
    clock = InstantClock()
    engine = fetching(clock=clock, bandwidth=100_000.0)
    engine.origin.files = {"/a": content(3 * PIECE, 1), "/b": content(3 * PIECE, 2)}
    fetches = [engine.in_thread(manifest_of(listed(name, engine.origin.files[f"/{name}"]))) for name in "ab"]
    for fetch in fetches:
        fetch.join()
        assert fetch.error is None
    assert sum(clock.waits) >= 6 * PIECE / 100_000 - 1


def test_garbage_collection_leaves_alone_what_is_under_way(fetching: Make, store: Store) -> None:
    engine = fetching(connections=8)
    large, small = content(4 * PIECE), b"small"
    manifest = engine.serve(("large", large), ("small", small), digest="git")
    opened = threading.Event()
    engine.origin.always["/large"] = gate(opened)
    fetch = engine.in_thread(manifest)
    engine.origin.until(lambda: len(engine.origin.requests("/small")) == 1)
    store.collect_garbage()
    opened.set()
    fetch.join()
    assert fetch.error is None
    removed = store.collect_garbage()  # not published, and nobody holds it any more
    assert len(removed.garbage.blobs) == 2


def test_one_bad_model_does_not_stop_another(fetching: Make) -> None:
    engine = fetching()
    engine.origin.files = {"/good": content(5 * PIECE, 1), "/bad": content(5 * PIECE, 2)}
    good = engine.in_thread(manifest_of(listed("good", content(5 * PIECE, 1))))
    bad = engine.in_thread(manifest_of(listed("bad", content(5 * PIECE, 3))))
    good.join()
    bad.join()
    assert good.error is None
    assert isinstance(bad.error, IntegrityError)
