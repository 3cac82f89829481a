"""Where the files of one model are read, and for how long that holds.

A place is what `locate` answered, and the signed URL that the origin redirected to, if it did. Both can stop being accepted:
signed URLs expire, tokens are rotated. A denial means something else for a place that worked before (ask again) than for
one that never did (the answer is no). Several threads read pieces of one file at once and are denied at the same time; the
first replaces the place, and the others see that theirs is not the current one any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock
from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location


class Place:
    """Where one file is read. `target` is where the origin redirected to, `worked` whether content came from it."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.target: str | None = None
        self.worked = False
        self._asking = threading.Condition()
        self._asked = False
        self._somebody_asks = False

    @contextmanager
    def first_answer(self, cancel: CancelToken) -> Iterator[Callable[[], None]]:
        """Lets one reader through until the origin has answered once; the others wait for what it finds out.

        Otherwise all connections would ask the origin for the same redirect. The reader calls what it gets as soon as the
        head of an answer is there; leaving the block without that lets the next one try. Raises Cancelled.
        """
        with cancel.on_cancel(self._wake), self._asking:
            while self._somebody_asks and not self._asked:
                cancel.check()
                self._asking.wait()
            mine = not self._asked
            self._somebody_asks = True
        try:
            yield self._answered
        finally:
            if mine:
                with self._asking:
                    self._somebody_asks = False
                    self._asking.notify_all()

    def _answered(self) -> None:
        with self._asking:
            self._asked = True
            self._asking.notify_all()

    def _wake(self) -> None:
        with self._asking:
            self._asking.notify_all()


class Places:
    """The places of the files of one model. Thread-safe; `locate` may block and raise SourceError."""

    def __init__(self, locate: Callable[[ManifestFile], Location], clock: Clock) -> None:
        self._locate = locate
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}

    def of(self, file: ManifestFile) -> Place:
        """The current place of a file; asks for it when there is none, or when it is over."""
        with self._lock:
            place = self._places.get(file.path)
        if place is not None:
            expires_at = place.location.expires_at
            if expires_at is None or self._clock.unix() < expires_at:
                return place
        place = Place(self._locate(file))
        with self._lock:
            self._places[file.path] = place
        return place

    def denied(self, file: ManifestFile, place: Place) -> bool:
        """`place` was not accepted. True: ask again, it worked before or is not the current one; False: that is final."""
        with self._lock:
            if self._places.get(file.path) is not place:
                return True
            if place.worked:
                del self._places[file.path]
                return True
            return False

    def forget(self, file: ManifestFile) -> None:
        """The next reader asks again."""
        with self._lock:
            self._places.pop(file.path, None)
