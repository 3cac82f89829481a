"""Which namespaces may be given which content, across restarts, lost indexes and older ones."""

import sqlite3
from pathlib import Path

import pytest

from agent.store import NotAdmitted, Policy, Store
from tests.support.caching import NEW, add_blob, digest, manifest, publish

SECRET = b"what only one tenant may have"
NAME = digest(SECRET)


def holds(store: Store) -> dict[str, bool]:
    return {namespace: store.admissions.holds(namespace, NAME) for namespace in ("team", "other")}


def test_knowing_a_digest_does_not_get_the_content_published(store: Store) -> None:
    publish(store, "model", {"secret": SECRET})
    with pytest.raises(NotAdmitted, match="other has not shown that it may read"):
        store.publish("other", "mine", manifest({"secret": SECRET}))
    assert not store.paths.model("other", "mine").exists()
    store.admissions.admit("other", [NAME])
    row = store.publish("other", "mine", manifest({"secret": SECRET}))
    published = store.paths.snapshot(*row.key) / "secret"
    assert published.stat().st_ino == store.paths.blob(NAME).stat().st_ino, "shared, not copied"


def test_admissions_survive_a_restart_and_go_with_the_content(root: Path) -> None:
    with Store.open(root) as store:
        add_blob(store, SECRET)
        store.admissions.refuse("other", NAME)
    with Store.open(root) as store:
        assert holds(store) == {"team": True, "other": False}
        assert store.admissions.refused("other", NAME)
        assert not store.admissions.refused("team", NAME)
        store.collect_garbage()
        assert holds(store) == {"team": False, "other": False}
        assert not store.admissions.refused("other", NAME)


def test_what_is_published_for_a_namespace_counts_without_the_index(root: Path) -> None:
    with Store.open(root) as store:
        publish(store, "model", {"secret": SECRET})
        store.admissions.admit("other", [NAME])
    (root / "state.sqlite3").unlink()
    with Store.open(root) as store:
        assert holds(store) == {"team": True, "other": False}, "only what is published for it is proved by the disk"
        store.admissions.refuse("team", NAME)
        assert holds(store)["team"], "a refusal takes nothing away that is there"
        publish(store, "model", {"secret": SECRET, "more": b"more"}, NEW)


@pytest.mark.parametrize(
    "back",
    [
        "ALTER TABLE snapshots DROP COLUMN keyless; PRAGMA user_version = 3;",
        "ALTER TABLE snapshots DROP COLUMN keyless; DROP TABLE admissions; PRAGMA user_version = 2;",
    ],
    ids=["version 3", "version 2, from before admissions"],
)
def test_an_older_index_is_taken_over(root: Path, back: str) -> None:
    with Store.open(root) as store:
        publish(store, "model", {"secret": SECRET})
    connection = sqlite3.connect(root / "state.sqlite3")
    connection.executescript(back)
    connection.close()
    with Store.open(root) as store:
        assert store.report.clean
        assert [row.policy for row in store.published()] == [Policy()], "nobody has said that it wants no Secret"
        assert store.has_blob(NAME), "what was verified need not be read again"
        assert holds(store) == {"team": True, "other": False}
