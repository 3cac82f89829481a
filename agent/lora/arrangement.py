"""Which adapters belong into which pod of this node, and which are to be left as they are. Pure.

A model is *held* in a pod while it is not known, or not ready on the disk, what it should be there: what the pod has stays
loaded, so that an update does not leave a hole for as long as the download takes. It does not count as the new version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.lora.desired import Instructions, Pod, WantedAdapter
from agent.lora.engine import FILE
from agent.lora.knowledge import Identity, Target
from agent.lora.mounts import path_in_pod
from agent.lora.record import Entry
from modelcache.kube.resources import ObjectKey


@dataclass(frozen=True, slots=True)
class Files:
    """The files of an adapter, published and checked. `path` is absolute, the same on the host and for the agent."""

    manifest_digest: str
    snapshot: str
    path: str


@dataclass(slots=True)
class Arrangement:
    """For one pod: what belongs into it by name, which names stay as they are, and models whose name another one has."""

    targets: dict[str, Target] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    conflicts: dict[ObjectKey, ObjectKey] = field(default_factory=dict)
    """Model -> the one that has its name."""


def arrange(
    pod: Pod,
    instructions: Instructions,
    entries: Mapping[str, Entry],
    files: Callable[[ObjectKey], Files | None],
    leaving: Callable[[ObjectKey], frozenset[str]],
) -> Arrangement:
    """The arrangement for one pod. `entries`: what is recorded about it, by name.

    `files` tells what is ready to be loaded of a model, None for nothing yet; `leaving` the snapshots of a model that cannot
    wait for that. Of two models with one name the one that is in the pod already stays, else the first by name.
    """
    result = Arrangement()
    waiting = set(instructions.kept)
    mine = [adapter for adapter in instructions.adapters.values() if pod.uid in adapter.pods]
    for adapter in sorted(mine, key=lambda adapter: (not _has(entries, adapter), adapter.model)):
        ready = files(adapter.model) if adapter.model not in instructions.kept else None
        if adapter.manifest_digest is None or ready is None or ready.manifest_digest != adapter.manifest_digest:
            waiting.add(adapter.model)
            continue
        other = result.targets.get(adapter.lora_name)
        if other is not None:
            result.conflicts[adapter.model] = other.model
            continue
        result.targets[adapter.lora_name] = _target(adapter, ready, pod)
    result.held = frozenset(
        entry.lora_name
        for entry in entries.values()
        if entry.model in waiting
        and entry.snapshot not in leaving(entry.model)
        and entry.lora_name not in result.targets
    )
    return result


def _has(entries: Mapping[str, Entry], adapter: WantedAdapter) -> bool:
    entry = entries.get(adapter.lora_name)
    return entry is not None and entry.model == adapter.model


def _target(adapter: WantedAdapter, files: Files, pod: Pod) -> Target:
    path = path_in_pod(files.path, pod.mounts)
    uri = f"{FILE}{path}" if path is not None else adapter.source_uri
    return Target(
        model=adapter.model,
        model_uid=adapter.model_uid,
        lora_name=adapter.lora_name,
        snapshot=files.snapshot,
        identity=Identity(files.manifest_digest, uri),
    )
