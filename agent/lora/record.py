"""What this agent has loaded into which pod, kept on disk: an engine tells names, but not which version is behind one.

Without it, an agent that was restarted could not tell its own adapter from an older one or from somebody else's, and would
have to take everything out and load it again. It also is what keeps the files of an adapter on the disk while an engine may
read them, and what is left to do when a model is deleted while its agent is away.

An entry is written *before* the engine is asked (`confirmed` False) and confirmed when the engine has listed the adapter. So
after a crash anywhere in between there is an entry that says "perhaps", and never an adapter that nobody remembers. The file
is one JSON document, replaced as a whole. It is not synced to the medium: it has to survive the death of the agent; a node
that loses power loses the pods with it, and with their container starts every entry.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from agent.threads import in_thread
from modelcache.kube.errors import printable
from modelcache.kube.resources import ObjectKey

_log = logging.getLogger(__name__)

_VERSION = 1
MAX_BYTES = 256 * 1024 * 1024
"""Far above 110 pods with 1,000 adapters each."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One adapter in one pod, as the engine was told.

    `container_start` is that of the pod at that time. `confirmed`: the engine has listed it since. `given_up`: it could not be
    taken out again; files need not wait for it any more, while trying goes on.
    """

    pod_uid: str
    pod_name: str
    container_start: str
    lora_name: str
    namespace: str
    name: str
    model_uid: str
    manifest_digest: str
    snapshot: str
    uri: str
    confirmed: bool = False
    given_up: bool = False

    @property
    def model(self) -> ObjectKey:
        """The DynamoModel that it belongs to."""
        return ObjectKey(self.namespace, self.name)


class Recorded(msgspec.Struct, kw_only=True):
    """The content of the file. `models`: namespace and name of every model on this node that is known to be an adapter."""

    version: int = _VERSION
    entries: list[Entry] = []
    models: list[tuple[str, str]] = []


class Record:
    """All entries, by pod and name. In one event loop; only the file is written in threads, soon after every change."""

    def __init__(self, path: Path, recorded: Recorded, needed: Callable[[ObjectKey], None]) -> None:
        """`needed` is called when the `snapshots` of a model differ."""
        self._models = {ObjectKey(*model) for model in recorded.models}
        self._path = path
        self._on_change = needed
        self._entries: dict[str, dict[str, Entry]] = {}
        self._needs: dict[ObjectKey, Counter[str]] = {}
        for entry in recorded.entries:
            self._entries.setdefault(entry.pod_uid, {})[entry.lora_name] = entry
            self._count(entry, 1)
        self._encoder = msgspec.json.Encoder()
        self._writing: asyncio.Task[None] | None = None
        self._dirty = False
        self._broken = False

    @staticmethod
    def load(path: Path) -> Recorded:
        """What an earlier life has left. Blocks for the disk.

        A file that cannot be read is an empty one: then adapters are loaded again that need not be.
        """
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_BYTES), type=Recorded)
        except FileNotFoundError:
            return Recorded()
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            _log.warning("%s cannot be read, and adapters will be loaded again: %s", path, error)
            return Recorded()

    def of_pod(self, uid: str) -> Mapping[str, Entry]:
        """The entries of a pod, by the name of the adapter. Do not change it."""
        return self._entries.get(uid, {})

    def pods(self) -> list[str]:
        """Every pod that has entries, by uid."""
        return list(self._entries)

    def snapshots(self, model: ObjectKey) -> frozenset[str]:
        """The snapshots of a model that an engine may still read."""
        return frozenset(self._needs.get(model, ()))

    def put(self, entry: Entry) -> None:
        """Remember an entry, in place of another one for the same pod and name."""
        before = self._entries.setdefault(entry.pod_uid, {}).get(entry.lora_name)
        if entry == before:
            return
        self._entries[entry.pod_uid][entry.lora_name] = entry
        self._changed(before, entry)

    def drop(self, pod_uid: str, lora_name: str) -> None:
        """Forget an entry."""
        before = self._entries.get(pod_uid, {}).pop(lora_name, None)
        if before is not None:
            if not self._entries[pod_uid]:
                del self._entries[pod_uid]
            self._changed(before, None)

    @property
    def models(self) -> frozenset[ObjectKey]:
        """The models on this node that are known to be adapters."""
        return frozenset(self._models)

    def is_adapter(self, model: ObjectKey) -> bool:
        """Whether a model is one of `models`."""
        return model in self._models

    def know(self, models: Iterable[ObjectKey], *, adapters: bool) -> None:
        """These models are adapters, or are not."""
        changed = [model for model in models if (model in self._models) is not adapters]
        if changed:
            self._models = self._models.union(changed) if adapters else self._models.difference(changed)
            self._write_soon()

    async def written(self) -> None:
        """Returns when everything up to now is in the file, or could not be written, which is logged."""
        if self._dirty:
            self._write_soon()
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def _changed(self, before: Entry | None, after: Entry | None) -> None:
        self._write_soon()
        models = {entry.model: self.snapshots(entry.model) for entry in (before, after) if entry is not None}
        if after is not None:
            self._count(after, 1)
        if before is not None:
            self._count(before, -1)
        for model, needed in models.items():
            if self.snapshots(model) != needed:
                self._on_change(model)

    def _count(self, entry: Entry, by: int) -> None:
        if entry.given_up:
            return
        needs = self._needs.setdefault(entry.model, Counter())
        needs[entry.snapshot] += by
        if not needs[entry.snapshot]:
            del needs[entry.snapshot]
        if not needs:
            del self._needs[entry.model]

    def _write_soon(self) -> None:
        self._dirty = True
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="record of adapters")

    async def _write_all(self) -> None:
        """Many changes are one file: whatever comes while one is written is in the next."""
        try:
            while self._dirty:
                self._dirty = False
                await self._write()
        finally:
            self._writing = None

    async def _write(self) -> None:
        entries = [entry for pod in self._entries.values() for entry in pod.values()]
        data = self._encoder.encode(Recorded(entries=entries, models=sorted(self._models)))
        try:
            await in_thread(lambda: _replace(self._path, data))
            self._broken = False
        except OSError as error:
            if not self._broken:
                _log.warning("%s cannot be written, so that after a restart of the agent adapters will be loaded again: %s",
                             self._path, printable(str(error), 200))  # fmt: skip
            self._broken = True


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    beside.replace(path)
