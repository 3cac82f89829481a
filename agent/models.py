"""All models of this node: one supervised worker each, and what they have in common.

Takes over desired states, tells the node's labels which revisions to announce, answers what there is to report, and deletes
content that nobody needs any more. Each worker is a task of its own, and nothing that happens in one ends another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random

from prometheus_client import CollectorRegistry

from agent import plan
from agent.content import Held, needed_by, own_order
from agent.desired import Desired, Peers
from agent.findings import Findings
from agent.metrics import AgentMetrics
from agent.peers.access import Grant
from agent.peers.keys import sizes_in
from agent.ports import Cache, Fetcher
from agent.questions import Questions
from agent.report import ModelFacts, model_report, phase
from agent.room import ENDLESS, Refused, Room
from agent.slots import Slots
from agent.store import Keep, Problem, PublishedSnapshot, StoreError
from agent.store.eviction import Key
from agent.surroundings import Surroundings
from agent.threads import in_thread
from agent.users import Users, why_kept
from agent.wakeup import Wakeup
from agent.worker import ModelWorker
from modelcache.kube.clock import Clock
from modelcache.kube.resources import ObjectKey
from modelcache.pacing import pause_after
from modelcache.rpc.modelcache_pb2 import ModelReport, Phase

_log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Until a worker that ended by a fault in this program is started again, and until deleting is tried again."""


def revisions_at_start(held: Mapping[ObjectKey, tuple[Held, ...]]) -> dict[ObjectKey, str]:
    """What the node announces before anybody has said anything: every sound snapshot that is in force."""
    views = {key: plan.View(heard=False, snapshots=tuple(h.snapshot for h in each)) for key, each in held.items()}
    return {key: revision for key, view in views.items() if (revision := plan.announced(view)) is not None}


