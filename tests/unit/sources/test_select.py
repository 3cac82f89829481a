"""`include` and `exclude` mean what `huggingface_hub`'s allow and ignore patterns mean."""

from huggingface_hub.utils import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from modelcache.sources.select import excluded_below, selected

PATHS = ["model.safetensors", "a/b.json", "a/b/c.bin", "README.md", ".gitattributes", "A/b.json", "a"]
PATTERNS = st.sampled_from(
    ["*", "*.json", "a/", "a/*", "*.BIN", "[ab]/*", "README.md", "?", "b.json", ".*", "!a", "**/c.bin"]
)


def chosen(include: list[str], exclude: list[str]) -> list[str]:
    return [path for path in PATHS if selected(path, include, exclude)]


def test_everything_without_patterns() -> None:
    assert chosen([], []) == PATHS


def test_a_star_matches_slashes_and_case_matters() -> None:
    assert chosen(["*.json"], []) == ["a/b.json", "A/b.json"]
    assert chosen(["a/*"], []) == ["a/b.json", "a/b/c.bin"]


def test_a_directory_means_everything_below() -> None:
    assert chosen(["a/"], []) == ["a/b.json", "a/b/c.bin"]


def test_exclude_wins() -> None:
    assert chosen(["a/"], ["*.bin"]) == ["a/b.json"]


@given(st.lists(PATTERNS, min_size=1, max_size=3), st.lists(PATTERNS, max_size=3))
def test_agrees_with_huggingface_hub(include: list[str], exclude: list[str]) -> None:
    assert chosen(include, exclude) == list(filter_repo_objects(PATHS, allow_patterns=include, ignore_patterns=exclude))


@given(st.sampled_from(["a", "a/b", "A", "b"]), st.lists(PATTERNS | st.sampled_from(["a?", "*/", "[a*"]), max_size=3))
def test_what_is_left_out_below_a_folder_is_left_out_everywhere_below(folder: str, exclude: list[str]) -> None:
    below = [f"{folder}/{path}" for path in PATHS]
    if excluded_below(folder, exclude):
        assert not any(selected(path, [], exclude) for path in below)


def test_a_folder_is_left_out_by_its_pattern() -> None:
    assert excluded_below("a/b", ["a/"])
    assert excluded_below("a", ["x", "a/*"])
    assert not excluded_below("a", ["a", "a?", "*.bin", "b/*"])
