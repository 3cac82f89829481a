"""A process that downloads one model until it is killed: `python -m tests.support.fetch_process CACHE MANIFEST ORIGIN`."""

import sys
from pathlib import Path

from agent.store import Store
from agent.transfer import Downloader, TransferSettings
from modelcache.manifest import Manifest
from modelcache.sources.base import Location
from tests.support.fetching import PIECE


def main() -> None:
    """Downloads, publishes, and prints `done`."""
    cache, manifest_file, origin = sys.argv[1:]
    manifest = Manifest.decode(Path(manifest_file).read_bytes())
    settings = TransferSettings(piece_bytes=PIECE, reserve_bytes=0, connections=4)
    with Store.open(Path(cache)) as store, Downloader(store, settings, environ={}) as downloader, store.hold() as hold:
        print("open", flush=True)  # noqa: T201 -- what the test waits for
        digests = downloader.fetch(
            manifest, lambda file: Location(f"{origin}/{file.path}", {}), namespace="team", hold=hold
        )
        complete = manifest.with_sha256(digests)
        store.publish("team", "model", complete)
        store.set_current("team", "model", complete.snapshot)
    print("done", flush=True)  # noqa: T201 -- what the test waits for


if __name__ == "__main__":
    main()
