"""One model's download: from a checked manifest to blobs in the store.

Threads: a few workers ask the plan what to do next and move bytes; the hash pool of the agent follows the finished
prefixes; the thread that called does the chores that need the disk's patience (syncing journals, committing blobs), always
for everything that came together meanwhile, so that a slow disk leads to larger groups instead of more waiting.

Whatever ends a download, what has arrived stays: partials are taken over by the next call for the same content.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.store.errors import StoreFull, io_errors
from agent.store.hold import Hold
from agent.store.store import NewBlob, Store
from agent.transfer import backoff
from agent.transfer.cancel import CancelToken
from agent.transfer.clock import Clock
from agent.transfer.errors import Cancelled, InsufficientStorage, IntegrityError
from agent.transfer.flights import Flights
from agent.transfer.hashing import Digests, FileDigest, Follower, HashPool
from agent.transfer.items import Item, itemize, mismatch
from agent.transfer.partial import PartialFile
from agent.transfer.plan import Plan, Work
from agent.transfer.presence import Presence
from agent.transfer.progress import Meter, Waiting
from agent.transfer.seeding import seed
from agent.transfer.sink import BufferPool, PieceSink
from agent.transfer.source import Overlay, PieceSource, RangesIgnored
from agent.transfer.space import SpaceLedger, on_disk
from modelcache.manifest import Manifest
from modelcache.sources.errors import SourceError

_NICE = 10
"""Added to the nice value of threads that fetch (setpriority(2): on Linux it is an attribute of the thread). A file of 2 GiB
on two busy cores, 15 rounds: with 5 the digest was known 0.3 to 0.4 s after the last byte had come, with 10 less than
0.2 s, and a download took 0.8 to 0.9 of the time. 19 was no better. Containers are weighed against each other by their
shares alone."""


@dataclass(frozen=True)
class Shared:
    """What all downloads of an agent have in common."""

    store: Store
    hashes: HashPool
    buffers: BufferPool
    space: SpaceLedger
    flights: Flights
    clock: Clock
    rng: random.Random
    boot: bytes
    piece_bytes: int
    sync_seconds: float
    backoff_base: float
    backoff_cap: float


@dataclass(frozen=True)
class _Commit:
    item: Item
    sha256: str


@dataclass(frozen=True)
class _Flush:
    item: Item


@dataclass(frozen=True)
class _Reconsider:
    item: Item


_Chore = _Commit | _Flush | _Reconsider | BaseException


class Download:
    """Runs once: `run()` blocks until all files are blobs, or raises why they cannot be."""

    def __init__(
        self,
        shared: Shared,
        namespace: str,
        manifest: Manifest,
        source: PieceSource,
        overlay: Overlay,
        meter: Meter,
        hold: Hold,
        cancel: CancelToken,
        together: str = "",
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._namespace = namespace
        self._source = source
        self._overlay = overlay
        self._meter = meter
        self._hold = hold
        self._cancel = cancel
        self._results: dict[str, str] = {}
        self._followers: list[Follower] = []
        self._mending = threading.Lock()
        self._menders: list[threading.Thread] | None = []
        """Threads that run, or have run; None when the download ends and nothing is mended any more."""
        self._chores: queue.SimpleQueue[_Chore] = queue.SimpleQueue()
        self._items = itemize(namespace, manifest, shared.piece_bytes, together)
        self._presence = Presence(
            shared.store,
            namespace,
            manifest,
            source,
            workers=overlay.workers,
            below=secrets.randbelow,
            wait=self._wait,
            read=meter.compared,
            hold=hold,
            cancel=cancel,
        )
        self._plan = Plan([item.key for item in self._items])
        self._open = {item.key for item in self._items}

    def run(self) -> Mapping[str, str]:
        """The sha256 of every file by path. Raises SourceError, TransferError and StoreError."""
        with contextlib.ExitStack() as stack:
            # Run last in, first out: nothing may be closed while a thread of the hash pool reads it.
            stack.callback(self._release)
            stack.callback(self._rest)
            stack.callback(self._cancel.cancel)
            self._prepare([item for item in self._find(self._items) if self._claim(item)], stack)
            if self._open:
                self._plan.follow(self._walk())
                self._run_workers(stack)
        return self._results

    # Before the first byte

    def _find(self, items: Sequence[Item]) -> list[Item]:
        """Those that have to be fetched; the others are done."""
        found = self._presence.find(items)
        for item in items:
            if item.key in found:
                for path in item.paths:
                    self._meter.received(item.file.size, fetched=False)
                    self._meter.verified(item.file.size)
                    self._done(path, found[item.key])
                self._close(item)
        return [item for item in items if item.key not in found]

    def _claim(self, item: Item) -> bool:
        item.claimed = self._shared.flights.claim(item.flights, lambda: self._chores.put(_Reconsider(item)))
        return item.claimed

    def _partial(self, item: Item) -> PartialFile:
        if item.partial is None:
            path = self._store.paths.partial_file(item.key)
            item.partial = PartialFile(path, item.file.size, self._shared.piece_bytes, self._shared.boot)
        return item.partial

    def _prepare(self, items: list[Item], stack: contextlib.ExitStack) -> None:
        """Reserves room for all `items` and takes over what an earlier run left. Raises InsufficientStorage.

        Files of several pieces get their room at once; for the others the reservation has to do.
        """
        self._hold.add(partials=[item.key for item in items])
        partials = {item.key: self._partial(item) for item in items if item.pieces > 1}
        new = [item for item in items if item.key in partials and not partials[item.key].path.exists()]
        needs = sum(on_disk(item.file.size) for item in items)
        needs -= sum(partial.allocated_bytes() for partial in partials.values())
        reservation = stack.enter_context(self._shared.space.reserve(max(0, needs)))
        stack.enter_context(self._overlay.expecting([item.file for item in items], self._shared.piece_bytes))
        for item in items:
            if item.key in partials:
                before = partials[item.key].allocated_bytes()
                try:
                    self._take_over(item, partials[item.key])
                except StoreFull as error:
                    # Nothing of this download stays: there is no room for it. What was there before may be of use.
                    for created in new:
                        self._discard(created)
                    raise self._full(error, needs) from error
                reservation.used(partials[item.key].allocated_bytes() - before)
            self._begin(item)

    def _take_over(self, item: Item, partial: PartialFile) -> None:
        sha256 = item.file.sha256
        may_use = sha256 is not None and self._store.admissions.holds(self._namespace, sha256)
        remains = self._store.remains(sha256) if sha256 is not None and may_use else None
        with io_errors("reserve room for", partial.data):
            partial.prepare()
            if remains is not None or partial.finished_bytes():
                partial.open()
        if remains is not None:
            seed(partial, remains, lambda _: self._cancel.check())

    def _walk(self) -> Iterator[tuple[str, int]]:
        """The pieces in the order in which peers let us set out for them."""
        items = [item for item in self._items if item.claimed]
        pieces, keys = [], []
        for item in items:
            missing = item.partial.missing() if item.partial is not None else range(item.pieces)
            pieces += [(item.file, index) for index in missing]
            keys += [item.key] * len(missing)
        for position in self._overlay.walk(pieces):
            yield keys[position], pieces[position][1]

    def _begin(self, item: Item) -> None:
        """Puts an item that is prepared into the plan. From here on other threads work with it.

        Of one that has a single piece there is nothing before a thread sets out for it: there may be 200,000 of them.
        """
        if item.pieces == 1:
            self._plan.add(item.key, [0], 1)
            return
        item.synced_at = self._shared.clock.monotonic()
        partial = self._partial(item)
        missing = partial.missing()
        self._meter.received(partial.finished_bytes(), fetched=False)
        self._overlay.begin(item.file, partial)
        self._follow(item)
        self._wake(item)
        self._plan.add(item.key, missing, item.pieces)

    def _follow(self, item: Item) -> None:
        item.follower = Follower(
            self._partial(item),
            digest=FileDigest.of(item.file),
            cancel=self._cancel,
            verified=self._meter.verified,
            bad=lambda index: self._piece_was_bad(item, index),
            done=lambda digests: self._judge(item, digests),
            failed=self._chores.put,
        )
        self._followers.append(item.follower)

    def _wake(self, item: Item) -> None:
        if item.follower is not None:
            self._shared.hashes.wake(item.follower)

    # While it runs

    def _run_workers(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(self._cancel.on_cancel(lambda: self._chores.put(Cancelled("the download was cancelled"))))
        threads = [
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True)
            for number in range(min(self._overlay.workers, sum(item.pieces for item in self._items)))
        ]
        stack.callback(_join, threads)
        stack.callback(self._cancel.cancel)
        for thread in threads:
            thread.start()
        try:
            while self._open:
                self._do(self._next_chores(), stack)
        except StoreFull as error:
            left = [item for item in self._items if item.claimed]
            needs = sum(item.file.size - (item.partial.finished_bytes() if item.partial else 0) for item in left)
            self._cancel.cancel()
            _join(threads)
            self._rest()
            for item in left:
                self._discard(item)
            raise self._full(error, needs) from error

    def _next_chores(self) -> list[_Chore]:
        """Everything that there is to do now; blocks for the first. Raises what a thread failed with."""
        chores = [self._chores.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                chores.append(self._chores.get_nowait())
        for chore in chores:
            if isinstance(chore, BaseException):
                raise chore
        return chores

    def _do(self, chores: list[_Chore], stack: contextlib.ExitStack) -> None:
        commits = {chore.item.key: chore for chore in chores if isinstance(chore, _Commit)}
        flushes = {chore.item.key: chore.item for chore in chores if isinstance(chore, _Flush)}
        clock = self._shared.clock
        for key, item in flushes.items():
            partial = item.partial  # once: a hash thread may just be discarding it
            if key in commits or partial is None:
                continue  # committing syncs the file anyway
            if clock.monotonic() - item.synced_at >= self._shared.sync_seconds:
                with io_errors("sync", partial.data):
                    partial.flush()
                item.synced_at = clock.monotonic()
        self._commit(list(commits.values()))
        for chore in chores:
            if isinstance(chore, _Reconsider) and self._find([chore.item]) and self._claim(chore.item):
                self._prepare([chore.item], stack)

    def _commit(self, commits: list[_Commit]) -> None:
        self._hold.add(blobs=[commit.sha256 for commit in commits])
        blobs = []
        for commit in commits:
            partial = self._partial(commit.item)
            partial.close()
            blobs.append(
                NewBlob(
                    path=partial.data,
                    sha256=commit.sha256,
                    size=partial.size,
                    piece_bytes=partial.piece_bytes,
                    piece_digests=partial.piece_digests(),
                    aliases=self._presence.aliases(commit.item),
                )
            )
        if blobs:
            # First: after a crash in between, what is here must not have to be shown once more.
            self._store.admissions.admit(self._namespace, [commit.sha256 for commit in commits])
            self._store.commit_blobs(blobs)
        for commit in commits:
            self._discard(commit.item)
            for number, path in enumerate(commit.item.paths):
                if number:  # the same content at a second path: it came with the first
                    self._meter.received(commit.item.file.size, fetched=False)
                    self._meter.verified(commit.item.file.size)
                self._done(path, commit.item.file.sha256 or commit.sha256)  # equal, and here already
            self._close(commit.item)

    def _work(self) -> None:
        """A worker thread."""
        # sha256 of one file cannot be spread over cores: with fewer cores than threads, it has to come first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        items = {item.key: item for item in self._items}
        try:
            while (work := self._plan.next(self._cancel)) is not None:
                self._meter.working(+1)
                try:
                    self._fetch(items[work.key], work)
                finally:
                    self._meter.working(-1)
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001 -- raised by the thread that called run()
            self._chores.put(error)

    def _fetch(self, item: Item, work: Work) -> None:
        """Fetches the pieces of `work`, trying until it works. Raises what cannot be waited out."""
        partial = self._partial(item)
        with io_errors("open", partial.data):
            if item.pieces == 1:
                partial.prepare()
            partial.open()
        self._overlay.begin(item.file, partial)
        sink = PieceSink(
            partial,
            work.first,
            work.last,
            self._shared.buffers,
            received=self._meter.received,
            finished=lambda index: self._piece_is_here(item),
            digest=FileDigest.of(item.file) if item.pieces == 1 else None,
        )
        failures = 0
        while True:
            before = sink.position
            try:
                try:
                    self._source.read(item.file, sink, self._cancel)
                finally:
                    sink.release()
                break
            except RangesIgnored:
                self._plan.stream(item.key)
                self._plan.put_back(work)
                return
            except SourceError as error:
                if not error.retryable:
                    raise
                failures = 0 if sink.position > before else failures
                self._wait(error, failures)
                failures += 1
        self._plan.finished(work)
        if sink.digest is not None:
            self._meter.verified(partial.size)
            self._judge(item, sink.digest.result())

    def _wait(self, error: SourceError, failures: int) -> None:
        """Waits until the next try, and says so."""
        shared = self._shared
        seconds = backoff.delay(error.retry_after, failures, shared.backoff_base, shared.backoff_cap, shared.rng)
        me = threading.get_ident()
        self._meter.waits(me, Waiting(error.reason, error.message, shared.clock.unix() + seconds))
        try:
            shared.clock.wait(seconds, self._cancel)
        finally:
            self._meter.waits(me, None)

    def _piece_is_here(self, item: Item) -> None:
        self._overlay.arrived(item.file)
        if item.follower is not None:
            self._wake(item)
            self._chores.put(_Flush(item))

    def _piece_was_bad(self, item: Item, index: int) -> None:
        """The disk does not have what the journal says."""
        piece = self._partial(item).piece(index)
        self._meter.received(piece.start - piece.end)
        self._plan.add(item.key, [index], item.pieces)

    def _judge(self, item: Item, digests: Digests) -> None:
        """A file is complete: is it the right one?"""
        wrong = mismatch(item.file, digests)
        if wrong is None:
            self._chores.put(_Commit(item, digests.sha256))
            return
        # Finding out what is wrong may mean asking others: not in a thread that hashes or fetches.
        mender = threading.Thread(target=self._mend, args=(item, wrong), name="mend", daemon=True)
        with self._mending:
            if self._menders is not None:
                mender.start()
                self._menders.append(mender)

    def _mend(self, item: Item, wrong: IntegrityError) -> None:
        """Fetches again what may be the reason why a file is wrong: certain pieces, then everything, once."""
        try:
            partial = self._partial(item)
            suspects = self._overlay.suspects(item.file, self._cancel)
            if not suspects:
                self._source.forget(item.file)
                if item.fetched_again:
                    self._discard(item)
                    self._chores.put(wrong)
                    return
                # Which piece is bad cannot be told from the origin alone. Once more: it may have been on the way.
                item.fetched_again = True
                suspects = range(item.pieces)
            pieces = [partial.piece(index) for index in suspects]
            self._meter.received(-sum(piece.end - piece.start for piece in pieces))
            self._meter.verified(-item.file.size)
            with io_errors("write", partial.data):
                partial.take_back(suspects)
            if item.follower is not None:
                self._follow(item)
            self._plan.add(item.key, suspects, item.pieces)
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001 -- raised by the thread that called run()
            self._chores.put(error)

    # Afterwards

    def _done(self, path: str, sha256: str) -> None:
        self._results[path] = sha256
        self._meter.done()

    def _close(self, item: Item) -> None:
        self._open.discard(item.key)
        self._plan.close(item.key)
        self._let_go(item)

    def _rest(self) -> None:
        """Waits until no thread of the hash pool works for this download, and nobody mends."""
        with self._mending:
            menders, self._menders = self._menders, None
        _join(menders or ())
        for follower in self._followers:
            self._shared.hashes.rest(follower)

    def _release(self) -> None:
        """Closes files and lets other downloads have what was not finished."""
        for item in self._items:
            if item.partial is not None:
                item.partial.close()
            self._let_go(item)

    def _let_go(self, item: Item) -> None:
        if item.claimed:
            item.claimed = False
            self._overlay.end(item.file)
            self._source.forget(item.file)
            self._shared.flights.release(item.flights)

    def _discard(self, item: Item) -> None:
        partial = self._partial(item)
        item.partial = None
        with io_errors("remove", partial.path):
            partial.discard()

    def _full(self, error: StoreFull, needs: int) -> InsufficientStorage:
        return InsufficientStorage(str(error), needs=needs, free=self._shared.space.usable())


def _join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
