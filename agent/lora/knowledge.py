"""What is known about the engine of one pod, and how each answer changes it.

An engine lists names. Which version is behind a name follows only from what it was asked, so that is kept as a set:
`possible[name]` are the versions that the name can stand for, should it be listed. No key: it can be anything, because
this agent does not know what was asked before. The engine has said that it loaded v2: {v2}. A load of v1 got no answer and may
still happen: {v1}, and {v1, v2} after a load of v2 got none either. An engine works on one name at a time, so a definite
answer ends all doubts about earlier requests. An adapter counts as loaded if it is listed and can be *nothing but* the
wanted version.

What this cannot tell apart: a load of ours whose answer was lost, and somebody else's of the same name just then. It is taken
for ours, because slow loads are common, and two controllers for one name are a mistake that no agent can repair.

No I/O and no clock here: answers and times come in as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

from agent.lora.engine import Present, local_path
from agent.lora.errors import AlreadyThere, EngineError, EngineNotReady, LoRADisabled
from agent.lora.record import Entry
from modelcache.kube.backoff import full_jitter
from modelcache.kube.resources import ObjectKey

RETRY_BASE = 1.0
RETRY_CAP = 30.0
"""Seconds: what failed is tried again every 30 s in the end, as the user guide says."""
STARTING_BASE = 0.1
STARTING_CAP = 3.0
"""The same for an engine that is still starting: then somebody waits."""
REMOTE_PATIENCE = 60.0
"""Seconds that an engine gets to fetch a source by itself, which goes on after its answer, until that counts as failed."""
REMOTE_LOOK = 2.0

NOT_ROUTABLE = "NotRoutable"
UNLOAD_FAILED = "UnloadFailed"

Work = Literal["load", "unload"]


class Identity(NamedTuple):
    """Exactly what an engine is told to load."""

    manifest_digest: str
    uri: str


class Target(NamedTuple):
    """An adapter that belongs into a pod."""

    model: ObjectKey
    model_uid: str
    lora_name: str
    snapshot: str
    identity: Identity


class Trouble(NamedTuple):
    """Why something fails: `tries` times in a row, the first time at `since`; the next try is at `until`. Monotonic seconds."""

    reason: str
    message: str
    tries: int
    until: float
    since: float


class Listing(NamedTuple):
    """What the engine has listed, and when it was asked."""

    at: float
    present: Mapping[str, Present]


@dataclass
class Knowledge:
    """Of one pod, since the start of its container or of this process."""

    rng: Random
    engine: str = ""
    """Which it is; empty while it is not known."""
    listing: Listing | None = None
    possible: dict[str, frozenset[Identity]] = field(default_factory=dict)
    unsure: dict[str, float] = field(default_factory=dict)
    """Names that were asked for something after the last listing, and since when: it says nothing about them."""
    accepted: dict[str, float] = field(default_factory=dict)
    """Names of which the engine has said that it loads them, without having listed them yet, and since when."""
    taken_out: set[str] = field(default_factory=set)
    """Names of which the engine has said that it takes them out, since the last listing."""
    under_way: dict[str, Work] = field(default_factory=dict)
    asking: bool = False
    """Whether a listing (or the search for the engine) is under way."""
    trouble: Trouble | None = None
    """Of the pod as a whole."""
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """Of single adapters."""

    def recall(self, entries: Mapping[str, Entry], container_start: str) -> None:
        """Take over what the record says about this start of the container."""
        for name, entry in entries.items():
            if entry.confirmed and entry.container_start == container_start:
                self.possible[name] = frozenset({Identity(entry.manifest_digest, entry.uri)})

    def retry(self) -> None:
        """Nothing has to wait any more: the pod is another one."""
        self.trouble = None
        self.troubles.clear()

    def forget(self, name: str) -> None:
        """Nothing more is to be done about an adapter."""
        for facts in (self.possible, self.unsure, self.accepted, self.troubles):
            facts.pop(name, None)
        self.taken_out.discard(name)

    def is_listed(self, target: Target) -> bool:
        """Whether the engine lists the target, and it can be nothing else."""
        name = target.lora_name
        present = self.listing.present.get(name) if self.listing is not None else None
        if present is None or name in self.unsure or self.possible.get(name) != frozenset({target.identity}):
            return False
        path = local_path(target.identity.uri)
        return not present.root or path is None or present.root == path

    # Requests, and what came of them

    def begin(self, name: str, work: Work) -> None:
        """A load (of a name that is not listed) or an unload is about to be sent."""
        self.under_way[name] = work
        if work == "load":
            self.possible.setdefault(name, frozenset())

    def loaded(self, target: Target, now: float) -> None:
        """The engine has said that it loads the target."""
        self._ended(target.lora_name, now)
        self.possible[target.lora_name] = frozenset({target.identity})
        self.accepted.setdefault(target.lora_name, now)

    def load_failed(self, target: Target, error: EngineError, now: float) -> None:
        """It has refused, or has not answered."""
        name = target.lora_name
        self._ended(name, now)
        self.accepted.pop(name, None)
        if isinstance(error, AlreadyThere):
            self.possible.pop(name, None)
        elif error.doubtful and name in self.possible:
            self.possible[name] |= {target.identity}
        self._failed(name, error, error.reason, now)

    def unloaded(self, name: str, now: float) -> None:
        """The engine has said that it takes the adapter out."""
        self._ended(name, now)
        self.possible[name] = frozenset()
        self.accepted.pop(name, None)
        self.taken_out.add(name)

    def unload_failed(self, name: str, error: EngineError, now: float) -> None:
        """It has refused (perhaps because there is nothing to take out), or has not answered."""
        self._ended(name, now)
        self._failed(name, error, UNLOAD_FAILED, now)

    def listed(
        self, present: Mapping[str, Present], targets: Mapping[str, Target], asked_at: float, now: float
    ) -> None:
        """The engine has told its adapters; nothing else was under way meanwhile."""
        self.listing, self.trouble = Listing(asked_at, present), None
        self.unsure.clear()
        for name in self.taken_out:
            if name in present:
                # Without this we would ask for ever, at once.
                self._note(name, UNLOAD_FAILED, f"The engine has taken {name} out, and lists it all the same.", now)
            else:
                self.troubles.pop(name, None)
        self.taken_out.clear()
        for name, target in targets.items():
            if self.is_listed(target):
                self.accepted.pop(name, None)
                self.troubles.pop(name, None)
        for name, since in list(self.accepted.items()):
            wanted = targets.get(name)
            if wanted is None:
                del self.accepted[name]
            elif name not in present:
                self._not_listed(wanted, since, now)
            else:
                del self.accepted[name]
                root = present[name].root
                message = f"The engine has accepted {wanted.identity.uri}, but lists {name} as loaded from {root}."
                self._note(name, NOT_ROUTABLE, message, now)

    def not_listed(self, error: EngineError, now: float) -> None:
        """The engine could not be found, or has not told its adapters."""
        self._pod_failed(error, now)

    def _ended(self, name: str, now: float) -> None:
        self.under_way.pop(name, None)
        self.unsure.setdefault(name, now)

    def _not_listed(self, target: Target, since: float, now: float) -> None:
        """The engine has accepted it, and does not list it."""
        name, uri = target.lora_name, target.identity.uri
        if local_path(uri) is None and now - since < REMOTE_PATIENCE:
            # It fetches the source itself, after its answer.
            self.unsure[name] = since
            before = self.troubles.get(name)
            message = f"The engine fetches {uri} itself, and does not list {name} yet."
            tries, first = (before.tries, before.since) if before is not None else (0, now)
            self.troubles[name] = Trouble(NOT_ROUTABLE, message, tries, now + REMOTE_LOOK, first)
            return
        del self.accepted[name]
        message = f"The engine has accepted {uri}, but does not list {name}; see the log of the pod."
        self._note(name, NOT_ROUTABLE, message, now)

    def _failed(self, name: str, error: EngineError, reason: str, now: float) -> None:
        if isinstance(error, LoRADisabled | EngineNotReady):
            self._pod_failed(error, now)
        else:
            self._note(name, reason, error.message, now)

    def _note(self, name: str, reason: str, message: str, now: float) -> None:
        before = self.troubles.get(name)
        tries, since = (before.tries, before.since) if before is not None else (0, now)
        delay = full_jitter(tries, base=RETRY_BASE, cap=RETRY_CAP, rng=self.rng)
        self.troubles[name] = Trouble(reason, message, tries + 1, now + delay, since)

    def _pod_failed(self, error: EngineError, now: float) -> None:
        before = self.trouble
        tries, since = (before.tries, before.since) if before is not None else (0, now)
        cap = STARTING_CAP if isinstance(error, EngineNotReady) else RETRY_CAP
        delay = full_jitter(tries, base=STARTING_BASE, cap=cap, rng=self.rng)
        if isinstance(error, LoRADisabled):
            delay = RETRY_CAP
        self.trouble = Trouble(error.reason, error.message, tries + 1, now + delay, since)
