"""Room on the disk, reserved before the first byte of a download.

Downloads of one agent share what is free: what one has reserved and not yet written is not free for the next. Files of
several pieces get their blocks at once (`fallocate`), so nobody else can take them either; for the small ones the reserve
has to do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.store.census import BLOCK_BYTES
from agent.transfer.errors import InsufficientStorage


def on_disk(size: int) -> int:
    """Bytes that a file of `size` bytes takes on the disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def free_bytes(root: Path) -> int:
    """Bytes that this process may still write to the file system of `root` (without what is kept for root)."""
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


class SpaceLedger:
    """What the downloads of this agent have reserved. `reserve_bytes` always stay free.

    `limit` is what the cache may take altogether (None: no limit) and `occupied` what it takes; both are asked whenever it
    matters. While a small file is written, its bytes are both reserved and occupied: too much for a moment, never too little.
    """

    def __init__(
        self,
        free: Callable[[], int],
        reserve_bytes: int,
        *,
        limit: Callable[[], int | None] = lambda: None,
        occupied: Callable[[], int] = lambda: 0,
    ) -> None:
        self._free = free
        self._reserve_bytes = reserve_bytes
        self._limit = limit
        self._occupied = occupied
        self._lock = threading.Lock()
        self._promised = 0

    def reserve(self, needs: int) -> Reservation:
        """Room for `needs` bytes. Raises InsufficientStorage with the figures."""
        with self._lock:
            usable = self._usable()
            if needs > usable:
                limit = self._limit()
                bound = f"the cache may take {limit} bytes, " if limit is not None else ""
                raise InsufficientStorage(
                    f"{needs} bytes are needed and {usable} are free ({bound}{self._reserve_bytes} are kept free, "
                    f"{self._promised} are reserved by other downloads)",
                    needs=needs,
                    free=usable,
                )
            self._promised += needs
        return Reservation(self, needs)

    def usable(self) -> int:
        """Bytes that a download may reserve now."""
        with self._lock:
            return self._usable()

    def _usable(self) -> int:
        room = self._free() - self._reserve_bytes
        limit = self._limit()
        if limit is not None:
            room = min(room, limit - self._occupied())
        return max(0, room - self._promised)

    def reserved(self) -> int:
        """Bytes that downloads have reserved and not written yet."""
        with self._lock:
            return self._promised

    def settle(self, count: int) -> None:
        """`count` promised bytes are on the disk now, or not needed any more."""
        with self._lock:
            self._promised -= count


class Reservation:
    """A part of the free space. Use as a context manager: what was not used goes back."""

    def __init__(self, ledger: SpaceLedger, count: int) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._left = count

    def used(self, count: int) -> None:
        """`count` bytes have got their blocks: they show in what the file system says is free."""
        with self._lock:
            count = min(count, self._left)
            self._left -= count
        self._ledger.settle(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.used(self._left)
