from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.recovery import OnDisk, Plan, recovery_plan

KEYS = [("n", "m", str(number)) for number in range(5)]
keys = st.frozensets(st.sampled_from(KEYS))
digests = st.frozensets(st.sampled_from("abcde"))


@settings(deadline=None)
@given(keys, keys, keys, digests, digests)
def test_afterwards_disk_and_index_agree(
    snapshots: frozenset[tuple[str, str, str]],
    records: frozenset[tuple[str, str, str]],
    indexed: frozenset[tuple[str, str, str]],
    blobs: frozenset[str],
    indexed_blobs: frozenset[str],
) -> None:
    disk = OnDisk(snapshots, {}, records, blobs, ())
    plan = recovery_plan(disk, indexed, indexed_blobs)
    after_index = (indexed - plan.forget) | plan.adopt
    after_records = (records - plan.remove_records) | plan.write_records
    # What is published and known is in all three places; what is not ours is in one, and is left alone.
    assert after_index == after_records == snapshots - plan.strangers
    assert plan.strangers.isdisjoint(indexed | records)
    assert (indexed_blobs - plan.forget_blobs) | plan.adopt_blobs == blobs


@settings(deadline=None)
@given(keys, digests)
def test_when_they_agree_nothing_is_done(snapshots: frozenset[tuple[str, str, str]], blobs: frozenset[str]) -> None:
    nothing: frozenset[tuple[str, str, str]] = frozenset()
    assert recovery_plan(OnDisk(snapshots, {}, snapshots, blobs, ()), snapshots, blobs) == Plan(
        nothing, nothing, nothing, nothing, nothing, frozenset(), frozenset()
    )
