"""What pods see: published directories, `current`, and the hub view; and what is left when it goes."""

import errno
import os
import threading
from typing import Any

import pytest

from agent.store import (
    BlobMissing,
    HubClaim,
    IncompleteManifest,
    Keep,
    NewBlob,
    NotPublished,
    PublishConflict,
    RecordError,
    Store,
    StoreFull,
)
from modelcache.manifest import GitOid, Manifest, ManifestFile
from tests.support.caching import NEW, OLD, add_blob, digest, manifest, publish, tree
from tests.support.waiting import PATIENCE

FILES = {"config.json": b"{}", "weights/part-1": b"1" * 100, "weights/part-2": b"2" * 100, "empty": b""}


def hub(store: Store, namespace: str = "team") -> dict[str, str]:
    return tree(store.paths.hub_cache(namespace) / "models--acme--model")


def test_a_model_is_published_as_links_to_its_blobs(store: Store) -> None:
    row = publish(store, "model", FILES)
    assert (row.size, row.file_count, row.current) == (202, 4, False)
    target = store.paths.snapshot("team", "model", OLD)
    assert {path: (target / path).read_bytes() for path in FILES} == FILES
    assert store.paths.current("team", "model").resolve() == target
    for path, data in FILES.items():
        found = (target / path).stat()
        assert found.st_ino == store.paths.blob(digest(data)).stat().st_ino
        assert found.st_mode & 0o777 == 0o444
    assert store.published()[0].current
    assert store.published()[0].verified_at is not None
    assert store.manifest(row.manifest_digest) == manifest(FILES)


def test_only_the_agent_may_look_into_its_own_directories(store: Store) -> None:
    publish(store, "model", FILES)
    modes = {path.name: path.stat().st_mode & 0o777 for path in store.paths.root.iterdir() if path.is_dir()}
    assert modes == {
        "blobs": 0o700, "partial": 0o700, "manifests": 0o700, "records": 0o700, "staging": 0o700,
        "models": 0o755, "hub": 0o755,
    }  # fmt: skip
    public = [path for top in (store.paths.models, store.paths.hub) for path in top.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in public} == {0o755}


def test_publishing_again_changes_nothing(store: Store) -> None:
    first = publish(store, "model", FILES)
    before = os.stat(store.paths.snapshot("team", "model", OLD)).st_mtime_ns
    assert publish(store, "model", FILES).published_at == first.published_at
    assert os.stat(store.paths.snapshot("team", "model", OLD)).st_mtime_ns == before


def test_a_lost_manifest_is_kept_again(store: Store) -> None:
    row = publish(store, "model", FILES)
    store.paths.manifest(row.manifest_digest).unlink()
    assert store.manifest(row.manifest_digest) is None
    publish(store, "model", FILES)
    assert store.manifest(row.manifest_digest) == manifest(FILES)


def test_current_flips_and_the_old_one_stays(store: Store) -> None:
    publish(store, "model", FILES)
    publish(store, "model", FILES | {"config.json": b"{1}"}, NEW)
    assert os.readlink(store.paths.current("team", "model")) == NEW
    assert [(row.snapshot, row.current) for row in store.published()] == [(OLD, False), (NEW, True)]
    assert (store.paths.snapshot("team", "model", OLD) / "config.json").read_bytes() == b"{}"
    with pytest.raises(NotPublished):
        store.set_current("team", "model", "c" * 40)


def test_nothing_is_published_that_is_not_here_and_verified(store: Store) -> None:
    complete = manifest(FILES)
    with pytest.raises(BlobMissing):
        store.publish("team", "model", complete)
    unknown = ManifestFile(path="a", size=1, git_oid=GitOid("1" * 40))
    with pytest.raises(IncompleteManifest):
        store.publish("team", "model", Manifest.build("hf://acme/model", OLD, [unknown]))
    for data in FILES.values():
        add_blob(store, data)
    blob = store.paths.blob(digest(FILES["config.json"]))
    blob.chmod(0o644)
    blob.write_bytes(b"[]")
    with pytest.raises(BlobMissing, match="touched by somebody else"):
        store.publish("team", "model", complete)
    assert store.published() == []
    assert list(store.paths.models.iterdir()) == []
    assert not store.verify_blob(digest(FILES["config.json"]))
    assert not blob.exists()


def test_a_directory_that_is_not_ours_is_not_replaced(store: Store) -> None:
    foreign = store.paths.snapshot("team", "model", OLD)
    foreign.mkdir(parents=True)
    (foreign / "precious").write_bytes(b"x")
    with pytest.raises(PublishConflict, match="move it away"):
        publish(store, "model", FILES)
    assert (foreign / "precious").exists()


