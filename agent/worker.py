"""One model on this node: looks, decides, acts, and looks again, until nothing is left of the model.

The thin shell around `agent.plan`. A worker keeps what the plan decides on (a `View`), carries out one step at a time, and
while it does so goes on asking the plan: when another step has become the right one, the running one is cancelled, and its
threads have ended before the next begins. Failures stay inside: they become a problem in the report and a time for the next
try. Changing what is wanted, in whatever way, makes the next try immediate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from agent import plan
from agent.arrival import Arrival
from agent.content import (
    Held,
    Known,
    Outside,
    checked_manifest,
    completed_tree_digest,
    contradiction,
    doubted,
    hub_claim,
    load_held,
    mend,
    same_content,
    view_of,
)
from agent.desired import Wanted
from agent.failures import (
    MANIFEST_UNAVAILABLE,
    PERMANENT_RETRY,
    RETRY_BASE,
    RETRY_CAP,
    Refused,
    told,
)
from agent.kept import Kept
from agent.listing import tell_listing
from agent.plan import Condition, View
from agent.questions import Inquiry
from agent.retraction import Retraction
from agent.store import Problem
from agent.surroundings import Surroundings, Trouble
from agent.threads import in_thread
from agent.transfer.errors import Cancelled
from agent.wakeup import Wakeup
from modelcache.kube.backoff import Backoff
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import PHASE_READY

_log = logging.getLogger(__name__)

_WAITING = (
    plan.Keep, plan.AwaitDigests, plan.Announce, plan.Withdraw, plan.AwaitUnload, plan.AwaitUsers, plan.AwaitAnswer, plan.Done,
)  # fmt: skip
"""Steps that others take: the controller, the node's labels, engines that have the files loaded, pods that use them."""
_STOPPABLE = (plan.FetchManifest, plan.Download, plan.Mend)
"""Steps that may take long, and lose nothing when they are stopped. The others are short, and run to their end."""
_ASK_AGAIN_SECONDS = 10.0
"""Until a new manifest that could not be had beside a running download is asked for again."""


