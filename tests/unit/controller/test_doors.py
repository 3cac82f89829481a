"""Noticing that too many knock, and who says nothing."""

from __future__ import annotations

import pytest

from controller.doors import CROWD, REMEMBERED, Door


def test_a_crowd_is_mentioned_once_in_its_minute_and_ordinary_traffic_never(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    crowd = Door("agents", lambda: now)
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


class Watched:
    """A door, and what it has told."""

    def __init__(self) -> None:
        self.silent: list[int] = []
        self.now = 0.0
        self.door = Door("agents", lambda: self.now, self.silent.append)

    def after(self, arrived: int, *callers: str) -> list[int]:
        """An interval in which so many connect and these call."""
        for _ in range(arrived):
            self.door.arrived()
        for caller in callers:
            self.door.called(caller)
        self.now += 20.0
        self.door.look()
        told, self.silent[:] = list(self.silent), []
        return told


def test_who_calls_at_once_or_in_the_next_interval_is_not_silent() -> None:
    watched = Watched()
    assert watched.after(2, "a:1") == []
    assert watched.after(0, "a:2") == []
    assert watched.after(0) == []


def test_who_never_calls_is_counted_once_and_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    assert watched.after(5, "a:1", "a:2") == []
    assert watched.after(5) == [3]
    assert watched.after(5) == [5]
    assert watched.after(0) == [5]
    assert watched.after(0) == []
    assert len(caplog.records) == 1
    assert "3 of 5 connections to the port for agents" in caplog.text


def test_many_calls_over_one_connection_are_one_caller() -> None:
    watched = Watched()
    assert watched.after(2, *["a:1"] * 50) == []
    assert watched.after(0, *["a:1"] * 50) == [1]


def test_what_is_remembered_is_bounded() -> None:
    watched = Watched()
    for number in range(3 * REMEMBERED):
        watched.door.called(f"a:{number}")
    assert len(watched.door._known) == REMEMBERED
