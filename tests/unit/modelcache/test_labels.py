"""Label keys: users compute them by hand, so they are fixed by examples."""

import hashlib
import re

from hypothesis import given
from hypothesis import strategies as st

from modelcache.api.labels import (
    base_model_hash,
    is_ours,
    label_name,
    model_labels,
    ready_label,
    revision_label,
    revision_value,
)

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def test_short_names_are_used_as_they_are() -> None:
    assert ready_label("team-a", "llama") == "modelcache.nvidia.com/team-a.llama"
    assert revision_label("team-a", "llama") == "rev.modelcache.nvidia.com/team-a.llama"
    assert label_name("n" * 31, "m" * 31) == "n" * 31 + "." + "m" * 31


def test_long_names_keep_their_start_and_a_hash_of_the_whole() -> None:
    whole = "production." + "m" * 60
    expected = whole[:54] + "-" + hashlib.sha256(whole.encode()).hexdigest()[:8]
    assert label_name("production", "m" * 60) == expected
    assert len(expected) == 63


@given(names, names)
def test_every_label_is_one_that_kubernetes_accepts(namespace: str, name: str) -> None:
    assert _NAME.fullmatch(label_name(namespace, name))
    for key, value in model_labels(namespace, name, "0123456789abcdef").items():
        assert is_ours(key)
        assert _NAME.fullmatch(value)


def test_a_revision_value_never_ends_in_punctuation() -> None:
    assert revision_value("8a4556b53a7d81d7e07db15eafb5af5dcd321b33") == "8a4556b53a7d"
    assert revision_value("v1.0.0-beta.-rest") == "v1.0.0-beta"


def test_foreign_labels_are_not_ours() -> None:
    assert not is_ours("nvidia.com/gpu.present")
    assert not is_ours("modelcache.nvidia.com")
    assert not is_ours("xmodelcache.nvidia.com/a.b")


def test_the_hash_of_a_base_model_is_the_one_that_the_dynamo_operator_writes() -> None:
    # printf 'Qwen/Qwen3-0.6B' | sha256sum | cut -c1-8
    assert base_model_hash("Qwen/Qwen3-0.6B") == "fb68f5a6"
