from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.garbage import Existing, Keep, garbage

names = st.frozensets(st.sampled_from("abcdefgh"))


@settings(deadline=None)
@given(names, names, names, names, names, names, names, names)
def test_only_what_exists_and_nobody_needs(
    blobs: frozenset[str],
    partials: frozenset[str],
    manifests: frozenset[str],
    used_blobs: frozenset[str],
    used_manifests: frozenset[str],
    keep_blobs: frozenset[str],
    keep_partials: frozenset[str],
    keep_manifests: frozenset[str],
) -> None:
    chosen = garbage(
        Existing(blobs, partials, manifests),
        used_blobs,
        used_manifests,
        Keep(keep_blobs, keep_partials, keep_manifests),
    )
    assert set(chosen.blobs) | (blobs & (used_blobs | keep_blobs)) == blobs
    assert not set(chosen.blobs) & (used_blobs | keep_blobs)
    assert set(chosen.partials) == {name for name in partials if name not in keep_partials}
    assert set(chosen.manifests) == {name for name in manifests if name not in used_manifests | keep_manifests}
    assert list(chosen.blobs) == sorted(chosen.blobs)
