"""Publication records: what each published directory is, kept beside the index so that the index may be lost.

A directory of hard links says nothing about where it came from. Its record does: which manifest it was built from and
which claim it makes in the Hugging Face hub view. Together with `manifests/` and the tree itself this is all that is
needed to rebuild the index, and all that an agent needs to know what it has while there is no controller.

Records are private to the agent (0700) but still input: a damaged one makes a snapshot unusable, never a crash.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from agent.store.errors import RecordError
from modelcache.manifest import ManifestFile, path_problem
from modelcache.paths import partial_key

_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?:{_REPO_PART}/)?{_REPO_PART}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubClaim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a snapshot is to be readable as commit `commit` of the Hugging Face repository `repo_id`.

    `ref` is the branch or tag that the model asked for, None when it asked for the commit itself.
    """

    repo_id: str
    commit: str
    ref: str | None = None

    def check(self) -> None:
        """Raises RecordError unless every part is safe as a path in the hub view.

        The limits are those of `huggingface_hub.utils.validate_repo_id`: at most 96 characters a part, no `--` (which
        stands for `/` in the names of directories), no `..`.
        """
        if not _REPO.fullmatch(self.repo_id) or "--" in self.repo_id or ".." in self.repo_id:
            raise RecordError(f"{self.repo_id[:120]!r} is not the id of a Hugging Face repository")
        if not _COMMIT.fullmatch(self.commit):
            raise RecordError(f"{self.commit[:120]!r} is not a commit id of 40 hex digits")
        if self.ref is not None:
            problem = path_problem(self.ref)
            if problem:
                raise RecordError(f"the branch or tag {self.ref[:120]!r} cannot be a file name in refs/, {problem}")


class Policy(NamedTuple):
    """What has to be known about a model while nobody says what is wanted.

    Of files that nothing wants any more: `retain`, they stay until the room is needed; `pinned`, not even then.
    `keyless`: its source is read without a Secret, so an agent without a controller may read it again.
    """

    retain: bool = False
    pinned: bool = False
    keyless: bool = False


DELETED = Policy()
"""Files go as soon as nothing wants them: the default of the API."""


class Publication(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One published snapshot. `published_at` is in Unix seconds.

    `retain`, `pinned` and `keyless` are the `Policy` that its DynamoModel had last: they matter most when the DynamoModel is
    gone, or nobody knows of it, so they have to survive without it. The time of the last use is not in here but is the mtime
    of the record, so that it can be moved without writing a file.
    """

    namespace: str
    name: str
    snapshot: str
    manifest_digest: str
    published_at: float
    hub: HubClaim | None = None
    retain: bool = False
    pinned: bool = False
    keyless: bool = False

    @property
    def policy(self) -> Policy:
        """What is known about its model while nobody says what is wanted."""
        return Policy(self.retain, self.pinned, self.keyless)

    def encode(self) -> bytes:
        """The record as it is kept on disk."""
        return _ENCODER.encode(self) + b"\n"

    @staticmethod
    def decode(data: bytes) -> Publication:
        """The record in `data`. Raises RecordError."""
        try:
            record = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"the record cannot be read: {error}") from error
        if record.hub is not None:
            record.hub.check()
        return record


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(Publication)


def alias_keys(file: ManifestFile, namespace: str, source: str, revision: str) -> tuple[str, ...]:
    """The keys by which a file without published sha256 is recognised when it is wanted again.

    By its git blob id and size, so that a new revision fetches only the small files that changed, and by its origin. The
    latter only within a namespace: two tenants may reach different servers by one URI (an S3 endpoint is in the Secret), and
    one of them could say under the name of the other's origin what that one gets.
    A complete manifest says nothing about what the source published, so both keys are given for every git blob id.
    """
    by_origin = partial_key(namespace, source, revision, file.path, None)
    return (git_alias(file.git_oid, file.size), by_origin) if file.git_oid else (by_origin,)


def git_alias(git_oid: str, size: int) -> str:
    """The key by which content is found that is known by its git blob id and size."""
    return f"git-{git_oid}-{size}"
