"""`kill -9` at random moments of a real download: nothing that was finished comes again, and nothing is ever wrong."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.store import Store
from agent.transfer.journal import boot_id, decode
from modelcache.manifest import Manifest
from tests.support.fetching import PIECE, content, listed, manifest_of
from tests.support.origin import Origin
from tests.support.process import TIED
from tests.support.waiting import PATIENCE

LARGE, MEDIUM, SMALL = 120 * PIECE + 123, 7 * PIECE, 1000
CONNECTIONS = 4


def start(cache: Path, manifest: Path, origin: Origin) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.fetch_process", str(cache), str(manifest), origin.url()]
    return subprocess.Popen([*TIED, *command], stdout=subprocess.PIPE, text=True)


def journaled(cache: Path, manifest: Manifest) -> set[tuple[str, int]]:
    """(path, first byte) of every piece that a journal in the cache claims."""
    found = set()
    for file in manifest.files:
        journal = cache / "partial" / str(file.sha256) / "journal"
        if journal.exists():
            claims = decode(journal.read_bytes(), file.size, PIECE, boot_id())
            found |= {(f"/{file.path}", index * PIECE) for index in claims}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_it_goes_on_where_it_was(tmp_path: Path, origin: Origin, seed: int) -> None:
    rng = random.Random(seed)
    files = {"large": content(LARGE, 1), "medium": content(MEDIUM, 2)} | {
        f"small/{number}": content(SMALL, 10 + number) for number in range(20)
    }
    origin.files = {f"/{path}": data for path, data in files.items()}
    manifest = manifest_of(*(listed(path, data) for path, data in files.items()))
    cache = tmp_path / "cache"
    written = tmp_path / "manifest.json"
    written.write_bytes(manifest.encode())

    kills = 0
    while True:
        before, asked = origin.bytes_sent, len(origin.seen)
        finished = journaled(cache, manifest)
        process = start(cache, written, origin)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            if kills < 4:
                amount = rng.randrange(manifest.size // 4)
                origin.until(lambda: origin.bytes_sent - before >= amount or process.poll() is not None)  # noqa: B023
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            else:
                assert process.stdout.readline() == "done\n"
                process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait(PATIENCE)
            process.stdout.close()
        again = {(seen.path, seen.start) for seen in origin.seen[asked:]}
        assert not again & finished, "a piece that the journal claims was asked for again"
        if process.returncode == 0:
            break
    refetched = origin.bytes_sent - manifest.size
    assert refetched <= kills * CONNECTIONS * PIECE, f"{refetched / PIECE:.1f} pieces came twice in {kills} kills"

    with Store.open(cache) as store:
        for path, data in files.items():
            found = (store.paths.current("team", "model") / path).read_bytes()
            assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest()
        assert store.deep_check("team", "model", manifest.snapshot) == []
        assert list(store.paths.partial.iterdir()) == []
