"""Short ways to fill a cache in tests."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from agent.store import HubClaim, NewBlob, PublishedSnapshot, Store
from modelcache.manifest import Manifest, ManifestFile, Sha256

OLD, NEW = "a" * 40, "b" * 40


def digest(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def add_blob(store: Store, data: bytes, aliases: tuple[str, ...] = ()) -> Sha256:
    """Makes `data` a blob, as a download for the namespace `team` does."""
    directory = store.paths.partial_file(digest(data))
    directory.mkdir(exist_ok=True)
    (directory / "data").write_bytes(data)
    store.commit_blobs([NewBlob(directory / "data", digest(data), len(data), aliases=aliases)])
    directory.rmdir()
    store.admissions.admit("team", [digest(data)])
    return digest(data)


def manifest(files: Mapping[str, bytes], revision: str = OLD, repo: str = "acme/model", filters: str = "") -> Manifest:
    """A complete manifest."""
    entries = (ManifestFile(path=path, size=len(data), sha256=digest(data)) for path, data in files.items())
    return Manifest.build(f"hf://{repo}", revision, entries, filters)


def publish(
    store: Store,
    name: str,
    files: Mapping[str, bytes],
    revision: str = OLD,
    *,
    namespace: str = "team",
    repo: str = "acme/model",
    ref: str | None = "main",
    current: bool = True,
    filters: str = "",
) -> PublishedSnapshot:
    """Puts a model into the cache, from content to `current`."""
    for data in files.values():
        if not store.has_blob(digest(data)):
            add_blob(store, data)
    complete = manifest(files, revision, repo, filters)
    store.admissions.admit(
        namespace, [d for d in map(digest, files.values()) if not store.admissions.holds(namespace, d)]
    )
    row = store.publish(namespace, name, complete, HubClaim(repo_id=repo, commit=revision, ref=ref))
    if current:
        store.set_current(namespace, name, complete.snapshot)
    return row


def lasting(row: PublishedSnapshot) -> PublishedSnapshot:
    """A row without what is not known any more when the index was lost."""
    return row._replace(verified_at=None, last_used=0.0, current_since=None, current_until=None)


def tree(top: Path) -> dict[str, str]:
    """What a reader finds below `top`: relative path -> content (or `-> target` for a symlink)."""
    found = {}
    for root, directories, files in os.walk(top):
        for name in (*files, *directories):
            path = Path(root) / name
            relative = str(path.relative_to(top))
            if path.is_symlink():
                found[relative] = f"-> {path.readlink()}"
            elif path.is_file():
                found[relative] = digest(path.read_bytes()) if path.stat().st_size > 40 else path.read_text("latin-1")
    return found
