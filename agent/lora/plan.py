"""What to do next about the adapters of one pod: a pure function of what is wanted, recorded and known, and of the time.

Level-triggered, like `agent.plan`: every look starts from the whole `View`. The rules, and the hazard each of them is for:

- Nothing is loaded before the pod is Ready and its engine has answered a listing (loading into a starting engine is lost).
- A name is loaded only when the newest listing does not have it: engines keep the old version under a name, and call it
  success. So an update is unload, listing, load, listing.
- Only a listing makes an adapter count as loaded, and only one that was asked for after the last request about that name.
- Listings are repeated for ever, because an engine forgets with every restart, also with one that nobody sees.
- A listing is taken while nothing is under way, so that it never shows the middle of something. While loads are queued it
  comes at least every BATCH_SECONDS, so one slow load after the other does not keep the first from being reported.
- Names that this agent has not put there are nobody's business. The one exception is a name that is wanted here: whatever the
  engine has under it is not known to be right.
- What is recorded and not wanted is taken out. What cannot be taken out is given up after GIVE_UP_TRIES and GIVE_UP_SECONDS:
  files and the deletion of the model do not wait for it any longer; trying goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from agent.lora.desired import Pod
from agent.lora.engine import local_path
from agent.lora.errors import LoRADisabled
from agent.lora.knowledge import Knowledge, Target, Trouble
from agent.lora.record import Entry

PER_POD = 2
"""Requests to one engine at once. Engines work on one adapter at a time; a second one waiting keeps them busy."""
BATCH_SECONDS = 0.5
GIVE_UP_TRIES = 3
GIVE_UP_SECONDS = 5.0
"""Longer than a short interruption: one that is restarted right now has forgotten the adapter in a moment."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that decides about one pod.

    `targets` are the adapters that belong into it and whose files are ready, by name. `held` are names that stay as they
    are. `recheck` is how old a listing may get, in seconds. `records` and `knowledge` are about this pod.
    """

    pod: Pod
    knowledge: Knowledge
    targets: Mapping[str, Target] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    records: Mapping[str, Entry] = field(default_factory=dict)
    recheck: float = 30.0


class Look(NamedTuple):
    """Ask the engine for its adapters; find out first which engine it is, if that is not known."""


class Load(NamedTuple):
    """Load an adapter that is not listed. It has to be recorded before the engine is asked."""

    target: Target


class Unload(NamedTuple):
    """Take out what is listed under a name."""

    lora_name: str


class Confirm(NamedTuple):
    """The engine lists the target: the record may say so."""

    target: Target


class Drop(NamedTuple):
    """The record has nothing to say about a name any more. `gone`: because the container that it was about has ended."""

    lora_name: str
    gone: bool = False


class GiveUp(NamedTuple):
    """Nothing waits any longer for a name to be taken out."""

    lora_name: str
    trouble: Trouble


Action: TypeAlias = Look | Load | Unload | Confirm | Drop | GiveUp


class Plan(NamedTuple):
    """What to do now, and when to look again if nothing happens (monotonic seconds; None: no need to).

    `intended` are all loads whose turn has come or will come soon: recorded together they are one file instead of many.
    """

    actions: tuple[Action, ...]
    wake: float | None = None
    intended: tuple[Target, ...] = ()


def next_actions(view: View, now: float) -> Plan:
    """What to do at `now`."""
    knowledge = view.knowledge
    notes = _notes(view, now)
    if notes:
        # They change what is recorded, and cost nothing: look again afterwards.
        return Plan(notes)
    names = _open_names(view)
    if not view.pod.ip or not view.pod.container_start or not names or knowledge.asking:
        return Plan(())
    if knowledge.trouble is not None and now < knowledge.trouble.until:
        hope = knowledge.trouble.since + GIVE_UP_SECONDS
        return Plan((), min(knowledge.trouble.until, hope) if now < hope else knowledge.trouble.until)
    listing = knowledge.listing
    if not knowledge.engine or listing is None or now >= listing.at + view.recheck:
        return Plan(() if knowledge.under_way else (Look(),))
    starts, wake = _starts(view, names, now, listing.at + view.recheck)
    since = min((at for name, at in knowledge.unsure.items() if _is_due(knowledge, name, now)), default=None)
    if since is not None and (not starts or now >= since + BATCH_SECONDS):
        return Plan(() if knowledge.under_way else (Look(),), wake)
    room = PER_POD - len(knowledge.under_way)
    intended = tuple(start.target for start in starts if isinstance(start, Load))
    return Plan(starts[:room] if room > 0 else (), wake, intended)


def is_loaded(view: View, target: Target) -> bool:
    """Whether the target counts as loaded: listed by this start of the container, and confirmed."""
    entry = view.records.get(target.lora_name)
    return (
        entry is not None
        and entry.confirmed
        and (entry.manifest_digest, entry.uri) == target.identity
        and entry.container_start == view.pod.container_start
        and view.knowledge.is_listed(target)
    )


def _notes(view: View, now: float) -> tuple[Action, ...]:
    """What has only to be written down."""
    knowledge, pod, notes = view.knowledge, view.pod, list[Action]()
    for name, entry in view.records.items():
        if name in knowledge.under_way:
            continue
        target = view.targets.get(name)
        if entry.container_start != pod.container_start:
            notes.append(Drop(name, gone=True))
        elif target is not None:
            known = entry.confirmed and entry_is_about(entry, target)
            if not known and (entry.manifest_digest, entry.uri) == target.identity and knowledge.is_listed(target):
                notes.append(Confirm(target))
        elif name not in view.held:
            notes += _farewell(view, name, entry, now)
    return tuple(notes)


def entry_is_about(entry: Entry, target: Target) -> bool:
    """Whether an entry records just this target."""
    return (entry.model, entry.model_uid, entry.manifest_digest, entry.uri) == (
        target.model,
        target.model_uid,
        *target.identity,
    )


def _farewell(view: View, name: str, entry: Entry, now: float) -> list[Action]:
    """About a name that does not belong into the pod."""
    knowledge = view.knowledge
    listing = knowledge.listing
    if listing is not None and name not in knowledge.unsure:
        present = listing.present.get(name)
        path = local_path(entry.uri)
        if present is None or (present.root and path is not None and present.root != path):
            # It is out, or somebody has put another one in its place.
            return [Drop(name)]
    if knowledge.trouble is not None and knowledge.trouble.reason == LoRADisabled.reason:
        return [Drop(name)]
    for trouble in (knowledge.troubles.get(name), knowledge.trouble):
        if trouble is None or entry.given_up:
            continue
        if trouble.tries >= GIVE_UP_TRIES and now >= trouble.since + GIVE_UP_SECONDS:
            return [GiveUp(name, trouble)]
    return []


def _open_names(view: View) -> set[str]:
    """Names about which something is, or will be, to be done."""
    leaving = {name for name in view.records if name not in view.targets and name not in view.held}
    return (leaving | set(view.targets)) if view.pod.ready else leaving


def _starts(view: View, names: set[str], now: float, wake: float) -> tuple[tuple[Action, ...], float]:
    """Loads and unloads that may begin, and the next moment at which that could change by itself."""
    knowledge = view.knowledge
    listing = knowledge.listing
    assert listing is not None
    starts = list[Action]()
    for name in sorted(names):
        if name in knowledge.under_way:
            continue
        trouble = knowledge.troubles.get(name)
        if trouble is not None and now < trouble.until:
            wake = min(wake, trouble.until)
        elif name not in knowledge.unsure:
            target = view.targets.get(name)
            if name in listing.present:
                if target is None or not knowledge.is_listed(target):
                    starts.append(Unload(name))
            elif target is not None:
                starts.append(Load(target))
    return tuple(starts), wake


def _is_due(knowledge: Knowledge, name: str, now: float) -> bool:
    trouble = knowledge.troubles.get(name)
    return trouble is None or now >= trouble.until or name not in knowledge.accepted
