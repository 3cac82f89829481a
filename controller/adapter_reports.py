"""What agents report about LoRA adapters, read from the wire: bounded and sanitized like everything in `reports`.

The texts in it come from engines and from adapter files, so from people who may write anything into them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from controller.problems import AgentProblem, read_problem
from modelcache.kube.errors import printable
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

MAX_PODS = 1_000
"""Pods of one adapter on one node; a kubelet runs 110 by default."""
MAX_MODULES = 64
MAX_UNLOADS = 10_000
_MAX_NAME = 253
_MAX_URI = 4096
_MAX_RANK = 1_000_000

_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,256}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


class AdapterState(Enum):
    """As on the wire (see modelcache.proto)."""

    WAITING = pb.ADAPTER_STATE_WAITING
    LOADING = pb.ADAPTER_STATE_LOADING
    LOADED = pb.ADAPTER_STATE_LOADED
    FAILED = pb.ADAPTER_STATE_FAILED
    UNLOADING = pb.ADAPTER_STATE_UNLOADING
    UNCONFIRMED = pb.ADAPTER_STATE_UNCONFIRMED


@dataclass(frozen=True, slots=True)
class AdapterInPod:
    """An adapter in one pod. `uri` is what the engine was told to load; `container_start` tells starts of it apart."""

    state: AdapterState
    manifest_digest: str = ""
    container_start: str = ""
    uri: str = ""
    engine: str = ""
    problem: AgentProblem | None = None


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What adapter_config.json says."""

    rank: int = 0
    target_modules: tuple[str, ...] = ()
    base_model: str = ""


@dataclass(frozen=True, slots=True)
class AdapterView:
    """The adapter of one model on one node; `pods` by uid."""

    config: AdapterConfig | None = None
    problem: AgentProblem | None = None
    warning: AgentProblem | None = None
    pods: Mapping[str, AdapterInPod] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unload:
    """How taking an adapter out of a pod ended; `problem` None: it is out."""

    model: ObjectKey
    model_uid: str
    pod_uid: str
    pod_name: str
    problem: AgentProblem | None = None


def read_adapter(report: pb.AdapterReport) -> AdapterView:
    """What can be understood of it."""
    return AdapterView(
        config=_config(report.config) if report.HasField("config") else None,
        problem=read_problem(report.problem) if report.HasField("problem") else None,
        warning=read_problem(report.warning) if report.HasField("warning") else None,
        pods=MappingProxyType({pod.pod_uid: _pod(pod) for pod in report.pods[:MAX_PODS] if _ID.fullmatch(pod.pod_uid)}),
    )


def read_unloads(report: pb.Report) -> tuple[Unload, ...]:
    """How the latest attempts to take adapters out of pods ended."""
    return tuple(
        Unload(
            model=ObjectKey(entry.model.namespace[:_MAX_NAME], entry.model.name[:_MAX_NAME]),
            model_uid=entry.model_uid[:_MAX_NAME],
            pod_uid=entry.pod_uid[:_MAX_NAME],
            pod_name=printable(entry.pod_name, _MAX_NAME),
            problem=read_problem(entry.problem) if entry.HasField("problem") else None,
        )
        for entry in report.unloads[:MAX_UNLOADS]
    )


def _config(config: pb.AdapterConfig) -> AdapterConfig:
    return AdapterConfig(
        rank=min(config.rank, _MAX_RANK),
        target_modules=tuple(printable(module, _MAX_NAME) for module in config.target_modules[:MAX_MODULES]),
        base_model=printable(config.base_model, 512),
    )


def _pod(pod: pb.AdapterInPod) -> AdapterInPod:
    return AdapterInPod(
        state=_state(pod.state),
        manifest_digest=pod.manifest_digest if _HEX64.fullmatch(pod.manifest_digest) else "",
        container_start=pod.container_start[:_MAX_URI],
        uri=printable(pod.uri, _MAX_URI),
        engine=printable(pod.engine, 32),
        problem=read_problem(pod.problem) if pod.HasField("problem") else None,
    )


def _state(value: int) -> AdapterState:
    try:
        return AdapterState(value)
    except ValueError:
        # Unspecified, or a state of a newer agent: nothing that may be taken for loaded.
        return AdapterState.WAITING
