"""All adapters in all pods of this node: who talks to whom about what, and what there is to report.

Takes over what the controller says and what the disk has, checks the files of each adapter once, and keeps a `Session` for
every pod that has, or should have, an adapter. A pod that is not listed any more is gone, and with it everything about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from agent.lora import report
from agent.lora.adapter import InvalidAdapter, mismatch, read_adapter
from agent.lora.arrangement import Arrangement, Files, arrange
from agent.lora.desired import Instructions, Pod
from agent.lora.http import Http
from agent.lora.knowledge import Trouble
from agent.lora.lanes import Lanes
from agent.lora.plan import View
from agent.lora.record import Entry, Record, Recorded
from agent.lora.report import Inspected, Outcome
from agent.lora.session import Session, Surroundings
from agent.threads import in_thread
from agent.wakeup import Wakeup
from modelcache.kube.clock import Clock, Timer
from modelcache.kube.resources import ObjectKey
from modelcache.pacing import pause_after
from modelcache.paths import CachePaths
from modelcache.rpc import modelcache_pb2 as pb

_log = logging.getLogger(__name__)

OUTCOME_SECONDS = 600.0
"""How long it is told how taking an adapter out of a pod ended (see the contract in modelcache.proto)."""
INSPECT_AGAIN_SECONDS = 5.0
"""After a disk error."""
GATHER_SECONDS = 0.05
"""Changes of models come in bursts; all of them together are one look at everything."""
REPORT_SECONDS = 0.2
"""Between two reports while adapters are being loaded: each tells all of them in all pods."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What adapters need to know about the models of this node.

    `files` are the current, sound files of a model, if they are those of the manifest (its digest) that is asked for.
    `leaving` are the snapshots of a model whose removal waits for nothing but the engines. `has`: anything of it is here.
    """

    files: Callable[[ObjectKey, str], Files | None]
    leaving: Callable[[ObjectKey], frozenset[str]]
    has: Callable[[ObjectKey], bool]


@lru_cache(maxsize=4096)
def files_in_force(paths: CachePaths, key: ObjectKey, digest: str, snapshot: str | None) -> Files | None:
    """The files of a snapshot that was made from the manifest `digest`; None for no snapshot. Asked again and again."""
    return Files(digest, snapshot, str(paths.snapshot(*key, snapshot))) if snapshot is not None else None


def with_adapters(message: pb.Report, adapters: Adapters) -> pb.Report:
    """The same report, and everything about adapters."""
    reports = adapters.reports()
    for model in message.models:
        about = reports.get(ObjectKey(model.model.namespace, model.model.name))
        if about is not None:
            model.adapter.CopyFrom(about)
    message.unloads.extend(adapters.unloads())
    return message


class Adapters:
    """Run `run()` in a task; the rest is called in the same event loop."""

    def __init__(
        self,
        node: str,
        record: Path,
        recorded: Recorded,
        *,
        disk: Disk,
        needed: Callable[[ObjectKey], None],
        changed: Callable[[], None],
        clock: Clock,
        unix: Callable[[], float],
        rng: Random,
        count: Callable[[str, bool], None] = lambda operation, success: None,
    ) -> None:
        """`record` is the file of the record, `recorded` what was in it. `needed`: the `snapshots` of a model differ.

        `changed`: there may be something to report. `count`: see `Surroundings`.
        """
        self._node = node
        self._disk = disk
        self._record = Record(record, recorded, needed)
        self._on_change = changed
        self._count = count
        self._reporting: Timer | None = None
        self._reports: Mapping[ObjectKey, pb.AdapterReport] | None = None
        """Kept until something changes: they are asked for whenever anything on the node does."""
        self._clock = clock
        self._unix = unix
        self._rng = rng
        self._lanes = Lanes(clock)
        self._dirty = Wakeup(clock)
        self._around: Surroundings | None = None
        self._instructions = Instructions()
        self._traces: dict[ObjectKey, str] = {}
        """Of the last change of each model that is, or still is, in a pod."""
        self._retried: frozenset[ObjectKey] = frozenset()
        self._arrangements: dict[str, Arrangement] = {}
        self._sessions: dict[str, Session] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._inspected: dict[ObjectKey, Inspected] = {}
        self._inspecting: dict[ObjectKey, asyncio.Task[None]] = {}
        self._outcomes: dict[tuple[str, str, str], Outcome] = {}

    def take(self, instructions: Instructions) -> None:
        """Take over what a desired state says. Idempotent."""
        before, self._instructions, self._reports = self._instructions, instructions, None
        self._retried |= {
            key
            for key, adapter in instructions.adapters.items()
            if key in before.adapters and before.adapters[key].attempt != adapter.attempt
        }
        self._traces.update((key, adapter.trace) for key, adapter in instructions.adapters.items())
        self._record.know(instructions.adapters, adapters=True)
        self._record.know(instructions.others, adapters=False)
        if self._around is not None:
            # At once, so that no report says of what is wanted now what was true of what was wanted before.
            self._arrange(self._around)
            self._reports = None
        self._dirty.set()

    def poke(self) -> None:
        """Something about the files of models has changed."""
        self._dirty.set()

    def snapshots(self, key: ObjectKey) -> frozenset[str]:
        """The snapshots of a model that an engine may still read."""
        return self._record.snapshots(key)

    def loaded(self) -> int:
        """How many adapters are known to be in the workers of this node, counted in each."""
        pods = map(self._record.of_pod, self._record.pods())
        return sum(entry.confirmed for entries in pods for entry in entries.values())

    def is_adapter(self, key: ObjectKey) -> bool:
        """Whether a model on this node is an adapter, or was one until it was deleted.

        A pod that mounts the models of its whole namespace does not use an adapter by that: engines read one from when they
        are told to load it until they have let go of it (`snapshots`), and no longer.
        """
        return self._record.is_adapter(key)

    def reports(self) -> Mapping[ObjectKey, pb.AdapterReport]:
        """About every adapter on this node, by its model; at most REPORT_SECONDS old. Do not change it."""
        if self._reports is None:
            offset = self._unix() - self._clock.now()
            views = {uid: session.view for uid, session in self._sessions.items()}
            entries: dict[ObjectKey, list[Entry]] = {}
            for uid in self._record.pods():
                for entry in self._record.of_pod(uid).values():
                    entries.setdefault(entry.model, []).append(entry)
            keys = {*self._instructions.adapters, *entries}
            made = ((key, self._report(key, views, entries.get(key, []), offset)) for key in keys)
            self._reports = {key: about for key, about in made if about is not None}
        return self._reports

    def _report(
        self, key: ObjectKey, views: Mapping[str, View], entries: list[Entry], offset: float
    ) -> pb.AdapterReport | None:
        adapter = self._instructions.adapters.get(key)
        wanted = adapter.pods if adapter is not None else frozenset()
        pods = {
            entry.pod_uid: report.leaving_pod(views.get(entry.pod_uid), entry, offset)
            for entry in entries
            if entry.pod_uid not in wanted
        }
        if adapter is None:
            return report.adapter_report(None, "", pods.values()) if pods else None
        for uid in wanted & views.keys() & self._arrangements.keys():
            other = self._arrangements[uid].conflicts.get(key)
            if other is not None:
                pods[uid] = report.conflict(uid, adapter.lora_name, other)
            else:
                pods[uid] = report.in_pod(views[uid], key, adapter.lora_name, offset)
        inspected = self._inspected.get(key)
        if inspected is not None and inspected.manifest_digest != adapter.manifest_digest:
            inspected = None
        known = inspected.config if inspected is not None else None
        return report.adapter_report(inspected, mismatch(known, adapter.base_model) if known else "", pods.values())

    def unloads(self) -> list[pb.AdapterUnload]:
        """How the latest attempts to take adapters out of pods ended."""
        now = self._unix()
        for key in [key for key, outcome in self._outcomes.items() if now - outcome.at > OUTCOME_SECONDS]:
            del self._outcomes[key]
        return [report.unload_report(outcome, now - self._clock.now()) for outcome in self._outcomes.values()]

    async def run(self) -> None:
        """Work until cancelled; returns when nothing is under way any more."""
        async with Http() as http:
            around = self._around = Surroundings(
                node=self._node,
                http=http,
                record=self._record,
                lanes=self._lanes,
                out=self._note_outcome,
                count=self._count,
                trace=lambda key: self._traces.get(key, ""),
                changed=self._note_change,
                clock=self._clock,
                rng=self._rng,
            )
            try:
                while True:
                    began = self._clock.now()
                    self._dirty.clear()
                    self._inspect()
                    self._arrange(around)
                    gone = [key for key in self._record.models if not self._is_here(key)]
                    self._record.know(gone, adapters=False)
                    for key in gone:
                        self._traces.pop(key, None)
                    self._note_change()
                    pause = pause_after(self._clock.now() - began, least=GATHER_SECONDS)
                    await self._dirty.wait()
                    await self._clock.sleep(pause)
            finally:
                self._around = None
                if self._reporting is not None:
                    self._reporting.cancel()
                tasks = [*self._tasks.values(), *self._inspecting.values(), *self._ending]
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)
                await self._record.written()

    def _note_change(self) -> None:
        """There is something to report, soon."""

        def tell() -> None:
            self._reporting = self._reports = None
            self._on_change()

        if self._reporting is None:
            self._reporting = self._clock.call_later(REPORT_SECONDS, tell)

    def _is_here(self, key: ObjectKey) -> bool:
        return key in self._instructions.adapters or self._disk.has(key)

    # Pods

    def _arrange(self, around: Surroundings) -> None:
        """Tell each session what belongs into its pod; start those that are missing, end those whose pod is gone."""
        pods = self._instructions.pods
        if pods is None:
            # Nobody knows which pods there are: everything stays as it is.
            return
        for uid in {*self._sessions, *self._record.pods()} - pods.keys():
            self._end(uid)
        wanted = {uid for adapter in self._instructions.adapters.values() for uid in adapter.pods}
        wanted.update(self._record.pods())
        for uid in self._sessions.keys() - wanted:
            self._end(uid)
        files = {key: self._ready_files(key) for key in self._instructions.adapters}
        for uid in wanted & pods.keys():
            self._arrange_pod(pods[uid], files, around)
        self._retried = frozenset()

    def _arrange_pod(self, pod: Pod, files: Mapping[ObjectKey, Files | None], around: Surroundings) -> None:
        entries = self._record.of_pod(pod.uid)
        arrangement = arrange(pod, self._instructions, entries, files.get, self._disk.leaving)
        self._arrangements[pod.uid] = arrangement
        session = self._sessions.get(pod.uid)
        if session is None:
            session = self._sessions[pod.uid] = Session(pod, around)
            self._tasks[pod.uid] = asyncio.create_task(session.run(), name=f"adapters of {pod.namespace}/{pod.name}")
        retried = frozenset(name for name, target in arrangement.targets.items() if target.model in self._retried)
        session.want(pod, arrangement.targets, arrangement.held, retried)

    def _end(self, uid: str) -> None:
        """A pod is gone."""
        self._sessions.pop(uid, None)
        self._arrangements.pop(uid, None)
        task = self._tasks.pop(uid, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for name in list(self._record.of_pod(uid)):
            self._record.drop(uid, name)

    def _note_outcome(self, entry: Entry, trouble: Trouble | None) -> None:
        self._outcomes[entry.pod_uid, entry.model_uid, entry.lora_name] = Outcome(self._unix(), entry, trouble)

    # Files

    def _ready_files(self, key: ObjectKey) -> Files | None:
        """The files that may be loaded: the wanted ones, published, and found to be an adapter."""
        adapter = self._instructions.adapters[key]
        files = self._disk.files(key, adapter.manifest_digest or "")
        inspected = self._inspected.get(key)
        good = files is not None and inspected is not None and inspected.manifest_digest == files.manifest_digest
        return files if good and inspected is not None and not inspected.problem else None

    def _inspect(self) -> None:
        """Look into the files of adapters that have become ready, and forget what was about others."""
        adapters = self._instructions.adapters
        for key in self._inspected.keys() - adapters.keys():
            del self._inspected[key]
        for key, adapter in adapters.items():
            files = self._disk.files(key, adapter.manifest_digest or "")
            seen = self._inspected.get(key)
            if files is None or key in self._inspecting or (seen and seen.manifest_digest == files.manifest_digest):
                continue
            task = asyncio.create_task(self._inspect_one(key, files), name=f"inspects {key}")
            self._inspecting[key] = task

    async def _inspect_one(self, key: ObjectKey, files: Files) -> None:
        try:
            config = await in_thread(lambda: read_adapter(Path(files.path)))
            self._inspected[key] = Inspected(files.manifest_digest, config)
        except InvalidAdapter as error:
            _log.warning("the files are no adapter: %s", error, extra=self._fields(key))
            self._inspected[key] = Inspected(files.manifest_digest, None, str(error))
        except OSError as error:
            # Whatever it is, the model's own checks find it as well.
            _log.warning("the files cannot be read: %s", error, extra=self._fields(key))
            await self._clock.sleep(INSPECT_AGAIN_SECONDS)
        finally:
            self._inspecting.pop(key, None)
            self._dirty.set()

    def _fields(self, key: ObjectKey) -> dict[str, str]:
        return {"model": str(key), "node": self._node, "trace": self._traces.get(key, "")}
