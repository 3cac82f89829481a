"""What is left to do in one download, and who does what next. No I/O, no clock: a small state machine under one lock.

Files are worked on one after the other, the largest first, and the pieces of a file in ascending order: that keeps the
finished prefix close behind the arriving bytes (see `agent.transfer.hashing`), and leaves the small files, which spread
well, for the end. When the workers outrun the pieces of one file, they go on with the next. Among peers the order is a
little different on each node (`follow`), so that they do not all want the same piece of the same peer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from agent.transfer.cancel import CancelToken


class Work(NamedTuple):
    """Pieces `first` to `last` (exclusive) of the file `key`."""

    key: str
    first: int
    last: int


class _File:
    """`todo` has a byte for each piece, 1 for those that are to be given out; none of them before `low`."""

    __slots__ = ("low", "order", "streaming", "todo", "under_way")

    def __init__(self, order: int) -> None:
        self.order = order
        self.todo = bytearray()
        self.low = 0
        self.streaming = False
        self.under_way = 0

    def add(self, index: int) -> None:
        self.todo[index] = 1
        self.low = min(self.low, index)

    def take(self, index: int) -> bool:
        """Whether a piece was to be given out; now it is. Of a file that was not added yet nothing is."""
        if self.todo[index : index + 1] != b"\1":
            return False
        self.todo[index] = 0
        self.under_way += 1
        return True

    def first(self) -> int | None:
        """The first piece that is to be given out."""
        self.low = self.todo.find(1, self.low)
        if self.low >= 0:
            return self.low
        self.low = len(self.todo)
        return None


class Plan:
    """Files by key, in the order in which they are to be worked on."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._condition = threading.Condition()
        self._files = {key: _File(order) for order, key in enumerate(keys)}
        self._order = list(keys)
        self._ready: list[int] = []
        """Order numbers of files that may have something to do; a heap."""
        self._open = set(keys)
        self._walk: Iterator[tuple[str, int]] = iter(())

    def add(self, key: str, missing: Iterable[int], pieces: int) -> None:
        """The `missing` pieces of a file of `pieces` pieces are to be fetched."""
        with self._condition:
            file = self._files[key]
            file.todo = file.todo or bytearray(pieces)
            for index in missing:
                file.add(index)
            heappush(self._ready, file.order)
            self._condition.notify_all()

    def follow(self, walk: Iterator[tuple[str, int]]) -> None:
        """Gives the pieces (key, number) out in this order first; those that are not to be fetched are passed over.

        Drawn from lazily. What is left or comes back afterwards is given out in the normal order.
        """
        with self._condition:
            self._walk = walk

    def stream(self, key: str) -> None:
        """Only the whole file can be had: from now on it is given out as one piece of work."""
        with self._condition:
            self._files[key].streaming = True

    def next(self, cancel: CancelToken) -> Work | None:
        """Something to do; blocks until there is something. None when all files are closed. Raises Cancelled."""
        with cancel.on_cancel(self._wake), self._condition:
            while True:
                cancel.check()
                if not self._open:
                    return None
                work = self._take()
                if work is not None:
                    return work
                self._condition.wait()

    def put_back(self, work: Work) -> None:
        """What was given out was not done."""
        with self._condition:
            self._files[work.key].under_way -= 1
            pieces = len(self._files[work.key].todo)
        self.add(work.key, range(work.first, work.last), pieces)

    def finished(self, work: Work) -> None:
        """What was given out is done."""
        with self._condition:
            file = self._files[work.key]
            file.under_way -= 1
            if file.first() is not None:
                heappush(self._ready, file.order)
                self._condition.notify_all()

    def close(self, key: str) -> None:
        """Nothing is left to do for a file."""
        with self._condition:
            self._open.discard(key)
            self._condition.notify_all()

    def _take(self) -> Work | None:
        for key, index in self._walk:
            file = self._files[key]
            if not file.streaming and file.take(index):
                return Work(key, index, index + 1)
        while self._ready:
            key = self._order[self._ready[0]]
            file = self._files[key]
            first = file.first()
            if first is None or (file.streaming and file.under_way):
                heappop(self._ready)  # comes back with `add` or `finished`
                continue
            if file.streaming:
                pieces = len(file.todo)
                file.todo = bytearray(pieces)
                file.under_way += 1
                return Work(key, 0, pieces)
            file.take(first)
            return Work(key, first, first + 1)
        return None

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()
