"""Which pods of this node use what, as the workers see it: in memory, and known or not.

What the controller said last counts until it says something else. After a start that is what a former process was told,
which keeps files but releases none: `known` is False until a controller has spoken (see `agent.plan.View.users_known`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial

from agent import plan
from agent.plan import View
from agent.store import PublishedSnapshot, StoreError, User, users_of
from agent.threads import in_thread
from agent.wakeup import Wakeup
from modelcache.kube.clock import Clock
from modelcache.kube.resources import ObjectKey

_log = logging.getLogger(__name__)

NOTE_SECONDS = 600.0
"""Between two notes of what is in use while nothing changes: what the time of a last use may be wrong by after a crash."""


class Users:
    """Everybody who uses something on this node. Called in the event loop."""

    def __init__(
        self,
        clock: Clock,
        remembered: Iterable[User] = (),
        is_adapter: Callable[[ObjectKey], bool] = lambda key: False,
    ) -> None:
        """`remembered`: what a former process knew. `is_adapter`: see `agent.lora.adapters.Adapters.is_adapter`."""
        self._is_adapter = is_adapter
        self.known = False
        self._changed = Wakeup(clock)
        self.everybody: frozenset[User] = frozenset(remembered)
        self._by_namespace = _by_namespace(self.everybody)

    def take(self, users: Iterable[User] | None) -> bool:
        """What the controller says; None: it does not know. Whether that changes anything."""
        known, everybody = users is not None, self.everybody if users is None else frozenset(users)
        if (known, everybody) == (self.known, self.everybody):
            return False
        self.known, self.everybody = known, everybody
        self._by_namespace = _by_namespace(everybody)
        self._changed.set()
        return True

    def state(self, key: ObjectKey) -> tuple[object, ...]:
        """Everything of this that decides about one model: equal as long as `pods_of` and `known` say the same."""
        return self.known, self.everybody, self._is_adapter(key)

    async def run(self, write: Callable[[Collection[User]], None]) -> None:
        """Keep on disk who uses what, until cancelled. `write` (`Store.usage.set_users`) blocks, and raises StoreError."""
        while True:
            self._changed.clear()
            try:
                await in_thread(partial(write, self.everybody))
            except StoreError as error:
                _log.warning("who uses what could not be written down: %s", error)
            await self._changed.wait(NOTE_SECONDS)

    def pods_of(self, row: PublishedSnapshot) -> tuple[str, ...]:
        """The pods (`namespace/name`, sorted) that need a published directory.

        Of a LoRA adapter that is who names it; mounting the models of the whole namespace is not enough.
        """
        users = self._by_namespace.get(row.namespace, [])
        if self._is_adapter(ObjectKey(row.namespace, row.name)):
            users = [user for user in users if user.name]
        return users_of(row, users)


def why_kept(row: PublishedSnapshot, view: View | None, *, heard: bool, users: Users, loaded: frozenset[str]) -> str:
    """Why a published snapshot cannot be evicted, as a clause for people; empty when it can. Pure.

    `view` is that of its model, None when nothing but the cache remembers the model. `heard`: a controller has said what is
    wanted. `loaded`: snapshots of the model that an engine may have loaded.
    """
    pods = users.pods_of(row)
    if not heard or not users.known:
        return "it is not known what is wanted or used here"
    if pods:
        return f"in use by {', '.join(pods[:3])}" + (f" and {len(pods) - 3} more" if len(pods) > 3 else "")
    if row.snapshot in loaded:
        return "loaded into an engine"
    if row.current:
        return "in force"
    if view is not None and _is_wanted(row, view):
        return "wanted"
    return "pinned" if row.policy.pinned else ""


def _is_wanted(row: PublishedSnapshot, view: View) -> bool:
    snapshot = next((each for each in view.snapshots if each.name == row.snapshot), None)
    if view.wanted is None:
        return False
    digest = view.wanted.manifest_digest
    aimed_at = digest is None or digest == row.manifest_digest
    return aimed_at or snapshot is None or not plan.snapshot_may_go(snapshot, view)


def _by_namespace(users: Iterable[User]) -> dict[str, list[User]]:
    found: dict[str, list[User]] = {}
    for user in users:
        found.setdefault(user.namespace, []).append(user)
    return found
