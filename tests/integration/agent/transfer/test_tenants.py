"""Two namespaces on one node: what one has is given to the other only after the other's source has shown that it has it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from agent.store import NotAdmitted
from agent.transfer import Cancelled, IntegrityError
from agent.transfer.proof import WINDOW_BYTES
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import Unauthorized
from tests.support.fetching import PIECE, Fetching, content, listed, manifest_of
from tests.support.origin import Request

SECRET = content(9 * 1024 * 1024, seed=1)
SMALL = content(1000, seed=2)


def of_mallory(engine: Fetching) -> Callable[[ManifestFile], Location]:
    """Another server, or the same one as somebody else sees it."""
    return lambda file: Location(engine.origin.url(f"/mallory/{file.path}"), {})


def cached(engine: Fetching) -> Manifest:
    """A model that the namespace `team` has on this node."""
    manifest = engine.serve(("weights", SECRET), ("config", SMALL))
    engine.fetch(manifest, namespace="team")
    engine.store.publish("team", "model", manifest)
    return manifest


def test_the_same_model_in_another_namespace_costs_a_look_at_its_source(fetching: Callable[..., Fetching]) -> None:
    engine = fetching()
    manifest = cached(engine)
    before = engine.origin.bytes_sent
    engine.fetch(manifest, namespace="other")
    assert engine.origin.bytes_sent - before == 3 * WINDOW_BYTES + len(SMALL)
    assert engine.told[-1].fetched_bytes == 3 * WINDOW_BYTES + len(SMALL)
    row = engine.store.publish("other", "mine", manifest)
    weights = engine.store.paths.snapshot(*row.key) / "weights"
    assert weights.stat().st_ino == engine.store.paths.blob(str(manifest.files[1].sha256)).stat().st_ino
    before = engine.origin.bytes_sent
    engine.fetch(manifest, namespace="other")
    assert engine.origin.bytes_sent == before, "once shown, it is known"


@pytest.mark.parametrize("path", ["weights", "config"])
def test_a_listed_digest_gets_nothing_that_the_source_does_not_have(
    fetching: Callable[..., Fetching], path: str
) -> None:
    engine = fetching()
    data = {"weights": SECRET, "config": SMALL}[path]
    cached(engine)
    engine.origin.files[f"/mallory/{path}"] = content(len(data), seed=3)
    claim = manifest_of(listed(path, data))
    with pytest.raises(IntegrityError, match=f"{path}.*sha256"):
        engine.fetch(claim, namespace="mallory", locate=of_mallory(engine))
    assert not engine.store.admissions.holds("mallory", str(claim.files[0].sha256))
    with pytest.raises(NotAdmitted):
        engine.store.publish("mallory", "stolen", claim)
    # The right content now, with which a proof would succeed: but the one try is gone, and all of it is read.
    engine.origin.files[f"/mallory/{path}"] = data
    before = engine.origin.bytes_sent
    engine.fetch(claim, namespace="mallory", locate=of_mallory(engine))
    assert engine.origin.bytes_sent - before == len(data)
    engine.store.publish("mallory", "read", claim)


def test_who_may_list_but_not_read_gets_nothing(fetching: Callable[..., Fetching]) -> None:
    """A gated repository on the Hugging Face Hub shows its digests to everybody; S3 has rights for listing alone."""
    engine = fetching()
    manifest = cached(engine)
    for path in ("weights", "config"):
        engine.origin.always[f"/mallory/{path}"] = lambda request, _: request.status(403)
    with pytest.raises(Unauthorized):
        engine.fetch(manifest, namespace="mallory", locate=of_mallory(engine))
    assert not engine.store.admissions.holds("mallory", str(manifest.files[0].sha256))


def test_a_source_that_cannot_send_parts_is_read_as_a_whole(fetching: Callable[..., Fetching]) -> None:
    def ignores_ranges(request: Request, data: bytes) -> None:
        request.start = request.end = None
        request.serve(data)

    engine = fetching()
    manifest = cached(engine)
    engine.origin.files["/mallory/weights"], engine.origin.files["/mallory/config"] = SECRET, SMALL
    engine.origin.always["/mallory/weights"] = ignores_ranges
    engine.fetch(manifest, namespace="other", locate=of_mallory(engine))
    engine.store.publish("other", "mine", manifest)


def test_nobody_finishes_what_another_namespace_has_begun(fetching: Callable[..., Fetching]) -> None:
    def never_sends_the_end(request: Request, data: bytes) -> None:
        if request.end == len(data):
            request.hang_up()
        else:
            request.serve(data)

    engine = fetching()
    manifest = engine.serve(("weights", SECRET[: 8 * PIECE]))
    engine.origin.always["/weights"] = never_sends_the_end
    fetch = engine.in_thread(manifest, namespace="team")
    engine.until(lambda progress: progress.received_bytes >= 7 * PIECE)
    fetch.cancel.cancel()
    fetch.join()
    assert isinstance(fetch.error, Cancelled)
    engine.origin.files["/mallory/weights"] = content(8 * PIECE, seed=3)
    before = engine.origin.bytes_sent
    with pytest.raises(IntegrityError):
        engine.fetch(manifest, namespace="mallory", locate=of_mallory(engine))
    sent = engine.origin.bytes_sent - before
    assert sent == 2 * 8 * PIECE, "all of it came from the source of mallory, twice, because it was wrong"
    assert {name.partition(".")[0] for name in engine.partials()} == {"team"}


def test_the_name_of_an_origin_means_something_else_in_another_namespace(fetching: Callable[..., Fetching]) -> None:
    """One URI, two servers: an S3 endpoint is in the Secret. Whoever comes first must not decide what the other gets."""
    engine = fetching()
    engine.origin.files["/mallory/weights"] = content(3 * PIECE, seed=3)
    manifest = engine.serve(("weights", content(3 * PIECE, seed=4)), digest="none")
    wrong = engine.fetch(manifest, namespace="mallory", locate=of_mallory(engine))
    right = engine.fetch(manifest, namespace="team")
    assert right["weights"] == listed("weights", content(3 * PIECE, seed=4)).sha256 != wrong["weights"]


def test_good_pieces_of_a_damaged_file_are_not_for_others(fetching: Callable[..., Fetching]) -> None:
    engine = fetching()
    manifest = cached(engine)
    weights = next(file for file in manifest.files if file.path == "weights")
    blob = engine.store.paths.blob(str(weights.sha256))
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"damage")
    assert not engine.store.verify_blob(str(weights.sha256))
    engine.origin.files["/mallory/weights"] = content(len(SECRET), seed=3)
    with pytest.raises(IntegrityError):
        engine.fetch(manifest_of(weights), namespace="mallory", locate=of_mallory(engine))
    before = engine.origin.bytes_sent
    engine.fetch(manifest, namespace="team")
    assert engine.origin.bytes_sent - before == PIECE, "the owner begins with what is good"


def test_namespaces_wait_for_each_other_only_where_no_tenant_has_the_origin(
    fetching: Callable[..., Fetching],
) -> None:
    engine = fetching()
    manifest = engine.serve(("weights", SECRET))
    held, go = threading.Event(), threading.Event()

    def holds(request: Request, data: bytes) -> None:
        held.set()
        assert go.wait(60)
        request.serve(data)

    engine.origin.always["/weights"] = holds
    first = engine.in_thread(manifest, namespace="team", together="hub")
    assert held.wait(60)
    engine.origin.files["/mallory/weights"] = SECRET
    engine.fetch(manifest, namespace="alone", locate=of_mallory(engine))
    assert engine.origin.bytes_sent == len(SECRET), "who reads another origin waits for nobody"
    second = engine.in_thread(manifest, namespace="other", together="hub", locate=of_mallory(engine))
    go.set()
    for each in (first, second):
        each.join()
        assert each.error is None
    assert engine.origin.bytes_sent == 2 * len(SECRET) + 3 * WINDOW_BYTES
