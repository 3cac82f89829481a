"""What was found out about published files, and put right: told to the controller for its Events, and counted for metrics.

Reports are state, Events are moments. So a finding stays in the reports for a while, under an id of its own, and whoever
makes Events of them does so once for each id. Ten minutes are longer than a change of leader takes.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.store import Problem
from modelcache.kube.resources import ObjectKey

_log = logging.getLogger(__name__)

FILES_DAMAGED = "FilesDamaged"
FILES_REPAIRED = "FilesRepaired"
INDEX_REBUILT = "IndexRebuilt"
KEPT_SECONDS = 600.0
KEPT_COUNT = 10
"""Of one model. A disk that dies must not fill the reports."""
_NAMED_FILES = 3


class Finding(NamedTuple):
    """`reason` is fit for an Event, `message` a sentence, `at` is monotonic."""

    id: str
    reason: str
    message: str
    at: float


def described(revision: str, problems: Sequence[Problem]) -> str:
    """Damage as a sentence for the user. Without `problems`, all that is known is that there is some."""
    named = "; ".join(f"{problem.path}: {problem.detail}" for problem in problems[:_NAMED_FILES])
    more = f" and {len(problems) - _NAMED_FILES} more" if len(problems) > _NAMED_FILES else ""
    what = f": {named}{more}" if named else ""
    return (
        f"Files of revision {revision} are not as they were published{what}. The node's label is withdrawn until they are "
        "put right."
    )


@dataclass(slots=True)
class Findings:
    """All findings of this process. `damages` and `repairs` count from its start and never go down."""

    damages: int = 0
    repairs: int = 0
    _kept: dict[ObjectKey, deque[Finding]] = field(default_factory=dict)
    _open: set[ObjectKey] = field(default_factory=set)

    def damaged(self, key: ObjectKey, revision: str, problems: Sequence[Problem], now: float) -> None:
        """Something published of a model is not as it was."""
        self.damages += 1
        self._open.add(key)
        message = described(revision, problems)
        _log.warning("%s", message, extra={"model": str(key), "revision": revision})
        self._keep(key, FILES_DAMAGED, message, now)

    def repaired(self, key: ObjectKey, revision: str, now: float) -> None:
        """It is again. Nothing happens if there was no damage."""
        if key in self._open:
            self._open.discard(key)
            self.repairs += 1
            self._keep(key, FILES_REPAIRED, f"All files of revision {revision} are as they were published again.", now)

    def rebuilt(self, key: ObjectKey, revision: str, now: float) -> None:
        """The index of the cache was lost, and with it who has checked the files of this model."""
        message = (
            f"The index of the node's cache was lost or damaged, and built anew from the disk: revision {revision} is read "
            "again before the node counts as ready for it."
        )
        self._keep(key, INDEX_REBUILT, message, now)

    def recent(self, key: ObjectKey, now: float) -> list[Finding]:
        """Those about a model that are worth telling, in the order in which they were made."""
        return [finding for finding in self._kept.get(key, ()) if now - finding.at < KEPT_SECONDS]

    def forget(self, key: ObjectKey) -> None:
        """The model is not here any more."""
        self._kept.pop(key, None)
        self._open.discard(key)

    def _keep(self, key: ObjectKey, reason: str, message: str, now: float) -> None:
        self._kept.setdefault(key, deque(maxlen=KEPT_COUNT)).append(Finding(uuid.uuid4().hex, reason, message, now))
