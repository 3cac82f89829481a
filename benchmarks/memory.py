"""What a virtual machine has at hand in its memory, for whoever is timed next: free pages, and the origin's files.

A guest with free page reporting (Linux, Documentation/mm/free_page_reporting.rst) hands memory that was free for some two
seconds back to its host, and whoever takes it again pays for that: on the machine where these benchmarks were made, writing
1 GiB into the page cache takes 0.1 s with memory that was in use a moment ago, and 1.5 s with memory that was not, whatever
program does it. A program that starts for a second before it writes would pay, and one that writes at once, into what the
program before it left, would not. And a kernel that reclaims what nobody has read for a while (Linux,
Documentation/mm/damon) lets a part of the origin's files go between two runs, so that the next program waits for a disk: of
2 GiB up to an eighth was missing. So the same is done just before the time of each begins.
"""

from __future__ import annotations

from pathlib import Path

_CHUNK_BYTES = 1 << 20
_TIMES = 2
"""As much memory as is needed: what was freed last is not all that is taken next, least of all in other sizes."""


def prepare(path: Path, size: int, origin: Path) -> None:
    """For somebody who is about to fetch `size` bytes of the files below `origin`.

    `path` is for a file of twice the size; it must not exist.
    """
    zeros = bytes(_CHUNK_BYTES)
    with path.open("xb") as file:
        for _ in range(0, _TIMES * size, _CHUNK_BYTES):
            file.write(zeros)
    path.unlink()
    read_all(origin)


def read_all(directory: Path) -> None:
    """Has every file below `directory` in the page cache."""
    buffer = bytearray(_CHUNK_BYTES)
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
