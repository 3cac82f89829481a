"""A cache, an origin that does what the test says, and transfer engines between them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.store import Store
from tests.support.fetching import Fetching
from tests.support.memory import memory_directory
from tests.support.origin import Origin


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An origin without files."""
    with Origin() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty cache."""
    with memory_directory(tmp_path) as directory, Store.open(directory / "cache") as opened:
        yield opened


@pytest.fixture
def fetching(store: Store, origin: Origin) -> Iterator[Callable[..., Fetching]]:
    """Makes transfer engines; options are those of Fetching."""
    made: list[Fetching] = []

    def make(**options: Any) -> Fetching:
        made.append(Fetching(store, origin, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
