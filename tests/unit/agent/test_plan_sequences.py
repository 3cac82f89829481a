"""Every wish comes true: whatever happens to a node in whatever order, following the plan ends with what is wanted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent import plan
from agent.desired import Wanted
from agent.plan import UNLABELLED, Condition, Snapshot, Target, View, announced, next_step
from agent.store import DELETED, Policy
from modelcache.api.labels import revision_value

examples = settings(deadline=None, derandomize=True, max_examples=150)

REVISIONS = ["a" * 40, "b" * 40, "c" * 40]
TREES = ["1" * 64, "2" * 64]
RETAIN = Policy(retain=True)
MANIFESTS = {
    # d3 is other content under the revision of d1, d4 lacks digests
    "d1": Target("d1", REVISIONS[0], REVISIONS[0], TREES[0], "main"),
    "d2": Target("d2", REVISIONS[1], REVISIONS[1], TREES[1], "main"),
    "d3": Target("d3", REVISIONS[0], REVISIONS[0], TREES[1], "main"),
    "d4": Target("d4", REVISIONS[2], REVISIONS[2], None, "main"),
}


@dataclass
class World:
    """A node in memory on which steps are carried out as the plan names them. Each digest stands for one manifest."""

    wanted: Wanted | None = None
    heard: bool = False
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    target: str | None = None
    fetched: str | None = None
    label: str = UNLABELLED
    emptied: bool = False
    in_use: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    confirmed: bool = False

    def view(self) -> View:
        return View(
            heard=self.heard,
            wanted=self.wanted,
            snapshots=tuple(self.snapshots.values()),
            target=MANIFESTS[self.target] if self.target else None,
            fetched=self.fetched is not None and self.fetched == self.target,
            shown=self.label,
            emptied=self.emptied,
            in_use=self.in_use,
            loaded=self.loaded,
            uses_confirmed=self.confirmed,
        )

    def settle_labels(self) -> None:
        revision = announced(self.view())
        label = revision_value(revision) if revision is not None else UNLABELLED
        self.confirmed = self.confirmed and label == self.label
        self.label = label

    def carry_out(self, step: plan.Step) -> bool:
        """Do it; False when there is nothing to do but wait."""
        match step:
            case plan.FetchManifest(digest):
                self.target = digest
            case plan.Download(digest):
                self.fetched = digest
            case plan.Mend(name):
                here = self.fetched == self.snapshots[name].manifest_digest
                condition = Condition.SOUND if here else Condition.DAMAGED
                self.snapshots[name] = replace(self.snapshots[name], condition=condition)
            case plan.Publish(digest):
                target = MANIFESTS[digest]
                assert all(s.manifest_digest == digest for s in self.snapshots.values() if s.name == target.snapshot)
                held = self.snapshots.get(target.snapshot)
                fresh = held or Snapshot(target.snapshot, digest, target.revision, current=False)
                assert self.wanted is not None
                self.snapshots[target.snapshot] = replace(fresh, ref=target.ref)
                policy = self.wanted.policy
                self.snapshots = {n: replace(s, policy=policy) for n, s in self.snapshots.items()}
            case plan.Switch(name):
                self.snapshots = {n: replace(s, current=n == name) for n, s in self.snapshots.items()}
            case plan.RemoveSnapshot(name):
                removed = self.snapshots.pop(name)
                assert name not in self.in_use
                assert self.label == UNLABELLED or self.label != revision_value(removed.revision)
                assert name not in self.loaded
            case plan.AwaitUnload(snapshots):
                self.loaded -= snapshots
            case plan.Done() if self.loaded:
                # The engines have got the new adapter, and let go of the old one.
                self.loaded = frozenset()
            case plan.AwaitAnswer():
                self.confirmed = True
            case plan.Release():
                assert self.label == UNLABELLED
                self.snapshots = {n: replace(s, current=False) for n, s in self.snapshots.items()}
            case plan.RemoveModel():
                assert self.label == UNLABELLED
                assert not self.snapshots.keys() & self.in_use
                assert not self.loaded
                self.snapshots.clear()
                self.target = self.fetched = None
                self.emptied = True
            case _:
                return False
        return True

    def settle(self) -> plan.Step:
        """Carry steps out until only waiting is left; the labels follow at once, and never promise what is not there."""
        for _ in range(40):
            step = next_step(self.view())
            busy = self.carry_out(step)
            self.settle_labels()
            if self.label != UNLABELLED:
                current = self.view().current
                assert current is not None
                assert current.sound
            if not busy and next_step(self.view()) == step:
                return step
        raise AssertionError(f"does not come to rest: {self}")


EVENTS = ["d1", "d2", "d3", "d4", "keep", "gone", "restart", "damage", "stray", "retain", "delete", "use", "idle"]
EVENTS += ["load"]


@examples
@given(st.lists(st.sampled_from(EVENTS)), st.randoms())
def test_every_sequence_of_events_ends_with_what_is_wanted(events: list[str], rng: random.Random) -> None:
    world, policy = World(), DELETED
    for event in events:
        if event == "restart":
            world.heard, world.wanted, world.target, world.fetched, world.emptied = False, None, None, None, False
        elif event == "damage" and world.snapshots:
            name = rng.choice(sorted(world.snapshots))
            world.snapshots[name] = replace(world.snapshots[name], condition=Condition.DOUBTFUL)
            world.fetched = None
        elif event == "load":
            world.loaded |= {snapshot.name for snapshot in world.snapshots.values() if snapshot.current}
        elif event == "stray":
            world.label = rng.choice([UNLABELLED, "strange"])
        elif event in ("use", "idle"):
            world.in_use = frozenset(world.snapshots) if event == "use" else frozenset()
        elif event in ("retain", "delete"):
            policy = RETAIN if event == "retain" else DELETED
            world.wanted = replace(world.wanted, policy=policy) if world.wanted else None
        elif event in ("keep", "gone", *MANIFESTS):
            world.heard, world.emptied = True, False
            digest = None if event == "keep" else event
            world.wanted = None if event == "gone" else Wanted(digest, hub_ref="main", policy=policy)
        before = dict(world.snapshots)
        step = world.settle()
        assert world.in_use & before.keys() <= world.snapshots.keys()
        if not world.heard or (world.wanted and world.wanted.manifest_digest is None):
            assert world.snapshots.keys() == before.keys()
        elif world.wanted is None:
            retained = {name for name, snapshot in world.snapshots.items() if snapshot.policy.retain}
            in_use = bool(world.in_use & world.snapshots.keys())
            assert isinstance(step, plan.AwaitUsers if in_use else plan.Forget)
            assert in_use or (world.snapshots.keys() == retained and not world.view().current)
        elif world.wanted.manifest_digest == "d4":
            assert step == plan.AwaitDigests("d4")
        elif isinstance(step, plan.AwaitUsers):
            # Other content under the same name, and pods that use what is there.
            assert world.wanted.manifest_digest in ("d1", "d3")
            assert world.label == UNLABELLED or world.label != revision_value(REVISIONS[0])
        else:
            assert step == plan.Done()
            current = world.view().current
            assert current is not None
            assert current.manifest_digest == world.wanted.manifest_digest
            assert world.label == revision_value(current.revision)
            others = {name for name in world.snapshots if name != current.name}
            assert policy.retain or others <= world.in_use
