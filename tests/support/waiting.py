"""Waiting for a condition instead of for a time.

A test never sleeps for as long as something "usually takes": it names the condition, and a generous limit after which the
wait is a failure. So a slow machine makes the suite slower, not red. Where a stream of events exists (a watch, the output
of a process) wait for the event; poll with these helpers only where nothing announces the change.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 180.0
"""Seconds, for every wait of a test. It ends a wait that would never end, and nothing else: two busy cores are shared by
servers, agents and the test itself, on machines that may do something else as well. Below the `timeout` of a whole test in
pyproject.toml, so that what was waited for is told."""

POLL_INTERVAL = 0.05
"""Seconds between two looks: short against the work waited for, long enough not to compete with it for the processor."""


def wait_until(condition: Callable[[], T | None], *, timeout: float = PATIENCE, what: str = "") -> T:
    """Call `condition` until it returns something truthy, and return that.

    Raises:
        TimeoutError: after `timeout` seconds, naming `what` (or the condition) and the last value seen.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(_message(condition, what, timeout, value))
        time.sleep(POLL_INTERVAL)


async def wait_until_async(
    condition: Callable[[], Awaitable[T | None]], *, timeout: float = PATIENCE, what: str = ""
) -> T:
    """`wait_until` for a condition that has to be awaited; the event loop goes on meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(_message(condition, what, timeout, value))
        await asyncio.sleep(POLL_INTERVAL)


def _message(condition: object, what: str, timeout: float, value: object) -> str:
    name = what or getattr(condition, "__qualname__", repr(condition))
    return f"{name}: not true after {timeout:g} s; last value: {value!r}"
