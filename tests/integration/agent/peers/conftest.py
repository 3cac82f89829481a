"""A swarm of several agents' engines on loopback, with an origin that counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.support.swarm import Team


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    with Origin() as origin:
        made = Team(origin, tmp_path)
        yield made
        for member in made.members:
            member.close()
