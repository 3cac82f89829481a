"""Time as something that is handed in, so that tests of waiting need not wait."""

from __future__ import annotations

import time
from typing import Protocol

from agent.transfer.cancel import CancelToken


class Clock(Protocol):
    """What this package knows about time."""

    def monotonic(self) -> float:
        """Seconds that only grow; for measuring and waiting."""
        ...

    def unix(self) -> float:
        """Unix seconds; for expiry times and for people."""
        ...

    def wait(self, seconds: float, cancel: CancelToken) -> None:
        """Blocks for `seconds`. Raises Cancelled as soon as `cancel` is set."""
        ...


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def unix(self) -> float:
        """See Clock."""
        return time.time()

    def wait(self, seconds: float, cancel: CancelToken) -> None:
        """See Clock."""
        cancel.wait(seconds)
