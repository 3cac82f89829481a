"""Which adapters belong into which pods, read from the wire into plain values.

Everything about a pod was written by users, and everything about an adapter too; what cannot be used is left out and logged,
because the rest of the message is still good. Leaving a pod out is not harmless (nobody talks to a pod that is not listed), so
that is done only where nobody could talk to it anyway.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from modelcache.kube.errors import printable
from modelcache.kube.resources import ObjectKey
from modelcache.logs import readable_trace
from modelcache.rpc.modelcache_pb2 import DesiredModel, DesiredState, WorkerPod

_log = logging.getLogger(__name__)

MAX_NAME = 512
"""Characters of a name under which requests ask for an adapter."""
_MAX_URI = 4096
_MAX_PORT = 65535


class Mount(NamedTuple):
    """A mount of a container: `host_path` is empty for a volume that is no directory of the host."""

    host_path: str
    mount_path: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that serves a base model. `ip` is empty while it has none, `container_start` while its container is not started.

    `container_start` names one start of the container: with another one the engine has forgotten everything. `engine` is
    what an annotation says, empty for "find out".
    """

    uid: str
    namespace: str
    name: str
    ip: str
    port: int
    ready: bool
    container_start: str
    engine: str = ""
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """The adapter of a DynamoModel, and the pods that should have it.

    `manifest_digest` None: the controller does not know yet which files; it stays as it is. `source_uri` is for pods that do
    not mount the cache. `attempt` changes when the user asks for another try.
    """

    model: ObjectKey
    model_uid: str
    lora_name: str
    base_model: str
    source_uri: str
    manifest_digest: str | None
    pods: frozenset[str]
    attempt: str = ""
    trace: str = field(default="", compare=False)
    """Which change of the DynamoModel this follows from, for log lines; another one alone is no change of mind."""


@dataclass(frozen=True, slots=True)
class Instructions:
    """All that a desired state says about adapters.

    `pods` None: the controller does not know the pods at the moment; adapters stay where they are. `kept` are models that are
    listed and of which nobody knows what they are, so that their adapters stay as well. `others` are listed and no adapters.
    """

    pods: Mapping[str, Pod] | None = None
    adapters: Mapping[ObjectKey, WantedAdapter] = field(default_factory=dict)
    kept: frozenset[ObjectKey] = frozenset()
    others: frozenset[ObjectKey] = frozenset()


def read_instructions(message: DesiredState) -> Instructions:
    """What a message says about adapters, as far as it can be used."""
    adapters = {}
    kept, others = set(), set()
    for entry in message.models:
        key = ObjectKey(entry.model.namespace, entry.model.name)
        if not entry.manifest_digest:
            kept.add(key)
        if entry.HasField("adapter"):
            problem = _flaw(entry)
            if problem:
                fields = {"model": str(key), "trace": readable_trace(entry.trace)}
                _log.warning("the adapter is left as it is: %s", problem, extra=fields)
                kept.add(key)
            else:
                adapters[key] = _adapter(key, entry)
        elif entry.manifest_digest:
            others.add(key)
    pods = MappingProxyType(dict(_pods(message.workers))) if message.workers_known else None
    return Instructions(pods, MappingProxyType(adapters), frozenset(kept), frozenset(others))


def _flaw(entry: DesiredModel) -> str:
    name = entry.adapter.lora_name
    if (
        not name
        or len(name) > MAX_NAME
        or not name.isprintable()
        or any(part in ("", ".", "..") for part in name.split("/"))
    ):
        return f"spec.modelName {printable(name, 100)!r} cannot be a path of the engine's API"
    if len(entry.adapter.source_uri) > _MAX_URI:
        return "spec.source.uri is too long"
    return ""


def _adapter(key: ObjectKey, entry: DesiredModel) -> WantedAdapter:
    adapter = entry.adapter
    return WantedAdapter(
        model=key,
        model_uid=adapter.model_uid,
        lora_name=adapter.lora_name,
        base_model=adapter.base_model_name,
        source_uri=adapter.source_uri,
        manifest_digest=entry.manifest_digest or None,
        pods=frozenset(adapter.pod_uids),
        attempt=entry.attempt,
        trace=readable_trace(entry.trace),
    )


def _pods(workers: Iterable[WorkerPod]) -> Iterable[tuple[str, Pod]]:
    for worker in workers:
        if not worker.uid:
            continue
        yield (
            worker.uid,
            Pod(
                uid=worker.uid,
                namespace=worker.namespace,
                name=worker.name,
                ip=worker.ip if _is_usable(worker.ip) and 0 < worker.port <= _MAX_PORT else "",
                port=worker.port,
                ready=worker.ready,
                container_start=worker.container_start,
                engine=worker.engine,
                mounts=tuple(Mount(mount.host_path, mount.mount_path) for mount in worker.mounts),
            ),
        )


def _is_usable(text: str) -> bool:
    """Whether a pod can have this address; those that lead to the node's own services or to nobody cannot be meant."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_link_local)
