"""Which labels a node should have, and the patch that gets it there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.node import label_patch, shown_revision, wanted_labels
from agent.plan import UNLABELLED
from modelcache.api.labels import READY, is_ours, ready_label, revision_label, revision_value
from modelcache.kube.resources import ObjectKey

examples = settings(deadline=None, derandomize=True, max_examples=50)

KEY = ObjectKey("team-a", "llama")
REVISION = "0123456789abcdef0123456789abcdef01234567"
FOREIGN = {"kubernetes.io/hostname": "n", "example.com/modelcache.nvidia.com": "x", "plain": "y"}

names = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
revisions = st.dictionaries(
    st.builds(ObjectKey, names, names), st.from_regex(r"[0-9a-f]{40}", fullmatch=True), max_size=4
)
strays = st.dictionaries(
    st.sampled_from(["modelcache.nvidia.com/a.b", "rev.modelcache.nvidia.com/a.b", *FOREIGN]),
    st.sampled_from(["Ready", "x"]),
)


def merged(labels: dict[str, str], patch: dict[str, str | None]) -> dict[str, str]:
    """RFC 7386, for one level."""
    return {key: value for key, value in (dict[str, str | None](labels) | patch).items() if value is not None}


@examples
@given(revisions, strays)
def test_the_patch_makes_our_labels_right_and_touches_no_others(
    wanted: dict[ObjectKey, str], actual: dict[str, str]
) -> None:
    labels = wanted_labels(wanted)
    patch = label_patch(labels, actual)
    after = merged(actual, patch)
    assert {key: value for key, value in after.items() if is_ours(key)} == labels
    assert all(is_ours(key) for key in patch)
    assert label_patch(labels, after) == {}


@examples
@given(revisions)
def test_every_announced_model_is_shown_and_no_other(wanted: dict[ObjectKey, str]) -> None:
    labels = wanted_labels(wanted)
    assert {key: shown_revision(labels, key) for key in wanted} == {k: revision_value(r) for k, r in wanted.items()}
    assert shown_revision(labels, ObjectKey("nobody", "wants-this")) == UNLABELLED


def test_the_two_labels_of_a_model() -> None:
    assert wanted_labels({KEY: REVISION}) == {
        "modelcache.nvidia.com/team-a.llama": "Ready",
        "rev.modelcache.nvidia.com/team-a.llama": "0123456789ab",
    }


def test_a_model_without_its_ready_label_is_not_shown() -> None:
    labels = wanted_labels({KEY: REVISION})
    assert shown_revision(labels | {ready_label(*KEY): "Updating"}, KEY) == UNLABELLED
    assert shown_revision({revision_label(*KEY): "0123456789ab"}, KEY) == UNLABELLED
    assert shown_revision({ready_label(*KEY): READY}, KEY) == UNLABELLED