class ModelWorker:
    """Everything about one model. Run `run()` in a task; the rest is called in the same event loop."""

    def __init__(self, key: ObjectKey, around: Surroundings, held: tuple[Held, ...] = ()) -> None:
        """`held`: what is published of it already."""
        self.key = key
        self.held = held
        self.known: Known | None = None
        """The wanted manifest, once it is at hand. It may be about to be replaced: compare the digests."""
        self.arrival = Arrival(key.namespace, around, progressed=self._progressed, say=self._say)
        self.trouble: Trouble | None = None
        self.since: float | None = None
        """Unix seconds from which on the present content has been wanted; None: since before this process."""

        self._around = around
        self._heard = False
        self._wanted: Wanted | None = None
        self._contradiction = ""
        self._fetched = ""
        self._emptied = False
        self._listed = ""
        self._doubted: set[str] = set()
        """Snapshots about which something was said that nobody has looked into since."""
        self._inquiry = Inquiry(around.questions, key)
        self._announced = ""
        """Digest of the manifest for which it was counted how long it took to become ready."""
        self._changed = Wakeup(around.clock)
        self._retraction = Retraction(lambda: around.shown(key), around.clock)
        self._backoff = self._new_backoff()
        self._view = Kept(view_of)
        self._acted_on: View | None = None

    # What others see

    @property
    def view(self) -> View:
        """What the next step is decided on; the same object until something in it may differ."""
        around, key = self._around, self.key
        moves = around.moves(key)
        instructions = (self._heard, self._wanted, self._listed)
        progress = (self._fetched, self._contradiction, self._emptied)
        confirmed = self._inquiry.confirmed(moves)
        outside = Outside(around.shown(key), moves, around.loaded(key), around.users.state(key), confirmed)
        return self._view.of(instructions, self.known, progress, self.held, outside, around.users)

    @property
    def wanted_digest(self) -> str | None:
        """Of the manifest that the controller wants; None when it wants none, or does not know."""
        return self._wanted.manifest_digest if self._wanted is not None else None

    @property
    def current(self) -> Held | None:
        """The snapshot in force."""
        return next((held for held in self.held if held.snapshot.current), None)

    def pods_using(self, snapshots: Collection[str]) -> tuple[str, ...]:
        """The pods (`namespace/name`) that need one of these snapshots, sorted."""
        rows = (held.row for held in self.held if held.snapshot.name in snapshots)
        return tuple(sorted({pod for row in rows for pod in self._around.users.pods_of(row)}))

    @property
    def unanswered(self) -> str:
        """Why the controller cannot say who uses the files, as a clause; empty when there is nothing to tell."""
        return self._around.questions.problem

    @property
    def working(self) -> bool:
        """Whether a download runs or waits for its next try, as opposed to waiting for its turn."""
        return self.arrival.running or self.trouble is not None

    def want(self, *, heard: bool, wanted: Wanted | None) -> None:
        """Take over what the controller says about this model. Idempotent."""
        if self.trouble is not None and self.trouble.failure.reason == MANIFEST_UNAVAILABLE:
            # We have just heard from a controller: ask it.
            self.retry()
        if (heard, wanted) == (self._heard, self._wanted):
            return
        self._heard, self._wanted = heard, wanted
        # Whatever could not be done was something else: new instructions, a new attempt.
        self.trouble, self._backoff = None, self._new_backoff()
        if wanted is not None:
            self._emptied = False
            published = (held.known for held in self.held if held.snapshot.manifest_digest == wanted.manifest_digest)
            known = next(published, None)
            if known is not None:
                # At once, so that a replayed desired state never makes a model look less ready than it is.
                self._aim_at(known)
        self._changed.set()

    def poke(self) -> None:
        """Look again, if what the next step is decided on has changed outside this worker."""
        self._retraction.look()
        if self.view is not self._acted_on:
            self._changed.set()

    def retry(self) -> None:
        """Do not wait any longer until the next try."""
        self.trouble = None
        self._changed.set()

    async def evict(self, snapshot: str) -> None:
        """Remove a snapshot that nothing wants, unless it is in force again. Raises StoreError."""
        cache, (namespace, name) = self._around.cache, self.key
        await self._remove({snapshot}, lambda: cache.remove_snapshot(namespace, name, snapshot, spare_current=True))

    def doubt(self, snapshot: str, problems: Sequence[Problem]) -> None:
        """A published snapshot is not as it was: it is not announced any more until that was looked at and put right."""
        self._doubted.add(snapshot)
        held = next((held for held in self.held if held.snapshot.name == snapshot), None)
        if held is None or not held.snapshot.sound:
            return
        # What was fetched once may be what is bad now: the download has to look at every file again.
        self._fetched = ""
        self.held = doubted(self.held, self._doubted)
        self._around.findings.damaged(self.key, held.snapshot.revision, problems, self._around.clock.now())
        self._around.changed()
        self._changed.set()

    # Looking and acting

    async def run(self) -> None:
        """Work until nothing is left of the model. Never raises for anything that happens to it."""
        waits_for: plan.Step | None = None
        if not self.held:
            # What was left as cache when the model was here before.
            await self._reload({})
        while True:
            self._changed.clear()
            self._around.changed()
            self._acted_on = self.view
            step = plan.next_step(self._acted_on)
            if isinstance(step, plan.AwaitAnswer):
                self._inquiry.need(self._around.moves(self.key))
            else:
                self._inquiry.settle()
            if isinstance(step, plan.Forget):
                self._say("is no longer on this node")
                return
            if self._waits_for_next_try():
                assert self.trouble is not None
                await self._changed.wait(self.trouble.until - self._around.clock.now())
            elif isinstance(step, _WAITING):
                # What failed is not what is to be done any more.
                self.trouble = None
                if step != waits_for:
                    self._say(plan.named(step))
                    if isinstance(step, plan.Done | plan.AwaitAnswer):
                        self._count_ready()
                waits_for = step
                self._around.changed()
                await self._changed.wait()
            else:
                await self._supervise(step)

    def _waits_for_next_try(self) -> bool:
        if self.trouble is None:
            return False
        if self._around.clock.now() < self.trouble.until:
            return True
        if self.trouble.failure.permanent:
            # Whatever this process believes about the content may be what is wrong.
            self.arrival.digests, self._fetched, self._contradiction, self.trouble = {}, "", "", None
        return False

    async def _supervise(self, step: plan.Step) -> None:
        """Carries a step out, if it can be stopped only for as long as it is the right one."""
        task, asked = asyncio.create_task(self._act(step)), self._wanted
        successor: asyncio.Task[Known] | None = None
        try:
            while not task.done():
                await self._changed.wait_or(task, successor)
                right = plan.next_step(self.view)
                if task.done() or not isinstance(step, _STOPPABLE) or right == step:
                    continue
                if isinstance(step, plan.Download) and isinstance(right, plan.FetchManifest):
                    # The same files with more digests, most likely: the first node to finish has told them. The
                    # download goes on while that is found out, and is stopped only for other content.
                    if successor is None:
                        successor = asyncio.create_task(self._find(right.digest))
                    if not successor.done():
                        continue
                    found, successor = successor, None
                    if self._goes_on_for(found, right.digest):
                        step = plan.next_step(self.view) if found.exception() is None else step
                        continue
                self._say(f"stops: {plan.named(step)}")
                task.cancel()
                await asyncio.wait([task])
        finally:
            for left in filter(None, (task, successor)):
                left.cancel()
                await asyncio.wait([left])
                if not left.cancelled():
                    left.exception()  # a worker that is being stopped has nobody to tell; unread, asyncio would log it
        if not task.cancelled():
            self._judge(step, task.exception(), asked)

    def _goes_on_for(self, found: asyncio.Task[Known], digest: str) -> bool:
        """Whether the running download is right for the manifest that has been found, or for want of one."""
        error = found.exception()
        if error is not None:
            self._around.clock.call_later(_ASK_AGAIN_SECONDS, self._changed.set)
            self._say(f"downloads without the new manifest: {error}", logging.WARNING)
            return True
        known = found.result()
        if known.digest != digest or self.known is None or not same_content(self.known.manifest, known.manifest):
            return False
        self._aim_at(known)
        return True

    def _judge(self, step: plan.Step, error: BaseException | None, asked: Wanted | None) -> None:
        """What came of a step that was begun for `asked`."""
        if error is None:
            self.trouble = None
            return
        if not isinstance(error, Exception):
            raise error
        if isinstance(error, Cancelled):
            return
        if isinstance(step, plan.Publish | plan.Mend):
            # Most likely content went missing: let the download look at every file again.
            self._fetched = ""
        credential = asked.credential if asked is not None else None
        failure, trace = told(error, credential)
        if trace:
            self._say(f"{plan.named(step)} failed unexpectedly: {trace}", logging.ERROR)
        if self._wanted is not None and self._wanted.credential != credential:
            # A new one came while the old one was tried, and nothing is known about it yet.
            self._say(
                f"{plan.named(step)} failed, is tried with the new credential: {failure.message}", logging.WARNING
            )
            return
        now = self._around.clock.now()
        delay = PERMANENT_RETRY if failure.permanent else self._backoff.fail(now, failure.retry_after)
        self.trouble = Trouble(failure, now + delay)
        self._around.metrics.failed(failure.reason, permanent=failure.permanent)
        self._say(f"{plan.named(step)} failed, next try in {delay:.0f} s: {failure.message}", logging.WARNING)

    async def _act(self, step: plan.Step) -> None:
        cache, (namespace, name) = self._around.cache, self.key
        if isinstance(step, plan.Refuse):
            raise Refused(step.reason, step.message)
        self._say(plan.named(step))
        if isinstance(step, plan.FetchManifest):
            await self._learn(step.digest)
        elif isinstance(step, plan.ListSource):
            await tell_listing(self._wanted.listing if self._wanted else None, self.key, self._around.tell)
            self._listed = step.id
        elif isinstance(step, plan.Download):
            await self._download()
        elif isinstance(step, plan.Mend):
            await self._mend(step.snapshot)
        elif isinstance(step, plan.Publish):
            await self._publish()
        elif isinstance(step, plan.Switch):
            await in_thread(lambda: cache.set_current(namespace, name, step.snapshot))
            await self._reload({})
        elif isinstance(step, plan.RemoveSnapshot):
            await self._remove({step.snapshot}, lambda: cache.remove_snapshot(namespace, name, step.snapshot))
            self._around.litter()
        elif isinstance(step, plan.Release):
            await in_thread(lambda: cache.release(namespace, name))
            await self._reload({})
        elif isinstance(step, plan.RemoveModel):
            names = {held.snapshot.name for held in self.held}
            await self._remove(names, lambda: cache.remove_model(namespace, name))
            self.known = None
            self._new_content()
            await self._around.sweep()
            self._emptied = self._wanted is None

    async def _mend(self, name: str) -> None:
        force = self.current.snapshot if self.current is not None else None
        if force is not None and force.name == name and not await self._retraction.confirmed(force.revision):
            self._say("is mended although the label of this node may still be there", logging.WARNING)
        # What is said against it from now on has to be looked at again.
        self._doubted.discard(name)
        work, stop = mend(self._around.cache, self.key, name)
        began = self._around.clock.now()
        condition = await in_thread(work, stop)
        self._around.metrics.verified(self._around.clock.now() - began, "mend")
        self._around.metrics.repaired(success=condition is Condition.SOUND)
        if condition is Condition.DAMAGED:
            self._fetched = ""
        await self._reload({name: condition})
        held = next((held for held in self.held if held.snapshot.name == name), None)
        if held is not None and held.snapshot.sound:
            self.arrival.settle()
            self._around.findings.repaired(self.key, held.snapshot.revision, self._around.clock.now())

    async def _learn(self, digest: str) -> None:
        """Takes over the wanted manifest."""
        known = await self._find(digest)
        self._aim_at(known)
        found = known.manifest
        self._say(f"is wanted: {found.source}, {len(found.files)} files, {known.size} bytes, manifest {digest[:12]}")

    async def _find(self, digest: str) -> Known:
        """The manifest from the disk, or else from the controller."""
        cache = self._around.cache
        manifest = await in_thread(lambda: cache.manifest(digest))
        if manifest is None:
            data = await self._around.manifest(self.key, digest)
            manifest = received = await in_thread(lambda: checked_manifest(data, digest))
            await in_thread(lambda: cache.save_manifest(received))
        found = manifest
        return await in_thread(lambda: Known.of(found, digest))

    def _aim_at(self, known: Known) -> None:
        """This is the wanted manifest now."""
        former, self.known = self.known, known
        if former is not None and former.digest == known.digest:
            return
        # A manifest that was only completed needs no second download.
        fetched = former is not None and self._fetched == former.digest
        if former is None or not same_content(former.manifest, known.manifest):
            self._new_content()
            fetched = False
            to_come = self._is_to_come(known)
            self.since = self._around.unix() if to_come else None
            self._around.metrics.wanted(hit=not to_come)
            self._around.litter()
        self._contradiction = contradiction(known.manifest, self.arrival.digests)
        self._fetched = known.digest if fetched else ""
        self._around.changed()

    def _count_ready(self) -> None:
        """If the node holds what is wanted and says so: counted once for content that had to come."""
        digest = self.wanted_digest or ""
        ready = plan.phase_of(self.view, failed=False, working=False) == PHASE_READY
        if ready and self.since is not None and digest != self._announced:
            self._announced = digest
            self._around.metrics.became_ready(max(0.0, self._around.unix() - self.since))

    def _is_to_come(self, known: Known) -> bool:
        return all(held.snapshot.manifest_digest != known.digest for held in self.held)

    def _new_content(self) -> None:
        """What was fetched before says nothing about what is wanted now."""
        self.arrival.begin_anew()
        self._contradiction = ""

    async def _download(self) -> None:
        known, wanted, arrival = self.known, self._wanted, self.arrival
        assert known is not None
        assert wanted is not None
        digests = await arrival.download(known, wanted.credential)
        tree_digest = await in_thread(lambda: completed_tree_digest(known.manifest, digests))
        now = self.known
        if now is not None and same_content(now.manifest, known.manifest):
            arrival.digests, arrival.tree_digest, self._fetched = dict(digests), tree_digest, now.digest
            self._contradiction = contradiction(now.manifest, digests)

    def _progressed(self) -> None:
        # Whatever went wrong before, bytes come again.
        self.trouble = None

    async def _publish(self) -> None:
        cache, (namespace, name) = self._around.cache, self.key
        known, wanted = self.known, self._wanted
        assert known is not None
        assert wanted is not None
        claim = hub_claim(known.manifest, wanted.hub_ref)
        row = await in_thread(lambda: cache.publish(namespace, name, known.manifest, claim, wanted.policy))
        problems = await in_thread(lambda: cache.quick_check(*row.key))
        await self._reload({row.snapshot: Condition.DOUBTFUL if problems else Condition.SOUND})
        self.arrival.settle()
        self._around.litter()

    async def _remove(self, names: Collection[str], work: Callable[[], None]) -> None:
        """Removes snapshots. They are no longer there for anybody who asks, from before the first file goes."""
        self.held = tuple(held for held in self.held if held.snapshot.name not in names)
        self._around.changed()
        try:
            await in_thread(work)
        finally:
            # What could not be removed may have lost some of its files.
            await self._reload(dict.fromkeys(names, Condition.DOUBTFUL))

    async def _reload(self, conditions: Mapping[str, Condition]) -> None:
        """Takes the snapshots over from the cache; `conditions` says what was found out about some of them."""
        cache = self._around.cache
        known = {held.snapshot.name: held.snapshot.condition for held in self.held} | dict(conditions)
        self.held = doubted(await in_thread(lambda: load_held(cache, self.key, known)), self._doubted)
        self._around.changed()

    def _new_backoff(self) -> Backoff:
        return Backoff(self._around.rng, base=RETRY_BASE, cap=RETRY_CAP)

    def _say(self, text: str, level: int = logging.INFO) -> None:
        revision = self.known.manifest.revision[:12] if self.known is not None else ""
        context = {"model": str(self.key), "node": self._around.node, "revision": revision}
        if self._wanted is not None and self._wanted.trace:
            context["trace"] = self._wanted.trace
        _log.log(level, "%s", text, extra=context)
