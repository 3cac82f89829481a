"""Repositories: commits, the files in them, and the branches and tags that point at commits.

A repository only grows: `commit` adds one, `move` lets a branch or tag point at another. Commits never change, which is
what makes a resolved revision worth anything to a client. Digests are computed when a commit is made, so a large file is
read once before it is served.
"""

import hashlib
import io
import re
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from local.hub import gitobjects, lfs

Content = bytes | Path
"""Bytes in memory, or the path of a file on disk that stays as it is."""
Gated = Literal[False, "auto", "manual"]

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_BLOCK = 1024 * 1024


class HubFile(msgspec.Struct, frozen=True):
    """One file of a commit."""

    path: str
    size: int
    """Bytes of the content."""
    content: Content
    blob_id: str
    """Id of what git holds: of the content, or of the pointer for a file in LFS."""
    sha256: str | None
    """Of the content, for files in LFS."""
    pointer_size: int | None
    """Bytes of the pointer, for files in LFS."""

    @property
    def etag(self) -> str:
        """What identifies the content: the sha256 for files in LFS, else the blob id."""
        return self.sha256 or self.blob_id

    def open(self) -> BinaryIO:
        """Open the content for reading."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


class Commit(msgspec.Struct, frozen=True):
    """One commit: an id and the files that it consists of."""

    id: str
    files: Mapping[str, HubFile]
    """By path, in byte order of the path."""
    directories: Mapping[str, str]
    """Tree id by path of the directory; the root's path is empty."""
    parent: str | None
    generation: int
    """How many ancestors it has."""
    message: str


class Repository:
    """One model repository. Safe to change while it is served."""

    def __init__(
        self,
        name: str,
        files: Path | Mapping[str, Content] | None = None,
        *,
        revisions: Mapping[str, Path | Mapping[str, Content]] | None = None,
        private: bool = False,
        gated: Gated = False,
        disabled: bool = False,
        tokens: Collection[str] = (),
        lfs_rule: lfs.LfsRule | None = None,
    ) -> None:
        """`files` become the first commit of `main`, each of `revisions` the first commit of the branch of that name.

        A private repository can be seen, the files of a gated one can be read, only with one of `tokens`. Without
        `lfs_rule` each commit's own `.gitattributes` decides what is in LFS, and the hub's defaults where it has none.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not organization/name")
        self.name = name
        self.private = private
        self.gated = gated
        self.disabled = disabled
        self.tokens = frozenset(tokens)
        self._lfs_rule = lfs_rule
        self._lock = threading.Lock()
        self._commits: dict[str, Commit] = {}
        self._branches: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        if files is not None:
            self.commit(files)
        for branch, content in (revisions or {}).items():
            self.commit(content, branch=branch)

    def commit(self, files: Path | Mapping[str, Content], *, branch: str = "main", message: str | None = None) -> str:
        """Add a commit that consists of exactly `files` (a directory or path -> content) to `branch`; return its id."""
        contents = files_below(files) if isinstance(files, Path) else dict(files)
        rule = self._lfs_rule or _rule_of(contents)
        hubfiles = {
            path: _describe(path, contents[path], rule)
            for path in sorted(contents, key=lambda p: p.encode("utf-8", "surrogatepass"))
        }
        directories = gitobjects.tree_ids((file.path, file.blob_id) for file in hubfiles.values())
        text = message or f"Update {self.name}"
        with self._lock:
            parent = self._commits.get(self._branches.get(branch, ""))
            generation = parent.generation + 1 if parent else 0
            commit = Commit(
                id=gitobjects.commit_id(directories[""], parent.id if parent else None, generation, text),
                files=hubfiles,
                directories=directories,
                parent=parent.id if parent else None,
                generation=generation,
                message=text,
            )
            self._commits[commit.id] = commit
            self._branches[branch] = commit.id
        return commit.id

    def move(self, branch: str, revision: str) -> str:
        """Let `branch` (made if there is none) point at what `revision` means now; return the commit's id."""
        return self._point(self._branches, branch, revision)

    def tag(self, name: str, revision: str) -> str:
        """Let the tag `name` (made if there is none) point at what `revision` means now; return the commit's id."""
        return self._point(self._tags, name, revision)

    def find(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag, a full name under `refs/` or a (shortened) commit id means."""
        with self._lock:
            for prefix, refs in (("refs/heads/", self._branches), ("refs/tags/", self._tags)):
                commit_id = refs.get(revision) or refs.get(revision.removeprefix(prefix))
                if commit_id:
                    return self._commits[commit_id]
            if _SHORT_COMMIT.fullmatch(revision):
                found = [commit for commit in self._commits.values() if commit.id.startswith(revision)]
                return found[0] if len(found) == 1 else None
            return None

    def refs(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return copies of the branches and of the tags, name -> commit id."""
        with self._lock:
            return dict(self._branches), dict(self._tags)

    def _point(self, refs: dict[str, str], name: str, revision: str) -> str:
        commit = self.find(revision)
        if commit is None:
            raise KeyError(f"{self.name} has no revision {revision!r}")
        with self._lock:
            refs[name] = commit.id
        return commit.id


def files_below(root: Path) -> dict[str, Content]:
    """Return every file below `root` by its relative path; links to files are followed, `.git` is left out.

    Raises ValueError for a file name that is not UTF-8: the API, which is JSON, could not name it.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a directory")
    found: dict[str, Content] = {}
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        if ".git" in relative.parts or not path.is_file():
            continue
        try:
            relative.as_posix().encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path!r} has a name that is not UTF-8") from None
        found[relative.as_posix()] = path.resolve()
    return found


def _rule_of(contents: Mapping[str, Content]) -> lfs.LfsRule:
    attributes = contents.get(".gitattributes")
    if attributes is None:
        return lfs.LfsRule()
    raw = attributes if isinstance(attributes, bytes) else attributes.read_bytes()
    return lfs.rule_from_gitattributes(raw.decode("utf-8", "replace"))


def _describe(path: str, content: Content, rule: lfs.LfsRule) -> HubFile:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if not rule.applies(path, size):
        return HubFile(path, size, content, _digest(content, size, "blob"), sha256=None, pointer_size=None)
    sha256 = _digest(content, size, "sha256")
    pointer = lfs.pointer(sha256, size)
    return HubFile(path, size, content, gitobjects.blob_id(pointer), sha256=sha256, pointer_size=len(pointer))


def _digest(content: Content, size: int, kind: Literal["blob", "sha256"]) -> str:
    digest = gitobjects.blob_hash(size) if kind == "blob" else hashlib.sha256()
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
