"""What the agent knows about the content of manifests and snapshots: small translations between manifest, store and plan."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from agent.desired import Wanted
from agent.failures import ManifestUnavailable
from agent.plan import Condition, Snapshot, Target, View
from agent.ports import Cache
from agent.store import BlobMissing, HubClaim, Keep, PublishedSnapshot
from agent.transfer.errors import Cancelled
from agent.users import Users
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestError
from modelcache.paths import partial_key

_log = logging.getLogger(__name__)

_HF = "hf://"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN_PROBLEMS = 5
"""Files of one snapshot that are named in the log."""


def hub_claim(manifest: Manifest, ref: str) -> HubClaim | None:
    """Where the hub view offers the snapshot; None for a source that is no Hugging Face repository.

    `ref` is the branch or tag that the user asked for. One who asked for a commit finds it without a ref.
    """
    if not manifest.source.startswith(_HF) or not _COMMIT.fullmatch(manifest.revision):
        return None
    named = ref if ref and ref != manifest.revision else None
    return HubClaim(repo_id=manifest.source.removeprefix(_HF), commit=manifest.revision, ref=named)


class Known(NamedTuple):
    """A manifest that is at hand, with what takes a while to compute. `tree_digest` None: incomplete. `size` in bytes."""

    manifest: Manifest
    digest: str
    tree_digest: str | None
    size: int

    @staticmethod
    def of(manifest: Manifest, digest: str) -> Known:
        """`manifest`, whose digest is `digest`."""
        return Known(manifest, digest, manifest.tree_digest(), manifest.size)


class Held(NamedTuple):
    """A published snapshot: the row of the store, its manifest (None when that was lost), and how the plan sees it."""

    row: PublishedSnapshot
    known: Known | None
    snapshot: Snapshot


def target_of(known: Known, wanted: Wanted) -> Target:
    """The wanted manifest as the plan sees it."""
    claim = hub_claim(known.manifest, wanted.hub_ref)
    return Target(
        digest=known.digest,
        snapshot=known.manifest.snapshot,
        revision=known.manifest.revision,
        tree_digest=known.tree_digest,
        ref=(claim.ref or "") if claim is not None else "",
        only_file=(known.manifest.files[0].sha256 or "") if len(known.manifest.files) == 1 else "",
    )


class Outside(NamedTuple):
    """What others say about a model, see `View`: the node's labels and how often those have moved, engines, pods.

    `users` is the state of `Users`, and there, like `moves`, so that equal arguments of `view_of` mean an equal result.
    """

    shown: str | None
    moves: int
    loaded: frozenset[str]
    users: object
    uses_confirmed: bool


def view_of(
    instructions: tuple[bool, Wanted | None, str],
    known: Known | None,
    progress: tuple[str, str, bool],
    held: Sequence[Held],
    outside: Outside,
    users: Users,
) -> View:
    """Everything that the next step of a model is decided on, see `View`.

    `instructions` are what the controller says (heard, wanted, listed), `progress` how far this process is (digest of the
    manifest whose files are here, contradiction, emptied), `outside` what others say.
    """
    heard, wanted, listed = instructions
    fetched, contradiction, emptied = progress
    fits = wanted is not None and known is not None and known.digest == wanted.manifest_digest
    return View(
        heard=heard,
        wanted=wanted,
        snapshots=tuple(each.snapshot for each in held),
        target=target_of(known, wanted) if fits and known and wanted else None,
        fetched=fits and known is not None and fetched == known.digest,
        contradiction=contradiction if fits else "",
        shown=outside.shown,
        emptied=emptied,
        loaded=outside.loaded,
        in_use=frozenset(each.snapshot.name for each in held if users.pods_of(each.row)),
        users_known=users.known,
        uses_confirmed=outside.uses_confirmed,
        listed=listed,
    )


def held_of(row: PublishedSnapshot, known: Known | None, condition: Condition | None = None) -> Held:
    """A row of the store with what is known about it. `condition` None: nothing was found out in this process."""
    if known is None:
        # Without its manifest nobody can say what it should contain: it is not announced, and replaced when wanted.
        lost = Snapshot(row.snapshot, "", row.snapshot, row.current, Condition.DAMAGED, policy=row.policy)
        return Held(row, None, lost)
    unknown = Condition.SOUND if row.verified_at is not None else Condition.DOUBTFUL
    snapshot = Snapshot(
        name=row.snapshot,
        manifest_digest=row.manifest_digest,
        revision=known.manifest.revision,
        current=row.current,
        condition=condition or unknown,
        ref=(row.hub.ref or "") if row.hub is not None else "",
        policy=row.policy,
    )
    return Held(row, known, snapshot)


def own_order(held: Iterable[Held]) -> Wanted | None:
    """What an agent wants of a model while no controller has told it anything: what is in force, as it was published.

    Then it can be mended from its source; the manifest is on the disk. Not where the source wants a Secret: that was in
    the memory of a former process. Trying without it would show the names of somebody's files to whichever server the source
    means without it (an S3 endpoint is in the Secret).
    """
    current = next((each for each in held if each.snapshot.current), None)
    if current is None or current.known is None or not current.row.policy.keyless:
        return None
    snapshot = current.snapshot
    return Wanted(manifest_digest=snapshot.manifest_digest, hub_ref=snapshot.ref, policy=snapshot.policy)


def load_held(cache: Cache, key: ObjectKey, conditions: Mapping[str, Condition]) -> tuple[Held, ...]:
    """Everything published of one model. Blocks for the disk. `conditions` is what is known by the name of a snapshot.

    One that is not named is doubtful: nobody has looked at it in this process.
    """
    rows = [row for row in cache.published() if (row.namespace, row.name) == key]
    return tuple(held_of(row, _known(cache, row), conditions.get(row.snapshot, Condition.DOUBTFUL)) for row in rows)


def doubted(held: Iterable[Held], names: Collection[str]) -> tuple[Held, ...]:
    """`held`, with those snapshots doubtful that bear one of `names` and were thought to be sound."""
    return tuple(
        each._replace(snapshot=replace(each.snapshot, condition=Condition.DOUBTFUL))
        if each.snapshot.name in names and each.snapshot.sound
        else each
        for each in held
    )


def inspect(cache: Cache) -> dict[ObjectKey, tuple[Held, ...]]:
    """Everything published on this node, each snapshot quickly checked. Blocks for the disk; done once, at start."""
    found: dict[ObjectKey, tuple[Held, ...]] = {}
    for row in cache.published():
        key = ObjectKey(row.namespace, row.name)
        problems = cache.quick_check(*row.key)
        for problem in problems[:_SHOWN_PROBLEMS]:
            _log.warning("%s is not as it was published: %s", problem.path, problem.detail, extra={"model": str(key)})
        held = held_of(row, _known(cache, row), Condition.DOUBTFUL if problems else None)
        found[key] = (*found.get(key, ()), held)
    return found


def _known(cache: Cache, row: PublishedSnapshot) -> Known | None:
    manifest = cache.manifest(row.manifest_digest)
    return Known.of(manifest, row.manifest_digest) if manifest is not None else None


def checked_manifest(data: bytes, digest: str) -> Manifest:
    """The manifest that a controller sent. Raises ManifestUnavailable for another one, ManifestError for a bad one."""
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ManifestUnavailable(f"the controller sent a manifest with the digest {found} instead of {digest}")
    manifest = Manifest.decode(data)
    if manifest.digest != digest:
        raise ManifestError("it has parts that this version of the agent does not know; update the agent")
    return manifest


def contradiction(manifest: Manifest, digests: Mapping[str, str]) -> str:
    """How the digests of what was fetched differ from those of the manifest, as a sentence; empty when they do not.

    Happens where a source publishes no sha256: the manifest was then completed with what the first node had got.
    """
    for file in manifest.files:
        found = digests.get(file.path)
        if found is not None and file.sha256 is not None and found != file.sha256:
            return (
                f"{file.path}: the sha256 of what this node got from {manifest.source} is {found}, the manifest says "
                f"{file.sha256}; the source does not give the same file to everybody, check it or pin another revision."
            )
    return ""


def completed_tree_digest(manifest: Manifest, digests: Mapping[str, str]) -> str:
    """The tree digest of what was fetched for a manifest; empty where it contradicts the manifest or lacks a file."""
    try:
        return manifest.with_sha256(digests).tree_digest() or ""
    except ManifestError:
        return ""


def same_content(former: Manifest, manifest: Manifest) -> bool:
    """Whether one is the other, perhaps with more digests filled in."""
    return (former.source, former.snapshot) == (manifest.source, manifest.snapshot)


def missing_digests(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, str]:
    """sha256 by path of the files for which the manifest has none."""
    return {file.path: digests[file.path] for file in manifest.files if file.sha256 is None and file.path in digests}


def needed_by(namespace: str, known: Known, digests: Mapping[str, str]) -> Keep:
    """What a manifest that is not published yet needs of the store. `digests`: what was fetched for it, by path."""
    manifest = known.manifest
    return Keep(
        blobs={file.sha256 or digests.get(file.path, "") for file in manifest.files},
        partials={
            partial_key(namespace, manifest.source, manifest.revision, file.path, file.sha256)
            for file in manifest.files
        },
        manifests={known.digest},
    )


def mend(cache: Cache, key: ObjectKey, snapshot: str) -> tuple[Callable[[], Condition], Callable[[], None]]:
    """The work of finding out what a snapshot is worth and putting it right without the network, and how to cancel it."""
    stop = threading.Event()

    def paid(_count: int) -> None:
        if stop.is_set():
            raise Cancelled("the check was cancelled")

    def work() -> Condition:
        row = next(row for row in cache.published() if row.key == (*key, snapshot))
        unverified = row.verified_at is None
        problems = cache.deep_check(*row.key, paid) if unverified else cache.quick_check(*row.key)
        if not problems:
            return Condition.SOUND
        for sha256 in {problem.sha256 for problem in problems if problem.sha256}:
            cache.verify_blob(sha256, paid)
        try:
            cache.restore(*row.key)
        except BlobMissing:
            return Condition.DAMAGED
        left = cache.deep_check(*row.key, paid) if unverified else cache.quick_check(*row.key)
        return Condition.DAMAGED if left else Condition.SOUND

    return work, stop.set
