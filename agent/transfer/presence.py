"""What of a download need not be fetched: content that is in the store already, if the namespace may have it.

Content that only other namespaces have had so far (see `agent.store.admission`) is given away after the source of this one has
shown that it has it, too. The proofs run side by side before the download begins: there are many when a whole model is
here already for somebody else, and they are as nothing compared with fetching it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.store import NewBlob, Store
from agent.store.errors import io_errors
from agent.store.hold import Hold
from agent.store.records import alias_keys
from agent.transfer import proof
from agent.transfer.cancel import CancelToken
from agent.transfer.hashing import FileDigest
from agent.transfer.items import Item, mismatch
from agent.transfer.source import PieceSource
from modelcache.manifest import Manifest
from modelcache.sources.errors import SourceError


class Presence:
    """For one download. `source` is where its bytes come from when nobody has them."""

    def __init__(
        self,
        store: Store,
        namespace: str,
        manifest: Manifest,
        source: PieceSource,
        *,
        workers: int,
        below: Callable[[int], int],
        wait: Callable[[SourceError, int], None],
        read: Callable[[int], None],
        hold: Hold,
        cancel: CancelToken,
    ) -> None:
        """`workers`: proofs at a time. `below`, `wait` and `read` as for `proof.shows`."""
        self._store = store
        self._namespace = namespace
        self._manifest = manifest
        self._source = source
        self._workers = workers
        self._below = below
        self._wait = wait
        self._read = read
        self._hold = hold
        self._cancel = cancel

    def aliases(self, item: Item) -> tuple[str, ...]:
        """The keys under which its content is looked for beside its digest."""
        return alias_keys(item.file, self._namespace, self._manifest.source, self._manifest.revision)

    def find(self, items: Sequence[Item]) -> dict[str, str]:
        """The sha256 of those items that are here and may be used, by key. They are held from now on.

        Raises StoreError, Cancelled.
        """
        usable: dict[str, str] = {}
        foreign: list[tuple[Item, str]] = []
        for item in items:
            self._cancel.check()
            sha256 = self._blob_for(item)
            if sha256 is None:
                continue
            if self._store.admissions.holds(self._namespace, sha256):
                usable[item.key] = sha256
            elif not self._store.admissions.refused(self._namespace, sha256):
                foreign.append((item, sha256))
        if foreign:
            usable |= self._prove(foreign)
        return usable

    def _blob_for(self, item: Item) -> str | None:
        """The digest of the blob that the item is, by all that is known; None when there is none."""
        if item.file.size == 0:
            return self._make_empty(item)
        known = item.file.sha256 or next(filter(None, map(self._store.blob_for, self.aliases(item))), None)
        if known is None:
            return None
        self._hold.add(blobs=[known])
        blob = self._store.blob(known)
        if blob is None or blob.size != item.file.size:
            return None
        # After an index was lost, blobs are here but nobody has read them since.
        if blob.verified_at is None and not self._store.verify_blob(known, lambda _: self._cancel.check()):
            return None
        return known

    def _make_empty(self, item: Item) -> str:
        """An empty file needs no request: its content is known, to everybody. Returns its sha256."""
        digests = FileDigest.of(item.file).result()
        wrong = mismatch(item.file, digests)
        if wrong is not None:
            raise wrong
        self._hold.add(blobs=[digests.sha256])
        if not self._store.has_blob(digests.sha256):
            # Not in partial/: nobody has claimed that key yet, and other downloads may be here at the same time.
            path = self._store.paths.staging / uuid.uuid4().hex
            with io_errors("create", path):
                path.touch()
            self._store.commit_blobs([NewBlob(path, digests.sha256, 0, aliases=self.aliases(item))])
        self._store.admissions.admit(self._namespace, [digests.sha256])
        return digests.sha256

    def _prove(self, foreign: Sequence[tuple[Item, str]]) -> dict[str, str]:
        """Those of them that the source has shown to have."""
        with ThreadPoolExecutor(min(self._workers, len(foreign)), thread_name_prefix="prove") as pool:
            verdicts = [pool.submit(self._is_shown, item, sha256) for item, sha256 in foreign]
            try:
                shown = [entry for entry, verdict in zip(foreign, verdicts, strict=True) if verdict.result()]
            except BaseException:
                self._cancel.cancel()  # the others need not go on: the download ends
                raise
        self._store.admissions.admit(self._namespace, [sha256 for _, sha256 in shown])
        return {item.key: sha256 for item, sha256 in shown}

    def _is_shown(self, item: Item, sha256: str) -> bool:
        self._cancel.check()
        verdict = proof.shows(
            self._source,
            item.file,
            self._store.paths.blob(sha256),
            below=self._below,
            wait=self._wait,
            read=self._read,
            cancel=self._cancel,
        )
        if verdict is False:
            self._store.admissions.refuse(self._namespace, sha256)
        return verdict is True
