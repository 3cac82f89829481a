"""Files that are on the node already: the version that was listed, unchanged while it is read, and where it may be."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.transfer.cancel import CancelToken
from agent.transfer.clock import SystemClock
from agent.transfer.directory import DirectorySource
from agent.transfer.places import Places
from modelcache.manifest import Manifest
from modelcache.sources.base import Location
from modelcache.sources.errors import NotFound, SourceChanged, UnsafePath
from modelcache.sources.file import version_of
from tests.support.fetching import PIECE, Fetching, content, listed, manifest_of
from tests.support.instant_clock import InstantClock

Make = Callable[..., Fetching]


def on_disk(tmp_path: Path, *, digest: str = "none") -> tuple[Path, Manifest]:
    path = tmp_path / "share" / "weights"
    path.parent.mkdir()
    path.write_bytes(content(5 * PIECE))
    return path, manifest_of(listed("weights", content(5 * PIECE), digest=digest, etag=version_of(path.stat())))


def test_a_file_is_copied_and_its_digest_told(fetching: Make, tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path)
    fetching().fetch(manifest, locate=lambda file: Location(path.as_uri(), {}, within=str(path.parent)))


def test_a_byte_that_changed_since_the_listing_is_refused_by_name(fetching: Make, tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path)
    with path.open("r+b") as file:
        file.seek(PIECE)
        file.write(b"changed")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    with pytest.raises(SourceChanged, match=r"weights: .* was written to since it was listed"):
        fetching().fetch(manifest, locate=lambda file: Location(path.as_uri(), {}))


class WritingSink:
    """A sink that writes to the file that is being read, once it has got something of it."""

    start = 0

    def __init__(self, path: Path) -> None:
        self.position, self.end = 0, path.stat().st_size
        self._path = path
        self._buffer = memoryview(bytearray(PIECE))

    def space(self) -> memoryview:
        return self._buffer[: self.end - self.position]

    def filled(self, count: int) -> None:
        if not self.position:
            with self._path.open("r+b") as file:
                file.seek(4 * PIECE)
                file.write(b"changed")
            os.utime(self._path, ns=(1, self._path.stat().st_mtime_ns + 1))
        self.position += count

    def share(self, descriptor: int) -> bool:
        return False

    def restart(self) -> None:
        self.position = 0

    def expect(self, digest: bytes) -> None:
        pass


def test_a_byte_that_changes_during_the_copy_is_refused_by_name(tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path)
    places = Places(lambda file: Location(path.as_uri(), {}), InstantClock())
    with pytest.raises(SourceChanged, match=r"weights: .* was written to while it was read"):
        DirectorySource(places).read(manifest.files[0], WritingSink(path), CancelToken())


def test_with_a_digest_it_does_not_matter_when_the_file_was_written(fetching: Make, tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path, digest="sha256")
    os.utime(path, (1, 1))
    fetching().fetch(manifest, locate=lambda file: Location(path.as_uri(), {}))


def test_a_file_that_is_not_here_is_waited_for_once_somebody_has_it(fetching: Make, tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path, digest="sha256")
    path.rename(path.with_name("away"))
    engine = fetching(clock=SystemClock(), backoff_base=0.01)
    fetch = engine.in_thread(manifest, locate=lambda file: Location(path.as_uri(), {}))
    waiting = engine.until(lambda progress: progress.waiting is not None).waiting
    assert waiting is not None
    assert "no other node offers it" in waiting.message
    path.with_name("away").rename(path)
    fetch.join()
    assert fetch.error is None


def test_a_file_that_nobody_has_read_yet_and_is_not_here_is_not_found(fetching: Make, tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path)
    path.unlink()
    with pytest.raises(NotFound, match="weights"):
        fetching().fetch(manifest, locate=lambda file: Location(path.as_uri(), {}))


def test_a_directory_that_became_a_link_leads_nowhere(fetching: Make, tmp_path: Path) -> None:
    path, manifest = on_disk(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / "weights")
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "allowed").mkdir()
    with pytest.raises(UnsafePath, match="weights leads to"):
        fetching().fetch(manifest, locate=lambda file: Location(path.as_uri(), {}, within=str(tmp_path / "allowed")))
