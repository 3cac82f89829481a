"""Users, last use and policy: kept with the store, and found again when the index is gone."""

import os
from pathlib import Path

from agent.store import Policy, Store, User, users_of
from tests.support.caching import NEW, OLD, manifest, publish

POLICY = Policy(retain=True, pinned=True, keyless=True)


class Clock:
    """Unix seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def user(since: float, *, name: str = "model", snapshot: str = "", pod: str = "team/web-0", uid: str = "u1") -> User:
    return User(uid, pod, "mount", since, "team", name, snapshot)


def pods_of(store: Store, snapshot: str) -> tuple[str, ...]:
    row = store.snapshot("team", "model", snapshot)
    assert row is not None
    return users_of(row, store.usage.users())


def updated(store: Store, clock: Clock) -> None:
    """OLD is current from 1000 to 2000, NEW from then on."""
    publish(store, "model", {"a": b"old"}, OLD)
    clock.now = 2000.0
    publish(store, "model", {"a": b"new"}, NEW)


def test_a_pod_uses_every_revision_that_was_current_since_it_started(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        updated(store, clock)
        store.usage.set_users([user(1500.0)])
        assert (pods_of(store, OLD), pods_of(store, NEW)) == (("team/web-0",), ("team/web-0",))
        store.usage.set_users([user(2500.0)])
        assert (pods_of(store, OLD), pods_of(store, NEW)) == ((), ("team/web-0",))


def test_a_clock_that_is_set_back_takes_no_revision_from_a_pod(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        publish(store, "model", {"a": b"old"}, OLD)
        clock.now = 2000.0
        store.usage.set_users([user(1900.0)])
        clock.now = 1200.0
        publish(store, "model", {"a": b"new"}, NEW)
        assert (pods_of(store, OLD), pods_of(store, NEW)) == (("team/web-0",), ("team/web-0",))
        assert store.quick_check("team", "model", OLD) == []
        store.usage.set_users([user(2500.0)])
        assert (pods_of(store, OLD), pods_of(store, NEW)) == ((), ("team/web-0",))


def test_a_pod_that_mounts_one_snapshot_uses_that_one(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        updated(store, clock)
        store.usage.set_users([user(2500.0, snapshot=OLD)])
        assert (pods_of(store, OLD), pods_of(store, NEW)) == (("team/web-0",), ())


def test_a_pod_that_may_use_any_model_of_its_namespace_uses_all(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        updated(store, clock)
        store.usage.set_users([user(1500.0, name="")])
        assert pods_of(store, OLD) == ("team/web-0",)
        store.usage.set_users([user(1500.0, name="other")])
        assert pods_of(store, OLD) == ()


def test_the_last_use_is_when_a_pod_was_seen_last(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        updated(store, clock)
        store.usage.set_users([user(1500.0)])
        clock.now = 5000.0
        store.usage.set_users([])
        clock.now = 6000.0
        store.usage.touch()
        assert [row.last_used for row in store.published()] == [5000.0, 5000.0]


def test_users_last_use_and_policy_survive_a_restart_and_the_last_two_the_loss_of_the_index(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        updated(store, clock)
        clock.now = 3000.0
        store.usage.set_users([user(2500.0)])
        store.publish("team", "model", manifest({"a": b"new"}, NEW), policy=POLICY)
    with Store.open(root, clock) as store:
        assert store.usage.users() == [user(2500.0)]
        used = {row.snapshot: row.last_used for row in store.published()}
        assert used == {OLD: 1000.0, NEW: 3000.0}
        assert {row.policy for row in store.published()} == {POLICY}
    for part in ("", "-wal", "-shm"):
        Path(f"{root}/state.sqlite3{part}").unlink(missing_ok=True)
    clock.now = 9000.0
    with Store.open(root, clock) as store:
        assert store.report.rebuilt
        assert {row.snapshot: row.last_used for row in store.published()} == used
        assert {row.policy for row in store.published()} == {POLICY}
        # Nobody knows any more when OLD ceased to be current: whoever started since it was published may be using it.
        store.usage.set_users([user(2500.0)])
        assert pods_of(store, OLD) == ("team/web-0",)


def test_a_policy_holds_for_all_snapshots_of_the_model(root: Path) -> None:
    clock = Clock()
    with Store.open(root, clock) as store:
        updated(store, clock)
        publish(store, "other", {"a": b"new"}, NEW)
        store.publish("team", "model", manifest({"a": b"new"}, NEW), policy=Policy(retain=True))
        assert {(row.name, row.snapshot) for row in store.published() if row.policy.retain} == {
            ("model", OLD),
            ("model", NEW),
        }


def test_a_lost_record_does_not_keep_users_from_being_told(root: Path) -> None:
    with Store.open(root, Clock()) as store:
        row = publish(store, "model", {"a": b"old"}, OLD)
        os.unlink(store.paths.record(*row.key))
        store.usage.set_users([user(500.0)])
        assert pods_of(store, OLD) == ("team/web-0",)