def test_one_snapshot_has_one_content(store: Store) -> None:
    publish(store, "model", FILES)
    with pytest.raises(PublishConflict, match="other content"):
        publish(store, "model", FILES | {"config.json": b"other"})


def test_a_claim_that_would_leave_the_hub_view_is_refused(store: Store) -> None:
    add_blob(store, b"x")
    with pytest.raises(RecordError):
        store.publish("team", "model", manifest({"a": b"x"}), HubClaim(repo_id="../../etc", commit=OLD))
    assert store.published() == []


# The hub view


def test_the_hub_view_holds_the_same_files(store: Store) -> None:
    publish(store, "model", FILES, ref="v1")
    view = hub(store)
    assert {path.removeprefix(f"snapshots/{OLD}/") for path in view if path.startswith("snapshots")} == set(FILES)
    assert (view["refs/v1"], view["refs/main"]) == (OLD, OLD)
    shared = store.paths.hub_cache("team") / "models--acme--model" / "snapshots" / OLD / "config.json"
    assert shared.stat().st_ino == store.paths.blob(digest(b"{}")).stat().st_ino


def test_names_in_the_hub_view_follow_current(store: Store) -> None:
    publish(store, "model", FILES)
    publish(store, "model", FILES, NEW, current=False)
    assert hub(store)["refs/main"] == OLD
    store.set_current("team", "model", NEW)
    assert hub(store)["refs/main"] == NEW


def test_two_models_share_a_repository(store: Store) -> None:
    publish(store, "all", FILES)
    publish(store, "some", {"config.json": b"{}", "extra": b"e"}, filters='[["*"],[]]', ref="v1")
    assert set(hub(store)) == {f"snapshots/{OLD}/{path}" for path in (*FILES, "extra")} | {"refs/main", "refs/v1"}
    store.remove_model("team", "all")
    assert set(hub(store)) == {f"snapshots/{OLD}/{path}" for path in ("config.json", "extra")} | {
        "refs/main",
        "refs/v1",
    }
    store.remove_model("team", "some")
    assert list(store.paths.hub.iterdir()) == []


def test_namespaces_do_not_see_each_other(store: Store) -> None:
    publish(store, "model", FILES)
    publish(store, "model", {"secret": b"s"}, namespace="other")
    assert f"snapshots/{OLD}/secret" not in hub(store)
    assert set(hub(store, "other")) == {f"snapshots/{OLD}/secret", "refs/main"}
    store.remove_model("other", "model")
    assert set(tree(store.paths.hub)) == {f"team/models--acme--model/{path}" for path in hub(store)}


def test_the_same_content_under_another_branch(store: Store) -> None:
    publish(store, "model", FILES, ref="main")
    publish(store, "model", FILES, ref="stable")
    assert {ref for ref in hub(store) if ref.startswith("refs/")} == {"refs/stable", "refs/main"}
    assert store.published()[0].hub == HubClaim(repo_id="acme/model", commit=OLD, ref="stable")
    publish(store, "model", FILES, repo="acme/model", ref="nested/branch")
    assert {ref for ref in hub(store) if ref.startswith("refs/")} == {"refs/nested/branch", "refs/main"}


# Removing


def test_removing_takes_everything_and_keeps_what_others_need(store: Store) -> None:
    publish(store, "model", FILES)
    publish(store, "model", FILES | {"config.json": b"new"}, NEW)
    publish(store, "other", {"config.json": b"{}"}, repo="acme/other")
    store.remove_snapshot("team", "model", NEW)
    assert not store.paths.current("team", "model").is_symlink()
    assert set(hub(store)) == {f"snapshots/{OLD}/{path}" for path in FILES}
    store.remove_model("team", "model")
    assert [row.name for row in store.published()] == ["other"]
    removed = store.collect_garbage()
    assert set(removed.garbage.blobs) == {digest(d) for d in (b"1" * 100, b"2" * 100, b"", b"new")}
    assert removed.bytes > 0
    assert store.has_blob(digest(b"{}"))
    assert len(removed.garbage.manifests) == 2
    store.remove_model("team", "other")
    store.collect_garbage()
    left = {str(p.relative_to(store.paths.root)) for p in store.paths.root.rglob("*") if p.is_file()}
    assert {name for name in left if not name.startswith(("state.sqlite3", "agent.lock"))} == set()
    assert list(store.paths.models.iterdir()) == list(store.paths.hub.iterdir()) == []


def test_removing_what_is_not_there_is_no_error(store: Store) -> None:
    store.remove_model("team", "model")
    store.remove_snapshot("team", "model", OLD)
    assert list(store.paths.models.iterdir()) == []


