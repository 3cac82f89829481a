"""Files of the node share their content with the cache where the file system can do that, and are copied where it cannot."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from agent.store import Store
from agent.transfer import Downloader, TransferSettings
from agent.transfer.reflink import clone_range
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import SourceChanged
from modelcache.sources.file import version_of
from tests.support.fetching import listed, manifest_of
from tests.support.instant_clock import InstantClock
from tests.support.mounted import mounted_xfs

MIB = 1024 * 1024
PIECE = 4 * MIB
CONTENTS = {
    "weights": os.urandom(6 * PIECE + 5),  # pieces, the last of which ends within a block
    "one-piece": os.urandom(MIB + 1),
    "config.json": b"{}",
    "empty": b"",
}


def on_disk(share: Path) -> Manifest:
    share.mkdir()
    for path, content in CONTENTS.items():
        (share / path).write_bytes(content)
    return manifest_of(
        *(
            listed(path, content, digest="none", etag=version_of((share / path).stat()))
            for path, content in CONTENTS.items()
        )
    )


def fetch(store: Store, share: Path, manifest: Manifest) -> dict[str, str]:
    def locate(file: ManifestFile) -> Location:
        return Location((share / file.path).as_uri(), {}, within=str(share))

    settings = TransferSettings(piece_bytes=PIECE, reserve_bytes=0)
    with Downloader(store, settings, clock=InstantClock(), environ={}) as downloader, store.hold() as hold:
        digests = dict(downloader.fetch(manifest, locate, namespace="team", hold=hold))
        for path, content in CONTENTS.items():
            assert store.paths.blob(digests[path]).read_bytes() == content
    return digests


def used(place: Path) -> int:
    """Bytes of the file system that are taken."""
    subprocess.run(["sync", "--file-system", place], check=True, timeout=60)
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_what_is_on_the_file_system_of_the_cache_takes_no_room_again(tmp_path: Path) -> None:
    with mounted_xfs(tmp_path / "xfs") as place:
        manifest = on_disk(place / "share")
        with Store.open(place / "cache") as store:
            before = used(place)
            digests = fetch(store, place / "share", manifest)
            assert used(place) - before < sum(map(len, CONTENTS.values())) // 2
            assert digests == {path: hashlib.sha256(content).hexdigest() for path, content in CONTENTS.items()}
            # Shared is not the same: the source may go on with its own.
            with (place / "share" / "weights").open("r+b") as file:
                file.write(b"changed")
            assert store.paths.blob(digests["weights"]).read_bytes() == CONTENTS["weights"]


def test_a_file_that_was_written_to_since_the_listing_is_not_shared(tmp_path: Path) -> None:
    with mounted_xfs(tmp_path / "xfs") as place:
        manifest = on_disk(place / "share")
        weights = place / "share" / "weights"
        with weights.open("r+b") as file:
            file.seek(PIECE)
            file.write(b"changed")
        os.utime(weights, ns=(1, weights.stat().st_mtime_ns + 1))
        with Store.open(place / "cache") as store, pytest.raises(SourceChanged, match="weights"):
            fetch(store, place / "share", manifest)


def test_files_of_different_file_systems_are_copied(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"x" * MIB)
    source = os.memfd_create("source")
    try:
        os.write(source, b"y" * MIB)
        with target.open("r+b") as file:
            assert not clone_range(source, file.fileno(), 0, MIB)
    finally:
        os.close(source)
    assert target.read_bytes() == b"x" * MIB


def test_elsewhere_they_are_copied(tmp_path: Path) -> None:
    manifest = on_disk(tmp_path / "share")
    with Store.open(tmp_path / "cache") as store:
        fetch(store, tmp_path / "share", manifest)
