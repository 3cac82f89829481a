"""The JSON of the model API: pure functions from commits to what clients decode.

The names of the fields are what `huggingface_hub` 2.4 reads in `hf_api.py` (`ModelInfo`, `RepoFile`, `RepoFolder`,
`GitRefInfo`). Every listing of files starts as entries of the tree API, so that a fault which falsifies entries falsifies
them everywhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from local.hub import gitobjects
from local.hub.repository import Commit, HubFile, Repository

Entry = dict[str, Any]
"""One entry of the tree API: `type`, `oid`, `size`, `path`, and `lfs` for files in LFS."""


def file_entry(file: HubFile) -> Entry:
    """Return the entry of a file. `oid` and `size`: for a file in LFS the pointer's id, but the content's size."""
    entry: Entry = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
    if file.sha256 is not None:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def directory_entry(path: str, oid: str) -> Entry:
    """Return the entry of a directory."""
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def tree(commit: Commit, below: str, recursive: bool) -> list[Entry] | None:
    """Return the entries in directory `below` (empty = root), sorted by path; None if there is no such directory."""
    if below not in commit.directories:
        return None
    prefix = f"{below}/" if below else ""

    def wanted(path: str) -> bool:
        return path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])

    entries = [directory_entry(path, oid) for path, oid in commit.directories.items() if path and wanted(path)]
    entries += [file_entry(file) for path, file in commit.files.items() if wanted(path)]
    return sorted(entries, key=lambda entry: str(entry["path"]).encode("utf-8", "surrogatepass"))


def paths(commit: Commit, wanted: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of those of the `wanted` paths that exist."""
    for path in wanted:
        if file := commit.files.get(path):
            yield file_entry(file)
        elif path and (oid := commit.directories.get(path)):
            yield directory_entry(path, oid)


def expanded(entry: Entry, commit: Commit) -> Entry:
    """Add what `expand=true` asks for: the last commit, and for files the result of the security scan."""
    entry = {**entry, "lastCommit": {"id": commit.id, "title": commit.message, "date": date_of(commit)}}
    if entry.get("type") == "file":
        scan = {"virusFound": False, "virusNames": None}
        entry["securityFileStatus"] = {"status": "safe", "avScan": scan, "pickleImportScan": None}
    return entry


def sibling(entry: Entry, blobs: bool) -> Entry:
    """Return a file's entry as the model API lists it; with `blobs` also size and digests, as far as the entry has them."""
    result: Entry = {"rfilename": entry.get("path")}
    if blobs:
        renamed = {"oid": "blobId", "size": "size"}
        result |= {renamed[key]: entry[key] for key in renamed if key in entry}
        if isinstance(lfs := entry.get("lfs"), Mapping):
            result["lfs"] = {"sha256" if key == "oid" else key: value for key, value in lfs.items()}
    return result


def model_info(repository: Repository, commit: Commit, entries: Sequence[Entry], blobs: bool) -> Entry:
    """Return what `/api/models/{id}` answers for one commit."""
    return {
        "_id": commit.id[:24],
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit.id,
        "lastModified": date_of(commit),
        "createdAt": _iso(gitobjects.FIRST_COMMIT_TIME),
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [sibling(entry, blobs) for entry in entries if entry.get("type") == "file"],
        "usedStorage": sum(file.size for file in commit.files.values() if file.sha256),
    }


def refs(repository: Repository) -> Entry:
    """Return what `/api/models/{id}/refs` answers."""
    branches, tags = repository.refs()
    special = {name: oid for name, oid in branches.items() if name.startswith("refs/")}
    return {
        "branches": [_ref(name, f"refs/heads/{name}", oid) for name, oid in branches.items() if name not in special],
        "converts": [_ref(name, name, oid) for name, oid in special.items() if name.startswith("refs/convert/")],
        "tags": [_ref(name, f"refs/tags/{name}", oid) for name, oid in tags.items()],
        "pullRequests": [_ref(name, name, oid) for name, oid in special.items() if name.startswith("refs/pr/")],
    }


def whoami(name: str) -> Entry:
    """Return what `/api/whoami-v2` answers to a token named `name`."""
    return {
        "type": "user",
        "id": name,
        "name": name,
        "fullname": name,
        "email": f"{name}@localhost",
        "isPro": False,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": {"displayName": name, "role": "read"}},
    }


def date_of(commit: Commit) -> str:
    """Return when the commit was made, as the API writes it."""
    return _iso(gitobjects.commit_time(commit.generation))


def _ref(name: str, ref: str, commit_id: str) -> Entry:
    return {"name": name, "ref": ref, "targetCommit": commit_id}


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
