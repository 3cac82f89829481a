"""A queue of keys that a controller has yet to look at, worked off between requests.

Listeners of the store may not write, so a controller notes the key and does the work in the event loop's next rounds: in
slices, so that deleting ten thousand objects does not keep every request waiting.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from local.kube.errors import ApiError

_log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

# Long enough to be worth the round trip through the loop, short enough not to be noticed by a request.
_SLICE_SECONDS = 0.02


class Worker(Generic[Key]):
    """Calls `process` once for every key that was added, however often it was added meanwhile."""

    def __init__(self, process: Callable[[Key], None]) -> None:
        self._process = process
        self._pending: dict[Key, None] = {}
        self._scheduled = False

    def add(self, key: Key) -> None:
        """Look at the key soon: before any request that is not read yet, if the queue was empty."""
        self._pending[key] = None
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        self._scheduled = False
        until = time.monotonic() + _SLICE_SECONDS
        while self._pending and time.monotonic() < until:
            key = next(iter(self._pending))
            del self._pending[key]
            try:
                self._process(key)
            except ApiError as error:
                # The object changed or went between the event and now; its next event brings the key back.
                _log.info("%s: %s", key, error)
            except Exception:  # noqa: BLE001  (one bad object must not stop a controller)
                _log.exception("%s: a controller failed; the next change of the object tries again", key)
        if self._pending and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._work)
