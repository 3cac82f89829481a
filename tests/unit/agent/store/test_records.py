import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.errors import RecordError
from agent.store.records import HubClaim, Publication, alias_keys
from modelcache.manifest import GitOid, ManifestFile, Sha256

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_a_record_comes_back_as_it_was_written() -> None:
    record = Publication(
        namespace="team",
        name="model",
        snapshot=COMMIT,
        manifest_digest="d" * 64,
        published_at=12.5,
        hub=HubClaim(repo_id="org/name", commit=COMMIT, ref="feature/x"),
    )
    assert Publication.decode(record.encode()) == record
    assert Publication.decode(record.encode()).encode() == record.encode()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_a_damaged_record_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(RecordError):
        Publication.decode(data)


@pytest.mark.parametrize(
    "repo_id",
    ["", "/", "a/b/c", "../x", "a/..", "a/.b", ".a/b", "a--b/c", "a/b/", "a b/c", "a/" + "b" * 97, "a\n/b", "ä/b"],
)
def test_repositories_that_could_leave_the_hub_view_are_refused(repo_id: str) -> None:
    with pytest.raises(RecordError, match="not the id"):
        HubClaim(repo_id=repo_id, commit=COMMIT).check()


@pytest.mark.parametrize("repo_id", ["gpt2", "org/name", "Org-1/name.v2_x", "a/b"])
def test_ordinary_repositories_are_fine(repo_id: str) -> None:
    HubClaim(repo_id=repo_id, commit=COMMIT, ref="refs/pr/7").check()


@pytest.mark.parametrize(("commit", "ref"), [("main", None), (COMMIT[:39], None), (COMMIT, "../../x"), (COMMIT, "")])
def test_commits_and_branches_are_checked(commit: str, ref: str | None) -> None:
    with pytest.raises(RecordError):
        HubClaim(repo_id="a/b", commit=commit, ref=ref).check()


def test_content_is_known_by_its_git_id_or_its_origin() -> None:
    by_git = ManifestFile(path="a", size=3, git_oid=GitOid("1" * 40))
    moved = ManifestFile(path="b", size=3, git_oid=GitOid("1" * 40))
    longer = ManifestFile(path="a", size=4, git_oid=GitOid("1" * 40))
    assert set(alias_keys(by_git, "team", "hf://x", "r1")) & set(alias_keys(moved, "team", "hf://x", "r2"))
    assert not set(alias_keys(by_git, "team", "hf://x", "r1")) & set(alias_keys(longer, "team", "hf://x", "r2"))
    bare = ManifestFile(path="a", size=3)
    assert not set(alias_keys(bare, "team", "hf://x", "r1")) & set(alias_keys(bare, "team", "hf://x", "r2"))
    complete = ManifestFile(path="a", size=3, git_oid=GitOid("1" * 40), sha256=Sha256("2" * 64))
    assert alias_keys(complete, "team", "hf://x", "r1") == alias_keys(by_git, "team", "hf://x", "r1")
