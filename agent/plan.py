"""What to do next for one model: the agent's decisions, as pure functions of what is wanted and what is there.

Level-triggered: `next_step` looks at the whole `View` and names the one step that brings the node nearer to what is
wanted. Nothing is remembered between two looks, so it does not matter in which order the world changed, how often a
desired state was replayed, or where the process was killed. Carrying the step out is the business of `agent.worker`.

The orders that must never be broken, and the place where each of them is held:

- Nothing is removed, switched or published unless a controller has said so: `heard` is False until the first desired state.
  Until then, what is published is put right where that is possible, and else kept as it is. So is a model whose manifest
  the controller does not know yet.
- The label goes before the files: `RemoveModel` only once the API server has confirmed that the label is gone.
- An adapter goes out of the engines before its files go: `AwaitUnload` (see `agent.lora`).
- Files come before the label: `announced` names only a revision that is published, sound and `current`.
- Nothing goes that a pod uses: `AwaitUsers` stands between the label and the files, and while nobody knows who uses what,
  everything that was ever in force may be in use (`View.users_known`).
- What is known about pods must be newer than the label: a pod may have been sent here by it in the last moment, and nobody
  has told yet. So `AwaitAnswer` stands between the two: the controller looks again after the label has gone (see
  `agent.questions`).
- An update never withdraws: the old snapshot stays current and announced until the new one is published; it is removed
  only after the node's labels stand at the new one (`snapshot_may_go`).
- Nothing unchecked is published: `Publish` only with a sha256 for every file, and with the expected checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from agent.desired import Wanted
from agent.store import DELETED, Policy
from modelcache.api.labels import revision_value
from modelcache.rpc.modelcache_pb2 import Phase

UNLABELLED = ""
"""`View.shown` of a node that is known to carry no label of the model."""


class Condition(Enum):
    """What is known about the files of a published snapshot."""

    SOUND = "sound"
    """The last check found every file as it was published."""
    DOUBTFUL = "doubtful"
    """Something differs from what was published, or was never checked: reading the content will tell."""
    DAMAGED = "damaged"
    """Content is missing or wrong and has to be fetched again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A published directory of the model. `ref` is its branch or tag in the hub view, empty for none."""

    name: str
    manifest_digest: str
    revision: str
    current: bool
    condition: Condition = Condition.SOUND
    ref: str = ""
    policy: Policy = DELETED

    @property
    def sound(self) -> bool:
        """Whether a pod may rely on it."""
        return self.condition is Condition.SOUND


@dataclass(frozen=True, slots=True)
class Target:
    """What matters of the wanted manifest: the snapshot that it becomes, and `tree_digest`, None while it is incomplete.

    `ref` is the branch or tag under which the hub view should offer it, empty for none. `only_file` is the sha256 of a model
    of one file, which users have at hand rather than a tree digest; empty for others.
    """

    digest: str
    snapshot: str
    revision: str
    tree_digest: str | None
    ref: str = ""
    only_file: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that decides about one model.

    `heard`: a desired state has been received since the process started. `wanted`: the model's entry in it, None when it
    is not listed; before it, what this agent wants of itself (see `agent.content.own_order`). `target`: the wanted manifest,
    once it is known. `fetched`: every file of the target is in the store and was checked. `contradiction`: how the target's
    digests differ from those of the bytes that were fetched for it, empty when they do not. `shown`: value of the revision
    label that the API server has confirmed, UNLABELLED when it has confirmed that there is none, None when neither is known.
    `emptied`: the files of the model have been removed.
    `loaded`: names of the snapshots that an engine of this node may have loaded, for a LoRA adapter.
    `in_use`: names of the snapshots for which pods of this node are known to need them. `users_known` False: there may be
    others, nobody knows at the moment. `uses_confirmed`: somebody has looked since the labels of the model have changed last
    (or nobody does such a thing, see `agent.questions`).
    `listed`: the last question about the source that was answered.
    """

    heard: bool
    wanted: Wanted | None = None
    snapshots: tuple[Snapshot, ...] = ()
    target: Target | None = None
    fetched: bool = False
    contradiction: str = ""
    shown: str | None = None
    emptied: bool = False
    loaded: frozenset[str] = frozenset()
    in_use: frozenset[str] = frozenset()
    users_known: bool = True
    uses_confirmed: bool = True
    listed: str = ""

    @property
    def current(self) -> Snapshot | None:
        """The snapshot in force."""
        return next((snapshot for snapshot in self.snapshots if snapshot.current), None)

    def may_be_in_use(self, snapshot: Snapshot) -> bool:
        """Whether a pod may need the files of this snapshot."""
        return not self.users_known or snapshot.name in self.in_use


@dataclass(frozen=True, slots=True)
class Keep:
    """Change nothing: nobody has said what the model should be."""