def test_garbage_collection_keeps_what_it_is_told_to_keep(store: Store) -> None:
    kept, held, lost = (add_blob(store, data) for data in (b"kept", b"held", b"lost"))
    for key in ("kept-partial", "held-partial", "lost-partial"):
        (store.paths.partial_file(key)).mkdir()
        (store.paths.partial_file(key) / "data").write_bytes(b"x" * 5000)
    saved = store.save_manifest(manifest(FILES))
    with store.hold() as hold:
        hold.add(blobs=[held], partials=["held-partial"])
        keep = Keep(blobs={kept}, partials={"kept-partial"}, manifests={saved})
        removed = store.collect_garbage(keep)
        assert (removed.garbage.blobs, removed.garbage.partials, removed.garbage.manifests) == (
            (lost,),
            ("lost-partial",),
            (),
        )
    removed = store.collect_garbage(keep)
    assert (removed.garbage.blobs, removed.garbage.partials) == ((held,), ("held-partial",))
    removed = store.collect_garbage()
    assert (removed.garbage.blobs, removed.garbage.manifests) == ((kept,), (saved,))


def test_a_blob_that_arrives_twice_keeps_its_inode(store: Store) -> None:
    publish(store, "model", FILES)
    inode = store.paths.blob(digest(b"{}")).stat().st_ino
    add_blob(store, b"{}", aliases=("src-elsewhere",))
    assert store.paths.blob(digest(b"{}")).stat().st_ino == inode
    assert store.blob_for("src-elsewhere") == digest(b"{}")
    assert list(store.paths.partial.iterdir()) == []


@pytest.mark.parametrize("links", range(9))
def test_a_disk_that_is_full_in_the_middle_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, links: int
) -> None:
    for data in FILES.values():
        add_blob(store, data)
    real, left = os.link, links

    def link(*arguments: Any, **options: Any) -> None:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        real(*arguments, **options)

    monkeypatch.setattr(os, "link", link)
    claim = HubClaim(repo_id="acme/model", commit=OLD, ref="main")
    try:
        store.publish("team", "model", manifest(FILES), claim)
    except StoreFull as error:
        assert "cannot publish" in str(error)  # noqa: PT017 -- with eight links there is no error
    assert list(store.paths.staging.iterdir()) == []
    published = [row.snapshot for row in store.published()]
    assert published == [path.name for path in store.paths.models.glob("team/model/*")]
    assert len(list(store.paths.records.glob("*/*/*"))) == len(published)
    monkeypatch.undo()
    publish(store, "model", FILES)
    assert store.quick_check("team", "model", OLD) == []


def test_what_is_held_while_garbage_is_collected_is_really_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """`add` first, then look: it must not be possible to see a blob that is about to be deleted."""
    blob = add_blob(store, b"content")
    choosing = store._index.referenced
    asking = threading.Event()
    seen: list[bool] = []

    def ask() -> None:
        with store.hold() as hold:
            asking.set()
            hold.add(blobs=[blob])
            seen.append(store.has_blob(blob))
            seen.append(store.paths.blob(blob).exists())

    thread = threading.Thread(target=ask)

    def chosen() -> set[str]:
        thread.start()
        return choosing()

    monkeypatch.setattr(store._index, "referenced", chosen)
    store.collect_garbage()
    assert asking.wait(PATIENCE)
    thread.join(PATIENCE)
    assert seen == [False, False]


def test_ten_thousand_small_files(store: Store) -> None:
    """As a tokenizer or a code model brings them: published, looked at and removed, with nothing left."""
    contents = {f"dir-{number % 100}/file-{number}": b"%d" % number for number in range(10_000)}
    store.commit_blobs([small_blob(store, data) for data in contents.values()])
    store.admissions.admit("team", map(digest, contents.values()))
    complete = manifest(contents)
    row = store.publish("team", "many", complete, HubClaim(repo_id="acme/many", commit=OLD, ref="main"))
    store.set_current("team", "many", complete.snapshot)
    assert row.file_count == 10_000
    assert store.quick_check(*row.key) == []
    victim = store.paths.snapshot(*row.key) / "dir-7/file-7"
    victim.unlink()
    assert {problem.path for problem in store.quick_check(*row.key)} == {victim}
    assert store.restore(*row.key) == [victim]
    assert store.quick_check(*row.key) == []
    store.remove_model("team", "many")
    assert len(store.collect_garbage().garbage.blobs) == 10_000
    assert [path for path in store.paths.blobs.rglob("*") if path.is_file()] == []


def small_blob(store: Store, data: bytes) -> NewBlob:
    path = store.paths.partial / digest(data)
    path.write_bytes(data)
    return NewBlob(path, digest(data), len(data))
