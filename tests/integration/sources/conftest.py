"""A hub in this process, and a source that asks it."""

from collections.abc import Iterator

import pytest

from tests.support.hub import Serve, hubs


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve repositories until the test is over."""
    with hubs() as serve:
        yield serve
