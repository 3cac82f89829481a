"""The unmodified `huggingface_hub` client against the hub: what it lists, what it downloads, which errors it raises."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from local.hub.faults import Close
from local.hub.repository import Repository
from tests.support.hub import MINILM, Serve

NESTED = {f"d{i % 7}/e{i % 11}/f{i}.txt": b"%d" % i for i in range(2000)}


def api_of(url: str, token: str | None = None) -> HfApi:
    return HfApi(endpoint=url, token=token or False)


def test_model_info_with_the_real_model(serve: Serve, minilm: Path) -> None:
    server = serve(Repository(MINILM, minilm))
    info = api_of(server.url).model_info(MINILM, files_metadata=True)
    assert info.id == MINILM
    assert info.private is False
    assert info.siblings is not None
    for sibling in info.siblings:
        content = (minilm / sibling.rfilename).read_bytes()
        assert sibling.size == len(content)
        if sibling.lfs is not None:
            assert sibling.lfs.sha256 == hashlib.sha256(content).hexdigest()
            assert sibling.lfs.size == len(content)
        else:
            assert sibling.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert {sibling.rfilename for sibling in info.siblings if sibling.lfs} == {"model.safetensors"}


def test_model_info_without_metadata_lists_names_only(serve: Serve) -> None:
    server = serve(Repository("o/n", {"a": b"1"}))
    (sibling,) = api_of(server.url).model_info("o/n").siblings or []
    assert (sibling.rfilename, sibling.size, sibling.lfs) == ("a", None, None)


def test_a_tree_of_thousands_comes_in_pages(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(NESTED)), page_size=100)
    entries = list(api_of(server.url).list_repo_tree("o/n", recursive=True))
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    folders = [entry.path for entry in entries if isinstance(entry, RepoFolder)]
    assert {file.path: file.size for file in files} == {path: len(content) for path, content in NESTED.items()}
    assert set(folders) == {path.rpartition("/")[0] for path in NESTED} | {path.partition("/")[0] for path in NESTED}
    assert server.hub.stats.requests_to("/api/models/o/n/tree/main") == -(-len(entries) // 100)


def test_one_level_of_a_tree(serve: Serve) -> None:
    server = serve(Repository("o/n", {"a": b"1", "d/b": b"2", "d/e/c": b"3"}))
    api = api_of(server.url)
    assert {entry.path for entry in api.list_repo_tree("o/n")} == {"a", "d"}
    assert {entry.path for entry in api.list_repo_tree("o/n", "d")} == {"d/b", "d/e"}
    assert {entry.path for entry in api.list_repo_tree("o/n", "d/e")} == {"d/e/c"}
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("o/n", "nope"))


def test_an_expanded_tree_has_commits_and_scans(serve: Serve) -> None:
    repository = Repository("o/n", {f"f{i:03}": b"1" for i in range(120)})
    server = serve(repository)
    entries = list(api_of(server.url).list_repo_tree("o/n", expand=True))
    assert len(entries) == 120
    for entry in entries:
        assert isinstance(entry, RepoFile)
        assert entry.last_commit is not None
        assert entry.last_commit.oid == repository.refs()[0]["main"]
        assert entry.security is not None
        assert entry.security.safe
    # The hub's pages are smaller then.
    assert server.hub.stats.requests_to("/api/models/o/n/tree/main") == 3


def test_paths_info_refs_and_revisions(serve: Serve) -> None:
    repository = Repository("o/n", {"d/a": b"1"}, revisions={"next": {"d/a": b"2"}, "refs/pr/1": {"d/a": b"3"}})
    repository.tag("v1", "main")
    api = api_of(serve(repository).url)
    branches, tags = repository.refs()
    file, folder = api.get_paths_info("o/n", ["d/a", "d", "nope"])
    assert isinstance(file, RepoFile)
    assert isinstance(folder, RepoFolder)
    refs = api.list_repo_refs("o/n", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {name: branches[name] for name in ("main", "next")}
    assert {ref.name: ref.target_commit for ref in refs.tags} == dict(tags)
    assert [ref.name for ref in refs.pull_requests or []] == ["refs/pr/1"]
    for revision in ("main", "next", "refs/pr/1", "v1", branches["next"]):
        assert api.model_info("o/n", revision=revision).sha == {**branches, **tags}.get(revision, revision)


def test_a_branch_that_moves_leaves_its_commits(serve: Serve, tmp_path: Path) -> None:
    repository = Repository("o/n", {"a": b"old"})
    server = serve(repository)
    old = api_of(server.url).model_info("o/n").sha
    assert old is not None
    repository.commit({"a": b"new"})

    def content(revision: str) -> bytes:
        path = hf_hub_download("o/n", "a", revision=revision, endpoint=server.url, token=False, cache_dir=tmp_path)
        return Path(path).read_bytes()

    assert content("main") == b"new"
    assert content(old) == b"old"


def test_snapshot_download_of_many_files_reads_each_once(serve: Serve, tmp_path: Path) -> None:
    files = {path: content for path, content in NESTED.items() if path.startswith("d3/")}
    files |= {"empty.bin": b"", "weights.safetensors": bytes(range(256)) * 8192, "name with space #?.json": b"{}"}
    server = serve(Repository("o/n", dict(files)))
    snapshot = Path(snapshot_download("o/n", endpoint=server.url, token=False, cache_dir=tmp_path))
    found = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert found == files
    assert server.hub.stats.file_bytes == sum(map(len, files.values()))


@pytest.mark.parametrize(
    ("repository", "token", "error"),
    [
        ("o/none", None, RepositoryNotFoundError),
        ("o/none", "hf_known", RepositoryNotFoundError),
        ("o/private", None, RepositoryNotFoundError),
        ("o/private", "hf_known", RepositoryNotFoundError),
        ("o/private", "hf_good", None),
        ("o/gated", None, GatedRepoError),
        ("o/gated", "hf_known", GatedRepoError),
        ("o/gated", "hf_good", None),
        ("o/gated", "hf_invalid", HfHubHTTPError),
        ("o/disabled", None, DisabledRepoError),
    ],
)
def test_access_as_exceptions(
    serve: Serve, tmp_path: Path, repository: str, token: str | None, error: type[Exception] | None
) -> None:
    server = serve(
        Repository("o/private", {"a": b"1"}, private=True, tokens=["hf_good"]),
        Repository("o/gated", {"a": b"1"}, gated="manual", tokens=["hf_good"]),
        Repository("o/disabled", {"a": b"1"}, disabled=True),
        tokens={"hf_known": "bob"},
    )
    api = api_of(server.url, token)
    if error is None:
        api.auth_check(repository)
        path = hf_hub_download(repository, "a", endpoint=server.url, token=token, cache_dir=tmp_path)
        assert Path(path).read_bytes() == b"1"
    else:
        with pytest.raises(error):
            api.auth_check(repository)
        with pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)) as caught:
            hf_hub_download(repository, "a", endpoint=server.url, token=token or False, cache_dir=tmp_path)
        # The client reports some of them as what stopped it from finding the file.
        assert error in (type(caught.value), type(caught.value.__cause__))
        assert server.hub.stats.file_bytes == 0


def test_everybody_may_list_a_gated_repository(serve: Serve) -> None:
    server = serve(Repository("o/gated", {"a": b"1"}, gated="manual", tokens=["hf_good"]))
    info = api_of(server.url).model_info("o/gated")
    assert info.gated == "manual"
    assert [entry.path for entry in api_of(server.url).list_repo_tree("o/gated")] == ["a"]


def test_what_is_not_there(serve: Serve, tmp_path: Path) -> None:
    server = serve(Repository("o/n", {"a": b"1"}), tokens={"hf_known": "bob"})
    with pytest.raises(RevisionNotFoundError):
        api_of(server.url).model_info("o/n", revision="nope")
    with pytest.raises(RevisionNotFoundError):
        list(api_of(server.url).list_repo_tree("o/n", revision="0" * 40))
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("o/n", "nope", endpoint=server.url, token=False, cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api_of(server.url).dataset_info("o/n")
    assert api_of(server.url, "hf_known").whoami()["name"] == "bob"
    with pytest.raises(HfHubHTTPError):
        api_of(server.url).whoami("hf_invalid")


def test_resumes_after_broken_connections(serve: Serve, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    server = serve(Repository("o/n", {"m.safetensors": content}))
    fault = server.hub.faults.add(Close(after=300_000, times=1))
    path = hf_hub_download("o/n", "m.safetensors", endpoint=server.url, token=False, cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    assert server.hub.faults.applied(fault) == 1