@dataclass(frozen=True, slots=True)
class ListSource:
    """Tell the controller what the source has: only nodes can see it."""

    id: str


@dataclass(frozen=True, slots=True)
class FetchManifest:
    """Get the manifest from the disk or the controller."""

    digest: str


@dataclass(frozen=True, slots=True)
class Download:
    """Bring every file of the manifest into the store, checked."""

    digest: str


@dataclass(frozen=True, slots=True)
class Mend:
    """Read what is doubtful about a published snapshot, and put right what the store has the content for."""

    snapshot: str


@dataclass(frozen=True, slots=True)
class AwaitDigests:
    """All is there, but the manifest lacks digests: wait until the controller names a complete one."""

    digest: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Make the snapshot's directory, beside others of the model; for one that is there, only its hub reference changes."""

    digest: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Point `current` at a published snapshot."""

    snapshot: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Wait until the node's labels show this revision."""

    revision: str


@dataclass(frozen=True, slots=True)
class RemoveSnapshot:
    """Remove one snapshot, with the consent of `snapshot_may_go`."""

    snapshot: str


@dataclass(frozen=True, slots=True)
class Done:
    """The node holds exactly what is wanted, and says so."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """What is wanted cannot be done as it is. `reason` and `message` as in the wire's Problem."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Wait until the API server has confirmed that the node carries no label of the model."""


@dataclass(frozen=True, slots=True)
class AwaitUnload:
    """Wait until no engine has these snapshots loaded any more."""

    snapshots: frozenset[str]


@dataclass(frozen=True, slots=True)
class AwaitUsers:
    """Wait until no pod needs the files of these snapshots any more."""

    snapshots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitAnswer:
    """Wait until the controller, asked after the labels had gone, has said that no pod needs the files of these snapshots."""

    snapshots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Leave the files to the cache: nothing is in force any more, and they go when their room is needed."""


@dataclass(frozen=True, slots=True)
class RemoveModel:
    """Remove every file of the model."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of the model is left: it disappears from the reports."""


Step: TypeAlias = (
    Keep
    | ListSource
    | FetchManifest
    | Download
    | Mend
    | AwaitDigests
    | Publish
    | Switch
    | Announce
    | RemoveSnapshot
    | Done
    | Refuse
    | Withdraw
    | AwaitUnload
    | AwaitUsers
    | AwaitAnswer
    | Release
    | RemoveModel
    | Forget
)


def named(step: Step) -> str:
    """A step for the log: `download`, `switch 1a2b3c`."""
    words = "".join(f" {character.lower()}" if character.isupper() else character for character in type(step).__name__)
    detail = getattr(step, "snapshot", None) or getattr(step, "revision", None)
    return f"{words.strip()} {detail}" if detail else words.strip()


def next_step(view: View) -> Step:
    """The step that comes next."""
    wanted, target, current = view.wanted, view.target, view.current
    if view.heard and wanted is None:
        return _removal(view)
    if current is not None and current.condition is Condition.DOUBTFUL:
        # Also without a controller: it needs nothing but what is on the disk.
        return Mend(current.name)
    if wanted is None:
        return Keep()
    if wanted.flaw:
        return Refuse("InvalidDesiredState", f"The controller's instruction cannot be used: {wanted.flaw}.")
    if wanted.manifest_digest is None:
        listing = wanted.listing
        return ListSource(listing.id) if listing is not None and listing.id != view.listed else Keep()
    if target is None or target.digest != wanted.manifest_digest:
        return FetchManifest(wanted.manifest_digest)
    if wanted.tree_digest and target.tree_digest and wanted.tree_digest not in (target.tree_digest, target.only_file):
        return Refuse(
            "ChecksumMismatch",
            f"spec.verification.checksum is sha256:{wanted.tree_digest}, but the files of revision {target.revision} have "
            f"sha256:{target.only_file or target.tree_digest}; correct the checksum or the version.",
        )
    if view.contradiction:
        return Refuse("DigestMismatch", view.contradiction)
    held = next((snapshot for snapshot in view.snapshots if snapshot.manifest_digest == target.digest), None)
    if not view.heard and (held is None or held.sound):
        return Keep()
    if held is None or not held.sound:
        return _arrival(view, target, held)
    return _settling(view, target, held)


def _arrival(view: View, target: Target, held: Snapshot | None) -> Step:
    """The way of a revision into its directory. `held`: it is there, but not as it should be."""
    if held is not None and held.condition is Condition.DOUBTFUL:
        return Mend(held.name)
    if not view.fetched:
        return Download(target.digest)
    if held is not None:
        return Mend(held.name)
    if target.tree_digest is None:
        return AwaitDigests(target.digest)
    obstacle = next((snapshot for snapshot in view.snapshots if snapshot.name == target.snapshot), None)
    if obstacle is None:
        return Publish(target.digest)
    # Other content under the same revision (the source was exchanged for another one that uses the same name): the only
    # update that cannot happen side by side. The new content is complete, so the gap is short.
    if not _is_withdrawn(obstacle, view):
        return Withdraw()
    if obstacle.name in view.loaded:
        return AwaitUnload(frozenset({obstacle.name}))
    return AwaitUsers((obstacle.name,)) if view.may_be_in_use(obstacle) else _remove(obstacle, view)


