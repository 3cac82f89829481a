"""What happens a thousand times is said once, and then counted."""

from __future__ import annotations

import logging

import pytest

from modelcache.loglimit import LogLimit

_log = logging.getLogger("test.loglimit")


def test_the_first_is_said_the_next_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0, 1.0, 59.0, 60.0, 61.0, 200.0])
    quietly = LogLimit(_log, lambda: next(times))
    for number in range(6):
        quietly.warning("kind", "refused %d", number)
    assert [record.getMessage() for record in caplog.records] == [
        "refused 0",
        "refused 3 (and 2 more of this kind before)",
        "refused 5 (and 1 more of this kind before)",
    ]


def test_kinds_are_told_apart_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    quietly = LogLimit(_log, lambda: 0.0, capacity=3)
    for number in range(1000):
        quietly.warning(f"kind {number}", "refused %d", number)
    assert len(caplog.records) == 4, "three kinds, and one for all others"
    assert len(quietly._seen) == 4
