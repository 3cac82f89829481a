"""Ends blocking calls that take too long although something comes now and then.

The time limit of a socket is for one read: who sends one byte each time before it runs out, holds its reader for ever. So
there is a second limit, for an exchange as a whole. One thread watches over all of them, and runs only while there are any.

Deadlines that are met are the rule: those only leave a mark in the queue, and are thrown out when their time comes.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Deadline:
    __slots__ = ("at", "end", "passed")

    def __init__(self, at: float, end: Callable[[], None]) -> None:
        self.at = at
        self.end: Callable[[], None] | None = end
        self.passed = False

    def __lt__(self, other: _Deadline) -> bool:
        return self.at < other.at


class Deadlines:
    """Thread-safe. The real clock: what it ends are system calls."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[_Deadline] = []
        self._running = False

    @contextmanager
    def within(self, seconds: float, end: Callable[[], None]) -> Iterator[None]:
        """Calls `end` (must not block, nor raise) once, from another thread, if the block takes longer than `seconds`.

        It is not called any more when the block has ended. Raises TimeoutError then, whatever the block came to.
        """
        deadline = _Deadline(time.monotonic() + seconds, end)
        with self._changed:
            heapq.heappush(self._queue, deadline)
            if not self._running:
                self._running = True
                threading.Thread(target=self._watch, name="deadlines", daemon=True).start()
            elif self._queue[0] is deadline:
                self._changed.notify_all()
        failed: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- raised below
            failed = error
        finally:
            with self._changed:
                deadline.end = None
        if deadline.passed:
            raise TimeoutError(f"it took longer than {seconds:g} s") from failed
        if failed is not None:
            raise failed

    def _watch(self) -> None:
        with self._changed:
            while self._queue:
                first = self._queue[0]
                left = first.at - time.monotonic()
                if first.end is not None and left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._queue)
                if first.end is not None:
                    first.passed = True
                    first.end()
            self._running = False
