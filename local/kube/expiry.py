"""Events do not live for ever: an hour after its last write an Event goes (kube-apiserver --event-ttl)."""

import asyncio

from local.kube.store import Change, Store, Stored, key_of

EVENT_SECONDS = 3600.0

_STORAGE = "events"


class EventExpiry:
    """Deletes Events when their time is over. After a restart their time begins anew."""

    def __init__(self, store: Store, seconds: float = EVENT_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        # In the order of the last write, so the first one is due first.
        self._due: dict[str, tuple[float, Stored]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now for what is stored, and follow the store."""
        for stored in self._store.items(_STORAGE):
            self._note(stored)
        self._store.subscribe(self._observe, _STORAGE)

    def stop(self) -> None:
        """No more deletions."""
        if self._timer is not None:
            self._timer.cancel()

    def _observe(self, change: Change) -> None:
        if change.deleted:
            self._due.pop(key_of(change.new.namespace, change.new.name), None)
        else:
            self._note(change.new)

    def _note(self, stored: Stored) -> None:
        key = key_of(stored.namespace, stored.name)
        self._due.pop(key, None)
        self._due[key] = (asyncio.get_running_loop().time() + self._seconds, stored)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._due:
            due, _ = next(iter(self._due.values()))
            self._timer = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for due, stored in tuple(self._due.values()):
            if due > now:
                break
            present = self._store.get(_STORAGE, stored.namespace, stored.name)
            if present is not None:
                self._store.remove(_STORAGE, present)
        self._schedule()
