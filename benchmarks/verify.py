"""How fast is everything read again and compared with its digests, when it is in the page cache?

One blob of a store, read in turns: plainly (`readv` into a reused buffer of 1 MiB, one thread), against the xxh3-128 of its
pieces (`Store.check_pieces`), against its sha256 as a deep check does it (`Store.verify_blob`, which computes the piece
digests in the same pass), and, from memory without a file, the sha256 and xxh3 of this CPU in one thread.

    python -m benchmarks.verify [--bytes N] [--rounds N] [--directory DIR]

`xxh3_ratio_read` is the speed of the piece check over that of a plain read, `sha256_ratio_cpu` that of the deep check over
the CPU's sha256: medians of all rounds. The piece check uses two threads, as pieces are independent; `xxh3_ratio_read_single`
is the same with one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import xxhash

from agent.store import NewBlob, Store, checking
from agent.transfer.pieces import PIECE_BYTES
from benchmarks import report
from benchmarks.origin import random_files

MIB, GIB = 1 << 20, 1 << 30
BUFFER_BYTES = MIB
READ, XXH3, XXH3_ONE = "plain read", "xxh3 of pieces", "xxh3 of pieces, one thread"
DEEP, CPU_SHA256, CPU_XXH3 = "deep check, sha256", "sha256 of this CPU", "xxh3 of this CPU"


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-verify-", dir=options.directory) as name:
        directory = Path(name)
        random_files(directory / "new", {"data": options.bytes})
        with Store.open(directory / "cache") as store:
            content = checking.digest_file(directory / "new" / "data", PIECE_BYTES, _free)
            new = NewBlob(directory / "new" / "data", content.sha256, content.size, PIECE_BYTES, content.pieces)
            store.commit_blobs([new])
            rates = measure(store, content, options.rounds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    report.show(
        f"Reading {options.bytes / MIB:,.0f} MiB in the page cache again, {options.rounds} rounds",
        ["what", "median GB/s", "slowest", "fastest", "of a plain read"],
        [
            [name, medians[name] / 1e9, min(values) / 1e9, max(values) / 1e9, medians[name] / medians[READ]]
            for name, values in rates.items()
        ],
    )
    report.finish(
        {
            "xxh3_ratio_read": medians[XXH3] / medians[READ],
            "xxh3_ratio_read_single": medians[XXH3_ONE] / medians[READ],
            "sha256_ratio_cpu": medians[DEEP] / medians[CPU_SHA256],
        }
    )
    return 0


def measure(store: Store, content: checking.ContentDigest, rounds: int) -> dict[str, list[float]]:
    """Bytes per second of everything, one number for each round. Raises RuntimeError when a check finds damage."""
    path = store.paths.blob(content.sha256)
    memory = memoryview(os.urandom(BUFFER_BYTES))

    def xxh3() -> None:
        _expect(store.check_pieces(content.sha256) == ())

    def xxh3_one() -> None:
        _expect(checking.damaged_pieces(path, PIECE_BYTES, content.pieces, _free, threads=1) == ())

    def deep() -> None:
        _expect(store.verify_blob(content.sha256))

    contestants: dict[str, Callable[[], None]] = {
        READ: lambda: _read(path),
        XXH3: xxh3,
        XXH3_ONE: xxh3_one,
        DEEP: deep,
        CPU_SHA256: lambda: _hash(hashlib.sha256(), memory, content.size),
        CPU_XXH3: lambda: _hash(xxhash.xxh3_128(), memory, content.size),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            _read(path)  # kernels that reclaim ahead of need (DAMON) may have taken some of it from the cache
            before = time.perf_counter()
            run()
            rates[name].append(content.size / (time.perf_counter() - before))
    return rates


def _expect(right: bool) -> None:
    if not right:
        raise RuntimeError("a check found damage in a file that nobody touched")


def _free(count: int) -> None:
    """What reads cost here."""


def _read(path: Path) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while os.readv(descriptor, [buffer]):
            pass
    finally:
        os.close(descriptor)


def _hash(digest: _Hash, memory: memoryview, size: int) -> None:
    for start in range(0, size, len(memory)):
        digest.update(memory[: min(len(memory), size - start)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verify", description="Read a blob again and compare it with its digests."
    )
    parser.add_argument("--bytes", type=int, default=GIB, help="of the blob (default 1 GiB; has to fit into memory)")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (default 9)")
    parser.add_argument("--directory", type=Path, help="where to put the blob (default: for temporary files)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
