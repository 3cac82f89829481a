"""A cache in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store import Store
from tests.support.memory import memory_directory


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where a cache may be made."""
    with memory_directory(tmp_path) as directory:
        yield directory / "cache"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    """An empty cache."""
    with Store.open(root) as opened:
        yield opened
