"""A disk that is too small, or becomes too small: a small tmpfs as cache root."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.store import Store
from agent.transfer import InsufficientStorage
from tests.support.fetching import PIECE, Fetching, content
from tests.support.origin import Origin, Request

SIZE = 4 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB. Needs the right to mount."""
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(target)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield target
    finally:
        left = [link for fd in os.listdir("/proc/self/fd") if str(target) in (link := _opened(fd))]
        assert not left, f"still open: {left}"
        subprocess.run(["umount", str(target)], check=True)


def _opened(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


@pytest.fixture
def tight(small_disk: Path, origin: Origin) -> Iterator[Callable[..., Fetching]]:
    """Transfer engines on the small disk."""
    made: list[Fetching] = []
    with Store.open(small_disk / "cache") as store:

        def make(**options: Any) -> Fetching:
            made.append(Fetching(store, origin, **options))
            return made[-1]

        yield make
        for each in made:
            each.close()


def free(fetching: Fetching) -> int:
    found = os.statvfs(fetching.store.paths.root)
    return found.f_bavail * found.f_frsize


def test_what_cannot_fit_is_refused_before_the_first_byte(tight: Callable[..., Fetching]) -> None:
    engine = tight()
    manifest = engine.serve(("a", content(SIZE // 2)), ("b", content(SIZE // 2, 1)), ("c", content(5000)))
    before = free(engine)
    with pytest.raises(InsufficientStorage) as raised:
        engine.fetch(manifest)
    assert raised.value.needs >= manifest.size
    assert raised.value.free <= before
    assert engine.origin.seen == []
    assert engine.partials() == []
    assert free(engine) == before


def test_the_reserve_stays_free(tight: Callable[..., Fetching]) -> None:
    engine = tight(reserve_bytes=3 * 1024 * 1024)
    manifest = engine.serve(("a", content(1024 * 1024)))
    with pytest.raises(InsufficientStorage, match="are kept free"):
        engine.fetch(manifest)
    engine = tight(reserve_bytes=1024 * 1024)
    engine.fetch(manifest)


def test_two_models_that_do_not_fit_together(tight: Callable[..., Fetching]) -> None:
    engine = tight()
    first = engine.serve(("a", content(SIZE // 2, 1)))
    second = engine.serve(("b", content(SIZE // 2, 2)))

    def second_starts(request: Request, data: bytes) -> None:
        with pytest.raises(InsufficientStorage):
            engine.fetch(second)
        request.serve(data)

    engine.origin.fail("/a", second_starts)
    engine.fetch(first)


def test_somebody_else_fills_the_disk_in_the_middle(tight: Callable[..., Fetching]) -> None:
    engine = tight(connections=1)
    manifest = engine.serve(("large", content(16 * PIECE)), *((f"{n}", content(50_000, n)) for n in range(20)))
    filler = engine.store.paths.root.parent / "filler"

    def fills_the_disk(request: Request, data: bytes) -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        request.serve(data)

    engine.origin.fail("/3", fills_the_disk)
    with pytest.raises(InsufficientStorage, match=r"full|No space left") as raised:
        engine.fetch(manifest)
    assert raised.value.needs > 0
    assert engine.partials() == []  # the room of what is not finished goes back to whoever needs it
    filler.unlink()
    engine.fetch(manifest)


def test_the_room_of_a_file_that_was_begun_counts(tight: Callable[..., Fetching]) -> None:
    """A restart must not need the space twice."""
    engine = tight(connections=1)
    manifest = engine.serve(("a", content(SIZE * 5 // 8)))
    fetch = engine.in_thread(manifest)
    engine.origin.until(lambda: engine.origin.bytes_sent > 3 * PIECE)
    fetch.cancel.cancel()
    fetch.join()
    assert engine.partials()
    engine.fetch(manifest)
