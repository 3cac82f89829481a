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

from agent.transfer.errors import InsufficientStorage

BLOCK_BYTES = 4096
"""Files take whole blocks; 4 KiB is the block size of ext4 and xfs on every common machine."""


def on_disk(size: int) -> int:
    """Bytes that a file of `size` bytes takes on the disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def free_bytes(root: Path) -> int:
    """Bytes that this process may still write to the file system of `root` (without what is kept for root)."""
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


class SpaceLedger:
    """What the downloads of this agent have reserved. `reserve_bytes` always stay free."""

    def __init__(self, free: Callable[[], int], reserve_bytes: int) -> None:
        self._free = free
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._promised = 0

    def reserve(self, needs: int) -> Reservation:
        """Room for `needs` bytes. Raises InsufficientStorage with the figures."""
        with self._lock:
            usable = max(0, self._free() - self._reserve_bytes - self._promised)
            if needs > usable:
                raise InsufficientStorage(
                    f"{needs} bytes are needed and {usable} are free ({self._reserve_bytes} are kept free, "
                    f"{self._promised} are reserved by other downloads); remove models, or give the cache a larger disk",
                    needs=needs,
                    free=usable,
                )
            self._promised += needs
        return Reservation(self, needs)

    def usable(self) -> int:
        """Bytes that a download may reserve now."""
        with self._lock:
            return max(0, self._free() - self._reserve_bytes - self._promised)

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
