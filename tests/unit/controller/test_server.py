"""Noticing that too many knock."""

from __future__ import annotations

import pytest

from controller.server import CROWD, Crowd


def test_a_crowd_is_mentioned_once_in_its_minute_and_ordinary_traffic_never(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    crowd = Crowd("agents", lambda: now)
    for number in range(CROWD - 1):
        now = number / CROWD
        crowd.arrived()
    now = 61.0
    crowd.arrived()
    assert not caplog.records
    for _ in range(4 * CROWD):
        crowd.arrived()
    assert len(caplog.records) == 1
    assert "port for agents" in caplog.text
