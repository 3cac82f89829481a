"""The orders that must never be broken, for every state that can be written down, and that all of them come to an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import plan
from agent.desired import Wanted
from agent.listing import Listing
from agent.plan import UNLABELLED, Condition, Snapshot, Target, View, announced, next_step, phase_of, snapshot_may_go
from agent.store import Policy
from modelcache.api.labels import revision_value
from modelcache.rpc.modelcache_pb2 import (
    PHASE_DOWNLOADING,
    PHASE_FAILED,
    PHASE_PENDING,
    PHASE_READY,
    PHASE_REMOVING,
    PHASE_VERIFIED,
)

examples = settings(deadline=None, derandomize=True, max_examples=150)

REVISIONS = ["a" * 40, "b" * 40, "c" * 40]
TREES = ["1" * 64, "2" * 64]

digests = st.sampled_from(["d1", "d2", "d3"])
policies = st.builds(Policy, retain=st.booleans(), pinned=st.booleans(), keyless=st.booleans())
wanteds = st.builds(
    Wanted,
    manifest_digest=st.none() | digests,
    hub_ref=st.sampled_from(["", "main"]),
    tree_digest=st.sampled_from(["", *TREES]),
    flaw=st.sampled_from(["", "", "", "it makes no sense"]),
    policy=policies,
)
targets = st.builds(
    Target,
    digest=digests,
    snapshot=st.sampled_from(REVISIONS),
    revision=st.sampled_from(REVISIONS),
    tree_digest=st.none() | st.sampled_from(TREES),
    ref=st.sampled_from(["", "main"]),
)


@st.composite
def snapshot_sets(draw: st.DrawFn) -> tuple[Snapshot, ...]:
    names = draw(st.lists(st.sampled_from(REVISIONS), unique=True))
    current = draw(st.sampled_from([*names, ""]))
    policy = draw(policies)
    return tuple(
        Snapshot(
            name=name,
            manifest_digest=draw(digests),
            revision=name,
            current=name == current,
            condition=draw(st.sampled_from(list(Condition))),
            ref=draw(st.sampled_from(["", "main"])),
            policy=policy,
        )
        for name in names
    )


views = st.builds(
    View,
    heard=st.booleans(),
    wanted=st.none() | wanteds,
    snapshots=snapshot_sets(),
    target=st.none() | targets,
    fetched=st.booleans(),
    contradiction=st.sampled_from(["", "", "x differs"]),
    shown=st.sampled_from([None, UNLABELLED, *map(revision_value, REVISIONS)]),
    emptied=st.booleans(),
    in_use=st.frozensets(st.sampled_from(REVISIONS)),
    users_known=st.sampled_from([True, True, True, False]),
    uses_confirmed=st.booleans(),
    loaded=st.frozensets(st.sampled_from(REVISIONS), max_size=2),
)


@examples
@given(views)
def test_without_a_controller_nothing_is_removed_or_begun(view: View) -> None:
    step = next_step(replace(view, heard=False, wanted=None))
    assert isinstance(step, plan.Keep | plan.Mend)


@examples
@given(views)
def test_without_a_controller_an_agent_only_puts_right_what_is_published(view: View) -> None:
    alone = replace(view, heard=False)
    step = next_step(alone)
    assert isinstance(step, plan.Keep | plan.Mend | plan.FetchManifest | plan.Download | plan.Refuse)
    if isinstance(step, plan.Download):
        assert any(each.manifest_digest == step.digest and not each.sound for each in alone.snapshots)


@examples
@given(views)
def test_an_unknown_manifest_means_keep(view: View) -> None:
    step = next_step(replace(view, heard=True, wanted=Wanted(manifest_digest=None)))
    assert isinstance(step, plan.Keep | plan.Mend)


@examples
@given(views)
def test_files_go_only_after_the_api_server_has_confirmed_that_the_label_is_gone(view: View) -> None:
    step = next_step(view)
    if isinstance(step, plan.RemoveModel | plan.Forget):
        assert view.heard
        assert view.wanted is None
        assert view.shown == UNLABELLED
    if isinstance(step, plan.RemoveSnapshot) and view.current is not None and step.snapshot == view.current.name:
        assert view.shown == UNLABELLED


@examples
@given(views)
def test_nothing_goes_that_a_pod_uses_or_may_use(view: View) -> None:
    step = next_step(view)
    if isinstance(step, plan.RemoveSnapshot):
        assert view.users_known
        assert step.snapshot not in view.in_use
    if isinstance(step, plan.RemoveModel | plan.Release | plan.Forget) and view.snapshots:
        assert view.users_known
        assert not {snapshot.name for snapshot in view.snapshots} & view.in_use


@examples
@given(views)
def test_nothing_goes_before_somebody_has_looked_since_the_labels_moved(view: View) -> None:
    step = next_step(view)
    if isinstance(step, plan.RemoveSnapshot) or (isinstance(step, plan.RemoveModel | plan.Release) and view.snapshots):
        assert view.uses_confirmed
    if isinstance(step, plan.AwaitAnswer):
        # Nobody is asked in vain: the answer is all that is missing.
        assert isinstance(
            next_step(replace(view, uses_confirmed=True)), plan.RemoveSnapshot | plan.RemoveModel | plan.Release
        )
        assert set(step.snapshots) <= {snapshot.name for snapshot in view.snapshots}
        assert phase_of(view, failed=False, working=False) in (PHASE_READY, PHASE_REMOVING, PHASE_VERIFIED)


@examples
@given(views)
def test_what_is_to_be_retained_is_never_removed_for_want_of_a_wish(view: View) -> None:
    if view.wanted is None and view.snapshots and all(snapshot.policy.retain for snapshot in view.snapshots):
        assert not isinstance(next_step(view), plan.RemoveModel)


@examples
@given(views)
def test_files_go_only_after_no_engine_reads_them_and_adapters_only_after_the_label(view: View) -> None:
    step = next_step(view)
    if isinstance(step, plan.RemoveModel | plan.Forget):
        assert not view.loaded
    if isinstance(step, plan.RemoveSnapshot):
        assert step.snapshot not in view.loaded
    if isinstance(step, plan.AwaitUnload):
        assert step.snapshots
        assert step.snapshots <= view.loaded
        if view.wanted is None or (view.current is not None and view.current.name in step.snapshots):
            assert view.shown == UNLABELLED
            assert announced(view) is None


@examples
@given(views)
def test_what_is_wanted_is_never_removed_while_it_is_sound(view: View) -> None:
    step = next_step(view)
    if isinstance(step, plan.RemoveSnapshot):
        removed = next(snapshot for snapshot in view.snapshots if snapshot.name == step.snapshot)
        assert view.wanted is not None
        assert removed.manifest_digest != view.wanted.manifest_digest or not removed.sound


@examples
@given(views)
def test_only_what_was_checked_is_published(view: View) -> None:
    step = next_step(view)
    if isinstance(step, plan.Publish):
        assert view.target is not None
        assert view.wanted is not None
        held = any(s.manifest_digest == view.target.digest and s.sound for s in view.snapshots)
        assert held or (view.fetched and view.target.tree_digest is not None)
        if view.target.tree_digest is not None:
            assert view.wanted.tree_digest in ("", view.target.tree_digest)
        assert view.contradiction == ""


@examples
@given(views)
def test_a_label_names_only_a_sound_current_snapshot_that_is_not_on_its_way_out(view: View) -> None:
    revision = announced(view)
    if revision is not None:
        assert view.current is not None
        assert view.current.sound
        assert view.current.revision == revision
        assert not isinstance(next_step(view), plan.Withdraw | plan.RemoveModel | plan.Forget)
        assert next_step(view) != plan.RemoveSnapshot(view.current.name)


@examples
@given(views)
def test_the_label_stays_over_a_restart_and_while_the_controller_knows_nothing(view: View) -> None:
    if view.current is not None and view.current.sound:
        assert announced(replace(view, heard=False, wanted=None)) == view.current.revision
        assert announced(replace(view, heard=True, wanted=Wanted(None))) == view.current.revision


@examples
@given(views, st.booleans(), st.booleans())
def test_ready_is_reported_only_with_files_and_label(view: View, failed: bool, working: bool) -> None:
    phase = phase_of(view, failed=failed, working=working)
    if phase == PHASE_READY:
        assert view.current is not None
        assert view.current.sound
        assert view.shown == revision_value(view.current.revision)
        if view.wanted is not None and view.wanted.manifest_digest is not None:
            assert view.current.manifest_digest == view.wanted.manifest_digest
    assert (phase == PHASE_REMOVING) == (view.heard and view.wanted is None)


# One case of each step, in the order in which they happen

MANIFEST = "d1"
RETAIN = Policy(retain=True)
TARGET = Target(MANIFEST, REVISIONS[0], REVISIONS[0], TREES[0], ref="main")
OLD = Snapshot(REVISIONS[1], "d2", REVISIONS[1], current=True, ref="main")
NEW = Snapshot(REVISIONS[0], MANIFEST, REVISIONS[0], current=False, ref="main")
OLD_LABEL, NEW_LABEL = revision_value(OLD.revision), revision_value(NEW.revision)
WANTED = Wanted(MANIFEST, hub_ref="main")
UPDATE = View(heard=True, wanted=WANTED, snapshots=(OLD,), target=TARGET, shown=OLD_LABEL)


@pytest.mark.parametrize(
    ("view", "step", "phase", "label"),
    [
        (replace(UPDATE, target=None), plan.FetchManifest(MANIFEST), PHASE_PENDING, OLD.revision),
        (
            replace(UPDATE, target=replace(TARGET, digest="d3")),
            plan.FetchManifest(MANIFEST),
            PHASE_PENDING,
            OLD.revision,
        ),
        (UPDATE, plan.Download(MANIFEST), PHASE_DOWNLOADING, OLD.revision),
        (
            replace(UPDATE, fetched=True, target=replace(TARGET, tree_digest=None)),
            plan.AwaitDigests(MANIFEST),
            PHASE_VERIFIED,
            OLD.revision,
        ),
        (replace(UPDATE, fetched=True), plan.Publish(MANIFEST), PHASE_VERIFIED, OLD.revision),
        (replace(UPDATE, snapshots=(OLD, NEW)), plan.Switch(NEW.name), PHASE_VERIFIED, OLD.revision),
        (
            replace(UPDATE, snapshots=(replace(OLD, current=False), replace(NEW, current=True))),
            plan.Announce(NEW.revision),
            PHASE_VERIFIED,
            NEW.revision,
        ),
        (
            replace(UPDATE, snapshots=(replace(OLD, current=False), replace(NEW, current=True)), shown=NEW_LABEL),
            plan.RemoveSnapshot(OLD.name),
            PHASE_READY,
            NEW.revision,
        ),
        (
            replace(
                UPDATE,
                snapshots=(replace(OLD, current=False), replace(NEW, current=True)),
                shown=NEW_LABEL,
                loaded=frozenset({OLD.name}),
            ),
            plan.Done(),
            PHASE_READY,
            NEW.revision,
        ),
        (
            replace(UPDATE, snapshots=(replace(NEW, current=True),), shown=NEW_LABEL),
            plan.Done(),
            PHASE_READY,
            NEW.revision,
        ),
        (replace(UPDATE, wanted=None), plan.Withdraw(), PHASE_REMOVING, None),
        (replace(UPDATE, wanted=None, shown=None), plan.Withdraw(), PHASE_REMOVING, None),
        (
            replace(UPDATE, wanted=None, shown=UNLABELLED, loaded=frozenset({OLD.name})),
            plan.AwaitUnload(frozenset({OLD.name})),
            PHASE_REMOVING,
            None,
        ),
        (replace(UPDATE, wanted=None, shown=UNLABELLED), plan.RemoveModel(), PHASE_REMOVING, None),
        (
            replace(UPDATE, wanted=None, snapshots=(), shown=UNLABELLED, emptied=True),
            plan.Forget(),
            PHASE_REMOVING,
            None,
        ),
        (
            replace(UPDATE, wanted=None, shown=UNLABELLED, in_use=frozenset({OLD.name})),
            plan.AwaitUsers((OLD.name,)),
            PHASE_REMOVING,
            None,
        ),
        (
            replace(UPDATE, wanted=None, shown=UNLABELLED, users_known=False),
            plan.AwaitUsers((OLD.name,)),
            PHASE_REMOVING,
            None,
        ),
        (replace(UPDATE, wanted=None, in_use=frozenset({OLD.name})), plan.Withdraw(), PHASE_REMOVING, None),
        (
            replace(UPDATE, wanted=None, shown=UNLABELLED, snapshots=(replace(OLD, policy=RETAIN),)),
            plan.Release(),
            PHASE_REMOVING,
            None,
        ),
        (
            replace(UPDATE, wanted=None, shown=UNLABELLED, snapshots=(replace(OLD, policy=RETAIN, current=False),)),
            plan.Forget(),
            PHASE_REMOVING,
            None,
        ),
        (
            replace(
                UPDATE,
                snapshots=(replace(OLD, current=False), replace(NEW, current=True)),
                shown=NEW_LABEL,
                in_use=frozenset({OLD.name}),
            ),
            plan.Done(),
            PHASE_READY,
            NEW.revision,
        ),
        (
            replace(UPDATE, wanted=replace(WANTED, policy=RETAIN), snapshots=(replace(NEW, current=True),)),
            plan.Publish(MANIFEST),
            PHASE_VERIFIED,
            NEW.revision,
        ),
        (
            replace(
                UPDATE,
                wanted=replace(WANTED, policy=RETAIN),
                snapshots=(replace(OLD, current=False, policy=RETAIN), replace(NEW, current=True, policy=RETAIN)),
                shown=NEW_LABEL,
            ),
            plan.Done(),
            PHASE_READY,
            NEW.revision,
        ),
    ],
)
def test_the_steps_of_an_update_and_of_a_removal(view: View, step: plan.Step, phase: int, label: str | None) -> None:
    assert next_step(view) == step
    assert phase_of(view, failed=False, working=True) == phase
    assert announced(view) == label


def test_a_download_in_the_queue_is_pending_and_one_that_cannot_go_on_has_failed() -> None:
    assert phase_of(UPDATE, failed=False, working=False) == PHASE_PENDING
    assert phase_of(UPDATE, failed=True, working=True) == PHASE_FAILED


def test_a_listing_is_told_once_and_never_removes_anything() -> None:
    listing = Listing("question-1", "file:///models", None, (), ())
    view = replace(UPDATE, wanted=Wanted(None, listing=listing), target=None)
    assert next_step(view) == plan.ListSource("question-1")
    assert isinstance(next_step(replace(view, listed="question-1")), plan.Keep)
    assert next_step(replace(view, listed="question-0")) == plan.ListSource("question-1")
    assert view.current is not None
    assert announced(view) == view.current.revision


def test_for_a_model_of_one_file_the_digest_of_the_file_is_a_checksum_as_well() -> None:
    assert UPDATE.target is not None
    view = replace(UPDATE, wanted=replace(WANTED, tree_digest=TREES[1]))
    assert isinstance(next_step(view), plan.Refuse)
    single = replace(view, target=replace(UPDATE.target, only_file=TREES[1]))
    assert next_step(single) == next_step(UPDATE)


def test_a_wrong_checksum_is_refused_before_anything_is_downloaded_and_names_both() -> None:
    step = next_step(replace(UPDATE, wanted=replace(WANTED, tree_digest=TREES[1])))
    assert isinstance(step, plan.Refuse)
    assert step.reason == "ChecksumMismatch"
    assert TREES[0] in step.message
    assert TREES[1] in step.message


def test_digests_that_differ_from_the_completed_manifest_are_refused() -> None:
    step = next_step(replace(UPDATE, fetched=True, contradiction="w: sha256 differs"))
    assert step == plan.Refuse("DigestMismatch", "w: sha256 differs")


@pytest.mark.parametrize(
    ("snapshot", "shown", "may_go"),
    [
        (OLD, NEW_LABEL, True),
        (OLD, OLD_LABEL, False),
        (OLD, None, False),
        (OLD, UNLABELLED, True),
        (NEW, NEW_LABEL, False),
        (NEW, UNLABELLED, True),
    ],
)
def test_a_snapshot_may_go_when_nobody_can_be_sent_to_it(snapshot: Snapshot, shown: str | None, may_go: bool) -> None:
    snapshots = (replace(OLD, current=False), replace(NEW, current=True))
    view = replace(UPDATE, snapshots=snapshots, shown=shown)
    assert snapshot_may_go(next(s for s in snapshots if s.name == snapshot.name), view) is may_go


def test_a_damaged_snapshot_loses_its_label_until_it_is_mended() -> None:
    doubtful = replace(NEW, current=True, condition=Condition.DOUBTFUL)
    view = View(heard=False, snapshots=(doubtful,), target=None, shown=NEW_LABEL)
    assert announced(view) is None
    assert next_step(view) == plan.Mend(NEW.name)
    damaged = replace(view, snapshots=(replace(doubtful, condition=Condition.DAMAGED),))
    assert announced(damaged) is None
    assert next_step(damaged) == plan.Keep()
    wanted = replace(damaged, heard=True, wanted=WANTED, target=TARGET)
    assert next_step(wanted) == plan.Download(MANIFEST)
    assert next_step(replace(wanted, fetched=True)) == plan.Mend(NEW.name)


def test_other_content_under_the_same_name_goes_label_first() -> None:
    obstacle = replace(OLD, name=TARGET.snapshot, revision=TARGET.revision)
    view = replace(UPDATE, snapshots=(obstacle,), fetched=True, shown=NEW_LABEL)
    assert next_step(view) == plan.Withdraw()
    assert announced(view) is None
    assert phase_of(view, failed=False, working=False) == PHASE_VERIFIED
    waiting = replace(view, shown=UNLABELLED, in_use=frozenset({obstacle.name}))
    assert next_step(waiting) == plan.AwaitUsers((obstacle.name,))
    assert announced(waiting) is None
    loaded = replace(view, shown=UNLABELLED, loaded=frozenset({obstacle.name}))
    assert next_step(loaded) == plan.AwaitUnload(frozenset({obstacle.name}))
    assert announced(loaded) is None
    assert next_step(replace(view, shown=UNLABELLED)) == plan.RemoveSnapshot(obstacle.name)
    assert announced(replace(view, shown=UNLABELLED)) is None


def test_another_branch_for_the_same_commit_changes_only_the_hub_view() -> None:
    view = replace(UPDATE, snapshots=(replace(NEW, current=True, ref="v1"),), shown=NEW_LABEL)
    assert next_step(view) == plan.Publish(MANIFEST)
    assert announced(view) == NEW.revision
