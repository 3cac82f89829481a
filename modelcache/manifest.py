"""The manifest: which files make up one pinned revision of a model, how large they are, and what their digests are.

A source is resolved exactly once, by the controller, into a manifest; every agent then works from that manifest and never
from the source's listing. So a branch that moves, a mirror that lags or a listing that is tampered with later cannot give
two nodes different models.

A source's listing is untrusted. `Manifest.build` is the only way from a listing to a manifest, and it refuses whatever
could leave the cache directory or could not be stored the same way on every file system (see `path_problem`). Agents check
again what they receive, through the same function.

Digests. A blob is named by its sha256. Hugging Face publishes the sha256 of LFS and Xet files; for the other (small) files
it publishes only the git blob id, which is checked on arrival, and the sha256 that the first agent computes is then
written into the manifest (`with_sha256`): every other agent must arrive at the same one. A manifest in which every file
has a sha256 is *complete* and has a `tree_digest`, the value that `spec.verification.checksum` is compared with.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NewType

import msgspec

from modelcache.checksums import Checksum

Sha256 = NewType("Sha256", str)
"""64 lowercase hex digits."""
GitOid = NewType("GitOid", str)
"""40 lowercase hex digits: sha1 of `blob <length in decimal>\\0` followed by the bytes (git's blob object id)."""

MAX_FILES = 200_000
"""A listing with more entries is refused: it is no model, and a manifest has to fit in memory many times over."""
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
"""NAME_MAX of ext4, xfs and btrfs."""
MAX_OPAQUE = 4096
"""Characters of what only the source understands; S3 has keys of 1,024 bytes, three characters each when quoted."""
MAX_FILE_BYTES = 16 * 1024**4
"""The largest file that ext4 holds with 4 KiB blocks (16 TiB)."""

_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX40 = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ManifestError(ValueError):
    """A listing or a stored manifest cannot be used; the message names the entry and the reason."""


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a model.

    `path` is relative, with `/` between segments. `size` is in bytes. `sha256`, `git_oid` or `checksum` (in the form of
    `modelcache.checksums`) is what the source publishes; all may be None for sources that publish no digest. `etag` pins the
    object's state for such sources, `locator` is what only the source understands (see `modelcache.sources.base`).
    """

    path: str
    size: int
    sha256: Sha256 | None = None
    git_oid: GitOid | None = None
    etag: str | None = None
    checksum: str | None = None
    locator: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one pinned revision, in byte order of their paths.

    `source` is the canonical URI without a revision, `revision` what it was resolved to (a commit id, or a digest of the
    listing for sources without commits). `filters` are the include and exclude globs that the files were chosen by, in a
    canonical text form, empty when all files were taken.
    """

    source: str
    revision: str
    files: tuple[ManifestFile, ...]
    filters: str = ""

    @staticmethod
    def build(source: str, revision: str, files: Iterable[ManifestFile], filters: str = "") -> Manifest:
        """A checked manifest with sorted files.

        Raises ManifestError when the revision or an entry cannot be used; the message is fit for a condition.
        """
        ordered = tuple(sorted(files, key=lambda file: file.path.encode("utf-8", "surrogatepass")))
        manifest = Manifest(source=source, revision=revision, files=ordered, filters=filters)
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raises ManifestError when anything in it is unusable. What comes over the wire or from disk goes through here."""
        if not _REVISION.fullmatch(self.revision):
            raise ManifestError(f"revision {self.revision!r} is not usable as a directory name")
        if not self.files:
            raise ManifestError(f"{self.source} at {self.revision} has no files")
        if len(self.files) > MAX_FILES:
            raise ManifestError(f"{self.source} lists {len(self.files)} files; at most {MAX_FILES} are supported")
        for file in self.files:
            problem = path_problem(file.path) or _entry_problem(file)
            if problem:
                raise ManifestError(f"{self.source} lists the file {_shown(file.path)}, {problem}")
        collision = _collision(self.files)
        if collision:
            raise ManifestError(f"{self.source} {collision}")

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def snapshot(self) -> str:
        """Name of the directory that holds this snapshot: the revision, and a hash of the filters where there are any.

        Two DynamoModels, or one before and after a change of `include`, may hold different files of one revision.
        """
        if not self.filters:
            return self.revision
        return f"{self.revision}-{hashlib.sha256(self.filters.encode()).hexdigest()[:8]}"

    @property
    def complete(self) -> bool:
        """Whether the sha256 of every file is known."""
        return all(file.sha256 for file in self.files)

    def tree_digest(self) -> Sha256 | None:
        """sha256 over the lines `<sha256>  <path>\\n` in byte order of path; None while a digest is missing.

        The same text that `sha256sum` prints for the files, sorted by path.
        """
        if not self.complete:
            return None
        lines = "".join(f"{file.sha256}  {file.path}\n" for file in self.files)
        return Sha256(hashlib.sha256(lines.encode()).hexdigest())

    def with_sha256(self, digests: Mapping[str, str]) -> Manifest:
        """The manifest with the missing sha256 filled in from `digests` (path -> sha256).

        Raises ManifestError when one contradicts what the manifest already holds, or is not a sha256.
        """
        files = []
        for file in self.files:
            digest = digests.get(file.path)
            if digest is None:
                files.append(file)
                continue
            if not _HEX64.fullmatch(digest):
                raise ManifestError(f"{_shown(file.path)}: {digest[:80]!r} is not a sha256")
            if file.sha256 is not None and file.sha256 != digest:
                raise ManifestError(
                    f"{_shown(file.path)}: sha256 is {file.sha256} in the manifest, {digest} as reported"
                )
            files.append(msgspec.structs.replace(file, sha256=Sha256(digest)))
        return msgspec.structs.replace(self, files=tuple(files))

    def encode(self) -> bytes:
        """Canonical JSON: equal manifests have equal bytes."""
        return _ENCODER.encode(self)

    @property
    def digest(self) -> Sha256:
        """sha256 of the canonical form; names the manifest between controller and agents."""
        return Sha256(hashlib.sha256(self.encode()).hexdigest())

    @staticmethod
    def decode(data: bytes) -> Manifest:
        """The manifest in `data`, checked. Raises ManifestError."""
        try:
            manifest = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ManifestError(f"the manifest cannot be read: {error}") from error
        manifest.check()
        return manifest

    @staticmethod
    def decode_known(data: bytes, digest: str) -> Manifest:
        """The manifest with this digest, which was checked when it was kept: the digest proves that `data` is that one.

        Ten times as fast as `decode`, which counts where an agent starts with a thousand of them. Raises ManifestError.
        """
        if hashlib.sha256(data).hexdigest() != digest:
            raise ManifestError(f"its sha256 is not {digest}")
        try:
            return _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ManifestError(f"the manifest cannot be read: {error}") from error


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(Manifest)


def filters_text(include: Iterable[str], exclude: Iterable[str]) -> str:
    """Canonical text of include and exclude globs for `Manifest.filters`; empty when there are none."""
    wanted, unwanted = sorted(set(include)), sorted(set(exclude))
    return _ENCODER.encode([wanted, unwanted]).decode() if wanted or unwanted else ""


def path_problem(path: str) -> str | None:
    """Why `path` may not be used below a snapshot directory, as the end of a sentence; None when it may."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "which is not valid UTF-8"
    if not path:
        return "which has an empty name"
    if len(encoded) > MAX_PATH_BYTES:
        return f"which is longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/"):
        return "which is an absolute path"
    if "\\" in path:
        return "which contains a backslash"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in path):
        return "which contains a control character"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return f"which contains the path segment {segment!r}"
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            return f"in which a name is longer than {MAX_SEGMENT_BYTES} bytes"
    return None