def _settling(view: View, target: Target, held: Snapshot) -> Step:
    """From a published snapshot to a node that holds and announces nothing else."""
    wanted = view.wanted
    if held.ref != target.ref or any(wanted and each.policy != wanted.policy for each in view.snapshots):
        return Publish(target.digest)
    if not held.current:
        return Switch(held.name)
    if view.shown != revision_value(held.revision):
        return Announce(held.revision)
    for snapshot in view.snapshots:
        if snapshot is not held and not snapshot.policy.retain and snapshot_may_go(snapshot, view):
            return _remove(snapshot, view)
    return Done()


def _remove(snapshot: Snapshot, view: View) -> Step:
    return RemoveSnapshot(snapshot.name) if view.uses_confirmed else AwaitAnswer((snapshot.name,))


def _removal(view: View) -> Step:
    """The way of a model off the node: label, then the engines, then the pods that use it, then files, then the reports.

    Where nothing was published, there is nothing that a pod could use, and nobody has to be asked.
    """
    if view.shown != UNLABELLED:
        return Withdraw()
    if view.loaded:
        return AwaitUnload(view.loaded)
    used = tuple(snapshot.name for snapshot in view.snapshots if view.may_be_in_use(snapshot))
    if used:
        return AwaitUsers(used)
    retained = bool(view.snapshots) and all(snapshot.policy.retain for snapshot in view.snapshots)
    if view.emptied or (retained and view.current is None):
        return Forget()
    if view.snapshots and not view.uses_confirmed:
        return AwaitAnswer(tuple(snapshot.name for snapshot in view.snapshots))
    return Release() if retained else RemoveModel()


def snapshot_may_go(snapshot: Snapshot, view: View) -> bool:
    """Whether one snapshot of a model that stays on the node may be removed now.

    Nobody may be sent to it any more, no engine may read it, and no pod use it.
    """
    unused = snapshot.name not in view.loaded and not view.may_be_in_use(snapshot)
    return unused and _is_withdrawn(snapshot, view)


def _is_withdrawn(snapshot: Snapshot, view: View) -> bool:
    """Whether the node's labels either stand at the snapshot in force, and it is another one, or there are none."""
    if view.shown == UNLABELLED:
        return True
    current = view.current
    return (
        current is not None
        and current.sound
        and snapshot.name != current.name
        and view.shown == revision_value(current.revision)
    )


def announced(view: View) -> str | None:
    """The revision that the node's labels should show for the model; None: no label.

    A restart of the agent, of the controller or a failed update does not change it: it follows only what is published,
    sound and current, and the decision that it has to go.
    """
    current = view.current
    if current is None or not current.sound:
        return None
    step = next_step(view)
    if isinstance(step, AwaitUnload | AwaitUsers | AwaitAnswer):
        leaving = view.wanted is None or current.name in step.snapshots
    else:
        leaving = isinstance(step, Withdraw | Release | RemoveModel | Forget) or step == RemoveSnapshot(current.name)
    return None if leaving else current.revision


def phase_of(view: View, *, failed: bool, working: bool) -> Phase.ValueType:
    """How the state is reported.

    `failed`: the next step was tried and cannot succeed by itself. `working`: it is being carried out or will be tried
    again, and does not wait for its turn.
    """
    if view.heard and view.wanted is None:
        return Phase.PHASE_REMOVING
    step = next_step(view)
    if failed or isinstance(step, Refuse):
        return Phase.PHASE_FAILED
    if isinstance(step, Done) or (isinstance(step, RemoveSnapshot | AwaitAnswer) and _holds_wanted(view)):
        return Phase.PHASE_READY
    if isinstance(step, Keep):
        return _phase_of_kept(view)
    if isinstance(step, FetchManifest | Mend):
        return Phase.PHASE_PENDING
    if isinstance(step, Download):
        return Phase.PHASE_DOWNLOADING if working else Phase.PHASE_PENDING
    return Phase.PHASE_VERIFIED


def _holds_wanted(view: View) -> bool:
    """Whether what is wanted is in force, and announced: something else is on its way out."""
    current, target = view.current, view.target
    here = current is not None and target is not None and current.manifest_digest == target.digest
    return here and announced(view) is not None


def _phase_of_kept(view: View) -> Phase.ValueType:
    current = view.current
    if current is None or not current.sound:
        return Phase.PHASE_PENDING
    return Phase.PHASE_READY if view.shown == revision_value(current.revision) else Phase.PHASE_VERIFIED
