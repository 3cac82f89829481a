"""The hub view as a function of all claims: what it must never depend on, and what it must always contain."""

from collections.abc import Iterable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.hubview import Claim, HubFile, hub_files, hub_refs


def claim(
    model: str, commit: str, ref: str | None = None, *, current: bool = True, at: float = 0.0, **files: str
) -> Claim:
    return Claim(model, commit, commit, ref, current, at, files)


claims_strategy = st.lists(
    st.builds(
        Claim,
        model=st.sampled_from("xyz"),
        snapshot=st.sampled_from(["s1", "s2", "s3"]),
        commit=st.sampled_from(["c1", "c2", "c3"]),
        ref=st.sampled_from([None, "main", "v1", "v1/rc", "refs/pr/1"]),
        current=st.booleans(),
        published_at=st.sampled_from([1.0, 2.0, 3.0]),
        files=st.dictionaries(st.sampled_from(["a", "a/b", "c", "c/d/e"]), st.sampled_from(["1", "2"]), max_size=3),
    ),
    max_size=6,
    unique_by=lambda claim: (claim.model, claim.snapshot),
)


def test_a_branch_leads_to_its_commit() -> None:
    assert hub_refs([claim("x", "c1", "main")]) == {"main": "c1"}


def test_a_model_without_main_is_found_by_name_too() -> None:
    assert hub_refs([claim("x", "c1", "v1")]) == {"v1": "c1", "main": "c1"}
    assert hub_refs([claim("x", "c1")]) == {"main": "c1"}


def test_main_belongs_to_who_asks_for_it() -> None:
    assert hub_refs([claim("a", "c1", "v1"), claim("z", "c2", "main")]) == {"v1": "c1", "main": "c2"}


def test_without_anybody_who_asks_for_main_the_first_name_gets_it() -> None:
    assert hub_refs([claim("b", "c2", "v2", at=1), claim("a", "c1", "v1", at=2)])["main"] == "c1"


def test_a_branch_that_moved_leads_to_the_latest_publication() -> None:
    assert hub_refs([claim("x", "c2", "main", at=5), claim("y", "c1", "main", at=4)]) == {"main": "c2"}


def test_names_lead_only_to_what_is_in_force() -> None:
    claims = [claim("x", "c1", "main", at=1), claim("x", "c2", "main", at=2, current=False)]
    assert hub_refs(claims) == {"main": "c1"}
    assert hub_refs(claims[1:]) == {}


def test_a_branch_cannot_be_a_directory_of_another() -> None:
    assert hub_refs([claim("x", "c1", "v1"), claim("y", "c2", "v1/rc")]) == {"v1": "c1", "main": "c1"}


def test_files_of_a_commit_are_the_union() -> None:
    files = hub_files([claim("x", "c1", a="1", b="2"), claim("y", "c1", b="2", c="3"), claim("y", "c2", a="9")])
    assert {commit: set(paths) for commit, paths in files.items()} == {"c1": {"a", "b", "c"}, "c2": {"a"}}
    assert files["c1"]["a"] == HubFile("1", "x", "c1")


@settings(deadline=None)
@given(claims_strategy, st.randoms())
def test_the_order_of_claims_does_not_matter(claims: list[Claim], random: Random) -> None:
    shuffled = list(claims)
    random.shuffle(shuffled)
    assert hub_refs(claims) == hub_refs(shuffled)
    assert hub_files(claims) == hub_files(shuffled)


@settings(deadline=None)
@given(claims_strategy)
def test_every_view_can_exist_and_leads_somewhere(claims: list[Claim]) -> None:
    refs, files = hub_refs(claims), hub_files(claims)
    assert set(refs.values()) <= set(files)
    assert ("main" in refs) == any(claim.current for claim in claims)
    assert set(files) == {claim.commit for claim in claims}
    views: list[Iterable[str]] = [refs, *files.values()]
    for names in views:
        for name in names:
            assert not any(other.startswith(name + "/") for other in names), "a file that is also a directory"
    for commit, paths in files.items():
        for path, file in paths.items():
            assert any(
                (claim.model, claim.snapshot, claim.commit) == (file.model, file.snapshot, commit)
                and claim.files[path] == file.sha256
                for claim in claims
                if path in claim.files
            )