def _entry_problem(file: ManifestFile) -> str | None:
    if file.size < 0 or file.size > MAX_FILE_BYTES:
        return f"whose size of {file.size} bytes is impossible"
    if file.sha256 is not None and not _HEX64.fullmatch(file.sha256):
        return f"whose sha256 {file.sha256[:80]!r} is not 64 hex digits"
    if file.git_oid is not None and not _HEX40.fullmatch(file.git_oid):
        return f"whose git blob id {file.git_oid[:80]!r} is not 40 hex digits"
    if file.checksum is not None:
        try:
            Checksum.parse(file.checksum)
        except ValueError as error:
            return f"whose checksum cannot be used: {error}"
    if len(file.etag or "") > MAX_OPAQUE or len(file.locator or "") > MAX_OPAQUE:
        return f"whose etag or locator is longer than {MAX_OPAQUE} characters"
    return None


def _folded(path: str) -> str:
    """Equal for paths that a file system may take for one: canonical caseless matching (Unicode 3.13, D145)."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _collision(files: tuple[ManifestFile, ...]) -> str | None:
    """Two entries that cannot both exist: the same path, paths equal but for case, or a file that is also a directory.

    Paths that differ only in case, or in Unicode's ways to compose a letter, are refused because a cache root on a file system
    that takes them for one (casefolded ext4, an NFS export from such a system) would silently keep only one of them.
    """
    seen: dict[str, str] = {}
    for file in files:
        folded = _folded(file.path)
        other = seen.get(folded)
        if other == file.path:
            return f"lists the file {_shown(file.path)} twice"
        if other is not None and other.casefold() == file.path.casefold():
            return f"lists {_shown(other)} and {_shown(file.path)}, which differ only in case"
        if other is not None:
            return f"lists {ascii(other)[:200]} and {ascii(file.path)[:200]}, which differ only in how letters are composed"
        seen[folded] = file.path
    for file in files:
        parent = _folded(file.path)
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in seen:
                return f"lists {_shown(seen[parent])} both as a file and as the directory of {_shown(file.path)}"
    return None


def _shown(path: str) -> str:
    """`path` quoted for a message: printable, and not longer than a person reads."""
    text = ascii(path) if not path.isprintable() else f"'{path}'"
    return text if len(text) <= 200 else text[:160] + "..." + text[-30:]