class Models:
    """Run `run()` in a task; the rest is called in the same event loop."""

    def __init__(
        self,
        node: str,
        held: Mapping[ObjectKey, tuple[Held, ...]],
        *,
        cache: Cache,
        fetcher: Fetcher,
        slots: Slots,
        manifest: Callable[[ObjectKey, str], Awaitable[bytes]],
        tell: Callable[[ObjectKey, str, bytes], Awaitable[None]],
        shown: Callable[[ObjectKey], str | None],
        announce: Callable[[Mapping[ObjectKey, str]], None],
        changed: Callable[[], None],
        grant: Callable[[Mapping[ObjectKey, Grant]], None] = lambda grants: None,
        loaded: Callable[[ObjectKey], frozenset[str]] = lambda key: frozenset(),
        moves: Callable[[ObjectKey], int] = lambda key: 0,
        clock: Clock,
        unix: Callable[[], float],
        rng: Random,
        users: Users | None = None,
        questions: Questions | None = None,
        room: Room | None = None,
        metrics: AgentMetrics | None = None,
    ) -> None:
        """`held`: what is published at start. `announce`, `shown` and `moves` are the node's labels. `changed`: look at
        `reports`.

        `loaded` tells the snapshots of a model that an engine may have loaded; `poke` when it tells something else.

        `grant` is told which peers may read what. `users` are those that a former process knew.
        """
        self._cache = cache
        self._announce = announce
        self._on_change = changed
        self._grant = grant
        self._clock = clock
        self._unix = unix
        self._heard = False
        self._users = users or Users(clock)
        self._questions = questions or Questions(clock)
        self.room = room or Room(ENDLESS, clock)
        self.room.attach(kept=self._why_kept, drop=self._drop, refused=self._refused)
        self._dirty = Wakeup(clock)
        self._counted: set[str] = set()
        self._cached_bytes = 0
        self._litter = False
        self._sweeping = asyncio.Lock()
        self._abandoned = False
        self.findings = Findings()
        self._around = Surroundings(
            node=node,
            cache=cache,
            fetcher=fetcher,
            slots=slots,
            manifest=manifest,
            tell=tell,
            shown=shown,
            moves=moves,
            loaded=loaded,
            sweep=self.sweep,
            litter=self._note_litter,
            swept=self._swept,
            changed=self._dirty.set,
            findings=self.findings,
            clock=clock,
            unix=unix,
            rng=rng,
            users=self._users,
            questions=self._questions,
            room=self.room,
            metrics=metrics or AgentMetrics(CollectorRegistry()),
        )
        self._facts: dict[ObjectKey, ModelFacts] = {}
        self._workers: dict[ObjectKey, ModelWorker] = {}
        self._tasks: dict[ObjectKey, asyncio.Task[None]] = {}
        for key, snapshots in held.items():
            self._add(key, snapshots)

    def take(self, desired: Desired) -> None:
        """Take a desired state over; what `reports` tells from now on follows from it. Idempotent."""
        added = [key for key in desired.models if key not in self._workers]
        for key in added:
            self._add(key)
        removed = [key for key in self._workers if key not in desired.models]
        if added or removed:
            _log.info(
                "%d models are wanted here, %d of them new; %d are to be removed",
                len(desired.models),
                len(added),
                len(removed),
                extra={"node": self._around.node},
            )
        users_changed = self._users.take(desired.users)
        users_changed |= self._questions.take(desired.answer)
        for key, worker in self._workers.items():
            if users_changed:
                worker.poke()
            worker.want(heard=True, wanted=desired.models.get(key))
            worker.arrival.meet(desired.peers.get(key, Peers()))
        if not self._heard:
            # What a former life of this process has left of models that were removed meanwhile.
            self._heard = self._litter = True
        self._dirty.set()

    def doubt(self, doubts: Mapping[tuple[str, str, str], Sequence[Problem]]) -> None:
        """Published snapshots (namespace, name, snapshot) are not as they were. Tell the workers, who put that right."""
        for (namespace, name, snapshot), problems in doubts.items():
            for problem in problems:
                self._around.metrics.found(problem.kind)
            if not problems:
                self._around.metrics.found("content")
            worker = self._workers.get(ObjectKey(namespace, name))
            if worker is not None:
                worker.doubt(snapshot, problems)

    def rebuilt(self) -> None:
        """The index of the cache had to be built anew at start: tell so about everything that is published."""
        for key, worker in self._workers.items():
            if worker.current is not None:
                self.findings.rebuilt(key, worker.current.snapshot.revision, self._clock.now())

    def abandon(self) -> None:
        """The cache is lost: nothing is announced any more, whatever the workers believe."""
        self._abandoned = True
        self._dirty.set()
        self._announce({})

    def poke(self, key: ObjectKey | None = None) -> None:
        """Something outside has changed, the node's labels or (with `key`) about one model: see whether that matters."""
        for worker in self._workers.values() if key is None else filter(None, [self._workers.get(key)]):
            worker.poke()
        self._dirty.set()

    def in_force(self, key: ObjectKey, digest: str) -> str | None:
        """The snapshot of a model that is in force, sound, and made from this manifest; None when there is none."""
        worker = self._workers.get(key)
        snapshot = worker.current.snapshot if worker is not None and worker.current is not None else None
        fits = snapshot is not None and snapshot.sound and snapshot.manifest_digest == digest
        return snapshot.name if fits and snapshot is not None else None

    def has(self, key: ObjectKey) -> bool:
        """Whether anything of a model is here, or on its way."""
        return key in self._workers

    def to_be_unloaded(self, key: ObjectKey) -> frozenset[str]:
        """The snapshots of a model whose removal waits for nothing but the engines that have them loaded."""
        worker = self._workers.get(key)
        step = plan.next_step(worker.view) if worker is not None else None
        return step.snapshots if isinstance(step, plan.AwaitUnload) else frozenset()

    def reports(self, label_problem: str, label_next_try: float | None) -> list[ModelReport]:
        """Everything there is to say about the models. The problem is that of the node's labels, empty for none."""
        now, unix = self._clock.now(), self._unix()
        return [
            model_report(
                worker,
                self._facts[key],
                now=now,
                unix=unix,
                findings=self.findings.recent(key, now),
                label_problem=label_problem,
                label_next_try=label_next_try,
            )
            for key, worker in sorted(self._workers.items())
        ]

    def cached_bytes(self) -> int:
        """Bytes of everything published; content that several models share counts once."""
        manifests = {
            held.known.digest: held.known.manifest
            for worker in self._workers.values()
            for held in worker.held
            if held.known is not None
        }
        if manifests.keys() != self._counted:
            # Reports ask every second, and there may be 100,000 files.
            sizes = {file.sha256: file.size for manifest in manifests.values() for file in manifest.files}
            self._counted, self._cached_bytes = set(manifests), sum(sizes.values())
        return self._cached_bytes

    def phases(self) -> Counter[str]:
        """How many models are in which phase, by the words of `agent.metrics.PHASES`."""
        return Counter(Phase.Name(phase(worker)).removeprefix("PHASE_").lower() for worker in self._workers.values())

    def in_use(self) -> int:
        """How many published revisions a pod uses."""
        return sum(len(worker.view.in_use) for worker in self._workers.values())

    def conditions(self) -> Counter[str]:
        """How many published revisions are in which condition, by the words of `agent.metrics.CONDITIONS`."""
        return Counter(held.snapshot.condition.value for worker in self._workers.values() for held in worker.held)

    async def run(self) -> None:
        """Work until cancelled; returns when every worker and its threads have ended."""
        tidying: asyncio.Task[None] | None = None
        try:
            while True:
                began = self._clock.now()
                self._dirty.clear()
                for key, worker in self._workers.items():
                    if key not in self._tasks:
                        self._start(key, worker)
                self._announce(self._revisions())
                self._grant(self._grants())
                self._on_change()
                took = self._clock.now() - began
                if self._litter and self._all_known() and (tidying is None or tidying.done()):
                    tidying = asyncio.create_task(self._tidy())
                    tidying.add_done_callback(lambda _: self._dirty.set())
                await self._dirty.wait()
                pause = pause_after(took)
                if pause > 0:
                    await self._clock.sleep(pause)
        finally:
            tasks = [*self._tasks.values(), *([tidying] if tidying is not None else [])]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def manage_alone(self) -> None:
        """There is no controller: unless one has spoken, what is damaged is mended without one. See `own_order`."""
        if self._heard:
            return
        for key, worker in self._workers.items():
            order = own_order(worker.held)
            if order is not None:
                _log.debug("is kept whole without a controller", extra={"model": str(key)})
                worker.want(heard=False, wanted=order)

    async def sweep(self) -> None:
        """Delete content that no model needs. Raises StoreError.

        Put off while the manifest of a wanted model is not known: what it needs cannot be told from what nobody needs.
        """
        async with self._sweeping:
            self._litter = not self._all_known()
            if self._litter:
                return
            keep = self._needed()
            await in_thread(lambda: self._cache.collect_garbage(keep))

    async def _swept(self) -> None:
        """Returns when no deletion is under way that began without knowing what its caller needs."""
        async with self._sweeping:
            pass

    async def _tidy(self) -> None:
        try:
            await self.sweep()
        except StoreError as error:
            _log.warning("unused content could not be deleted: %s", error, extra={"node": self._around.node})
            self._litter = True
            await self._clock.sleep(RETRY_SECONDS)

    def _why_kept(self, row: PublishedSnapshot) -> str:
        key = ObjectKey(row.namespace, row.name)
        worker = self._workers.get(key)
        view = worker.view if worker is not None else None
        return why_kept(row, view, heard=self._heard, users=self._users, loaded=self._around.loaded(key))

    async def _drop(self, keys: Iterable[Key]) -> None:
        """Remove snapshots that nothing wants, and the content that only they need. Raises StoreError."""
        for namespace, name, snapshot in keys:
            worker = self._workers.get(ObjectKey(namespace, name))
            if worker is not None:
                await worker.evict(snapshot)
            else:
                work = partial(self._cache.remove_snapshot, namespace, name, snapshot, spare_current=True)
                await in_thread(work)
        await self.sweep()

    def _refused(self) -> list[Refused]:
        return [
            Refused(worker.trouble.failure.needs, worker.retry)
            for worker in self._workers.values()
            if worker.trouble is not None and worker.trouble.failure.needs is not None
        ]

    def _note_litter(self) -> None:
        self._litter = True
        self._dirty.set()

    def _revisions(self) -> dict[ObjectKey, str]:
        if self._abandoned:
            return {}
        announced = {key: plan.announced(worker.view) for key, worker in self._workers.items()}
        return {key: revision for key, revision in announced.items() if revision is not None}

    def _grants(self) -> dict[ObjectKey, Grant]:
        """The peers of a model may read its content here: that which is wanted, or else that which is in force."""
        grants = {}
        for key, worker in self._workers.items():
            known = worker.known or (worker.current.known if worker.current is not None else None)
            if known is not None and worker.arrival.peers:
                facts = self._facts[key]
                if facts.offered is None or facts.offered[0] != known.digest:
                    facts.offered = (known.digest, sizes_in(known.manifest))
                grants[key] = Grant({peer.node: peer.address for peer in worker.arrival.peers}, facts.offered[1])
        return grants

    def _all_known(self) -> bool:
        return self._heard and all(
            worker.wanted_digest is None or (worker.known is not None and worker.known.digest == worker.wanted_digest)
            for worker in self._workers.values()
        )

    def needed(self) -> Keep | None:
        """What has to stay although nothing published refers to it; None while that is not known."""
        return self._needed() if self._all_known() else None

    def _needed(self) -> Keep:
        needs = [
            needed_by(key.namespace, worker.known, worker.arrival.digests)
            for key, worker in self._workers.items()
            if worker.known is not None
        ]
        return Keep(
            blobs=frozenset().union(*(need.blobs for need in needs)),
            partials=frozenset().union(*(need.partials for need in needs)),
            manifests=frozenset().union(*(need.manifests for need in needs)),
        )

    def _add(self, key: ObjectKey, held: tuple[Held, ...] = ()) -> None:
        self._workers[key] = ModelWorker(key, self._around, held)
        self._facts[key] = ModelFacts()

    def _start(self, key: ObjectKey, worker: ModelWorker) -> None:
        self._tasks[key] = asyncio.create_task(self._supervise(key, worker), name=f"model {key}")

    async def _supervise(self, key: ObjectKey, worker: ModelWorker) -> None:
        while True:
            try:
                await worker.run()
            except Exception:  # noqa: BLE001  # a fault here must not end the agent, nor other models
                _log.exception("the worker failed", extra={"model": str(key), "node": self._around.node})
                await self._clock.sleep(RETRY_SECONDS)
            else:
                # Nothing of the model is left. All in one go, so that nobody wants it back in between.
                del self._workers[key], self._facts[key], self._tasks[key]
                self.findings.forget(key)
                self._note_litter()
                return
