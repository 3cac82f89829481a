"""Whatever goes wrong in whatever order: in the end everything is there, right, and nothing is left behind."""

import random
import sys
from collections.abc import Callable, Iterator

import pytest

from agent.store import Store
from agent.transfer import Cancelled, IntegrityError
from tests.support.fetching import PIECE, Fetching, content, listed, manifest_of
from tests.support.origin import (
    Fault,
    Origin,
    Request,
    cut_off,
    flipped,
    hangs_up,
    ignores_range,
    redirect,
    status,
)

Make = Callable[..., Fetching]


@pytest.fixture(autouse=True)
def busy() -> Iterator[None]:
    """Threads change places 500 times as often as usual: races that need luck otherwise happen here."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def trouble(rng: random.Random) -> Fault:
    return rng.choice(
        [
            status(500),
            status(429, Retry_After="3"),
            status(503),
            hangs_up,
            cut_off(rng.randrange(PIECE)),
            ignores_range,
            redirect("/elsewhere?of=it"),
            Request.serve,
        ]
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_trouble(fetching: Make, store: Store, origin: Origin, seed: int) -> None:
    rng = random.Random(seed)
    engine = fetching(connections=rng.choice([1, 2, 4, 8]))
    sizes = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 7 * PIECE + 5, *(rng.randrange(3 * PIECE) for _ in range(8))]
    files = {f"f{number}": content(size, number) for number, size in enumerate(sizes)}
    origin.files = {f"/{path}": data for path, data in files.items()}
    digests = {path: rng.choice(["sha256", "git", "none"]) for path in files}
    manifests = [
        manifest_of(*(listed(path, files[path], digest=digests[path]) for path in rng.sample(sorted(files), 10)))
        for _ in range(3)
    ]
    origin.files["/elsewhere"] = b""
    origin.always["/elsewhere"] = status(404)  # a place that never worked: final

    for path in files:
        origin.fail(f"/{path}", *(trouble(rng) for _ in range(rng.randrange(6))))
        if digests[path] != "none" and rng.random() < 0.3:
            origin.fail(f"/{path}", flipped(0) if files[path] else status(500))
    # Until all three have everything: attempts end by cancellation, by a dead redirect, or well.
    missing = list(manifests)
    for _ in range(200):
        fetches = [engine.in_thread(manifest) for manifest in missing]
        if rng.random() < 0.3:
            rng.choice(fetches).cancel.cancel()
        for fetch in fetches:
            fetch.join()
        for fetch in fetches:
            if fetch.error is not None:
                assert isinstance(fetch.error, Cancelled | IntegrityError) or "elsewhere" in str(fetch.error), (
                    fetch.error
                )
        missing = [manifest for manifest, fetch in zip(missing, fetches, strict=True) if fetch.error is not None]
        if not missing:
            break
        if rng.random() < 0.5:
            store.collect_garbage()
    assert not missing
    origin.behave()  # some of it was collected as garbage
    for manifest in manifests:
        engine.fetch(manifest)
    store.collect_garbage()
    assert engine.partials() == []
    assert [path for path in store.paths.blobs.rglob("*") if path.is_file()] == []
    assert list(store.paths.staging.iterdir()) == []
