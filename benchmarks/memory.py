"""Memory that a virtual machine has at hand, for whoever is timed next.

A guest with free page reporting (Linux, Documentation/mm/free_page_reporting.rst) hands memory that was free for some two
seconds back to its host, and whoever takes it again pays for that: on the machine where these benchmarks were made, writing
1 GiB into the page cache takes 0.1 s with memory that was in use a moment ago, and 1.5 s with memory that was not, whatever
program does it. A program that starts for a second before it writes would pay, and one that writes at once, into what the
program before it left, would not. So the same is done just before the time of each begins.
"""

from __future__ import annotations

from pathlib import Path

_CHUNK_BYTES = 1 << 20
_TIMES = 2
"""As much memory as is needed: what was freed last is not all that is taken next, least of all in other sizes."""


def take_and_free(path: Path, size: int) -> None:
    """For somebody who needs `size` bytes of page cache. `path` is for a file of twice the size; it must not exist."""
    zeros = bytes(_CHUNK_BYTES)
    with path.open("xb") as file:
        for _ in range(0, _TIMES * size, _CHUNK_BYTES):
            file.write(zeros)
    path.unlink()
