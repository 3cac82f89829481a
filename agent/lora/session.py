"""Talks to the engine of one pod: carries out what the plan says, and notes what came of it.

The thin shell around `agent.lora.plan`. One task for each pod, so that a pod that hangs keeps nobody else waiting, and requests
as tasks of their own below it, so that one adapter that hangs keeps at most its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import msgspec

from agent.lora.desired import Pod
from agent.lora.engine import Engine
from agent.lora.errors import EngineError
from agent.lora.http import Http
from agent.lora.knowledge import Knowledge, Target, Trouble
from agent.lora.lanes import Lanes
from agent.lora.plan import (
    Action,
    Confirm,
    Drop,
    GiveUp,
    Load,
    Look,
    Unload,
    View,
    next_actions,
)
from agent.lora.probe import find_engine
from agent.lora.record import Entry, Record
from agent.wakeup import Wakeup
from modelcache.kube.clock import Clock
from modelcache.kube.resources import ObjectKey

_log = logging.getLogger(__name__)

T = TypeVar("T")

RECHECK_SECONDS = 30.0
"""Age of a listing at which another one is asked for, as the user guide says; up to a tenth earlier, so that the pods of a
node are not asked in step."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the sessions of a node share.

    `out` is told that an entry of the record has been taken out of its pod, or (with the trouble) that it has been given
    up. `changed` is called whenever something that is reported may differ. `count` is told about each `load` and `unload` that
    was asked for, and whether it succeeded. `trace` is that of the last change of a model (see `modelcache.logs`).
    """

    node: str
    http: Http
    record: Record
    lanes: Lanes
    out: Callable[[Entry, Trouble | None], None]
    changed: Callable[[], None]
    count: Callable[[str, bool], None]
    trace: Callable[[ObjectKey], str]
    clock: Clock
    rng: Random


class Session:
    """One pod. Run `run()` in a task; the rest is called in the same event loop."""

    def __init__(self, pod: Pod, around: Surroundings) -> None:
        self.pod = pod
        self.targets: Mapping[str, Target] = {}
        self.held: frozenset[str] = frozenset()
        self._around = around
        self._engine: Engine | None = None
        self._changed = Wakeup(around.clock)
        self._recheck = RECHECK_SECONDS * around.rng.uniform(0.9, 1.0)
        self._requests: set[asyncio.Task[None]] = set()
        self._start = 0
        self.knowledge = self._recalled()

    @property
    def view(self) -> View:
        """What the next actions are decided on."""
        records = self._around.record.of_pod(self.pod.uid)
        return View(self.pod, self.knowledge, self.targets, self.held, records, self._recheck)

    def want(self, pod: Pod, targets: Mapping[str, Target], held: frozenset[str], retried: frozenset[str]) -> None:
        """Take over how the pod is, and which adapters belong into it. `retried`: wait no longer with these. Idempotent."""
        before, self.pod = self.pod, pod
        if _place(before) != _place(pod):
            # Another container: whatever was known was about one that has ended. Answers that are still to come as well.
            self._cancel_requests()
            self._engine, self.knowledge = None, self._recalled()
        elif pod.ready and not before.ready:
            self.knowledge.retry()
        changed = {name for name in {*targets, *self.targets} if targets.get(name) != self.targets.get(name)}
        for name in changed | retried:
            self.knowledge.troubles.pop(name, None)
        if changed or retried or held != self.held or before != pod:
            self.targets, self.held = targets, held
            self._changed.set()

    async def run(self) -> None:
        """Work until cancelled; nothing is under way afterwards."""
        clock = self._around.clock
        try:
            while True:
                self._changed.clear()
                plan = next_actions(self.view, clock.now())
                if any(isinstance(action, Load) for action in plan.actions):
                    self._intend(plan.intended)
                for action in plan.actions:
                    self._begin(action)
                if plan.actions:
                    self._around.changed()
                    continue
                await self._changed.wait(plan.wake - clock.now() if plan.wake is not None else None)
        finally:
            requests = self._cancel_requests()
            if requests:
                await asyncio.wait(requests)

    def _begin(self, action: Action) -> None:
        record = self._around.record
        if isinstance(action, Look):
            self.knowledge.asking = True
            self._spawn(self._look())
        elif isinstance(action, Load):
            self.knowledge.begin(action.target.lora_name, "load")
            self._spawn(self._load(action.target))
        elif isinstance(action, Unload):
            self.knowledge.begin(action.lora_name, "unload")
            self._spawn(self._unload(action.lora_name))
        elif isinstance(action, Confirm):
            record.put(self._entry(action.target, confirmed=True))
            self._say(f"{action.target.lora_name} is loaded from {action.target.identity.uri}", of=action.target)
        elif isinstance(action, Drop):
            self._drop(action)
        else:
            self._give_up(action)

    def _intend(self, targets: Iterable[Target]) -> None:
        """Record what is going to be loaded, before the engine is asked: see `agent.lora.record`."""
        entries = self._around.record.of_pod(self.pod.uid)
        for target in targets:
            entry = self._entry(target)
            if entries.get(target.lora_name) != entry:
                self._around.record.put(entry)

    async def _look(self) -> None:
        knowledge, clock = self.knowledge, self._around.clock
        asked_at = clock.now()
        try:
            if self._engine is None:
                self._engine = await self._asked(find_engine(self._around.http, self.pod))
                self._say(f"the engine is {self._engine.name}")
            present = await self._asked(self._engine.loaded())
        except EngineError as error:
            knowledge.asking = False
            if knowledge.trouble is None or knowledge.trouble.reason != error.reason:
                self._say(f"the engine does not tell its adapters: {error}", logging.WARNING)
            knowledge.not_listed(error, clock.now())
        else:
            knowledge.asking = False
            knowledge.engine = self._engine.name
            knowledge.listed(present, self.targets, asked_at, clock.now())

    async def _load(self, target: Target) -> None:
        around, knowledge, name = self._around, self.knowledge, target.lora_name
        engine = self._engine
        assert engine is not None
        await around.record.written()
        try:
            async with around.lanes.place():
                await self._asked(engine.load(name, target.identity.uri))
        except EngineError as error:
            self._say(f"loading {name} from {target.identity.uri} failed: {error}", logging.WARNING, of=target)
            knowledge.load_failed(target, error, around.clock.now())
            around.count("load", False)
        else:
            around.count("load", True)
            knowledge.loaded(target, around.clock.now())

    async def _unload(self, name: str) -> None:
        around, knowledge = self._around, self.knowledge
        engine = self._engine
        assert engine is not None
        entry = around.record.of_pod(self.pod.uid).get(name)
        self._say(f"takes {name} out", of=entry)
        try:
            async with around.lanes.place():
                await self._asked(engine.unload(name))
        except EngineError as error:
            self._say(f"taking {name} out failed: {error}", logging.WARNING, of=entry)
            knowledge.unload_failed(name, error, around.clock.now())
            around.count("unload", False)
        else:
            around.count("unload", True)
            knowledge.unloaded(name, around.clock.now())

    async def _asked(self, request: Awaitable[T]) -> T:
        """The result of a request. A fault in this program must not leave it under way for ever. Raises EngineError."""
        try:
            return await request
        except EngineError:
            raise
        except Exception as error:
            _log.exception("a request to an engine failed unexpectedly", extra=self._context())
            raise EngineError(f"{type(error).__name__} in the agent; see its log.", doubtful=True) from error

    def _drop(self, action: Drop) -> None:
        record, name = self._around.record, action.lora_name
        entry = record.of_pod(self.pod.uid)[name]
        record.drop(self.pod.uid, name)
        if action.gone:
            self._say(f"{name} was lost with an earlier container", of=entry)
            return
        self.knowledge.forget(name)
        self._say(f"{name} is out", of=entry)
        self._around.out(entry, None)

    def _give_up(self, action: GiveUp) -> None:
        entry = self._around.record.of_pod(self.pod.uid)[action.lora_name]
        self._around.record.put(_given_up(entry))
        text = f"nothing waits any longer for {entry.lora_name} to be out: {action.trouble.message}"
        self._say(text, logging.WARNING, of=entry)
        self._around.out(entry, action.trouble)

    def _entry(self, target: Target, confirmed: bool = False) -> Entry:
        return Entry(
            pod_uid=self.pod.uid,
            pod_name=self.pod.name,
            container_start=self.pod.container_start,
            lora_name=target.lora_name,
            namespace=target.model.namespace,
            name=target.model.name,
            model_uid=target.model_uid,
            manifest_digest=target.identity.manifest_digest,
            snapshot=target.snapshot,
            uri=target.identity.uri,
            confirmed=confirmed,
        )

    def _recalled(self) -> Knowledge:
        knowledge = Knowledge(self._around.rng)
        knowledge.recall(self._around.record.of_pod(self.pod.uid), self.pod.container_start)
        return knowledge

    def _spawn(self, request: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(request, name=f"request to {self.pod.namespace}/{self.pod.name}")
        self._requests.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        self._changed.set()
        self._around.changed()

    def _cancel_requests(self) -> list[asyncio.Task[None]]:
        requests = list(self._requests)
        for task in requests:
            task.cancel()
        return requests

    def _context(self) -> dict[str, str]:
        return {"node": self._around.node, "pod": f"{self.pod.namespace}/{self.pod.name}"}

    def _say(self, text: str, level: int = logging.INFO, *, of: Target | Entry | None = None) -> None:
        """One line; `of` is the adapter that it is about."""
        fields = self._context()
        if of is not None:
            fields |= {"model": str(of.model), "revision": of.snapshot[:12], "trace": self._around.trace(of.model)}
        _log.log(level, "pod %s/%s: %s", self.pod.namespace, self.pod.name, text, extra=fields)


def _place(pod: Pod) -> tuple[str, int, str, str]:
    """What an engine is known by: with another one of these it is another engine."""
    return pod.ip, pod.port, pod.container_start, pod.engine


def _given_up(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, given_up=True)
