"""A directory in memory for tests that sync often: they then take the same time however busy the disk is."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def memory_directory(otherwise: Path) -> Iterator[Path]:
    """An empty directory in memory, removed afterwards; `otherwise` where there is no shared memory."""
    if not SHARED_MEMORY.is_dir():
        yield otherwise
        return
    path = Path(tempfile.mkdtemp(prefix="model-cache-test-", dir=SHARED_MEMORY))
    try:
        yield path
    finally:
        shutil.rmtree(path)
