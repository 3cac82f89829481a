"""What is told to the controller about adapters: from what is wanted, recorded and known to the wire's messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from agent.lora.adapter import AdapterConfig
from agent.lora.engine import local_path
from agent.lora.knowledge import NOT_ROUTABLE, Trouble
from agent.lora.plan import View, is_loaded
from agent.lora.record import Entry
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

_PATIENT_TRIES = 2
"""Failed listings after which an adapter does not count as loaded any more: one may be an accident."""


class Inspected(NamedTuple):
    """What was found out about the files of an adapter. `problem`: why no engine can load them, empty when they can."""

    manifest_digest: str
    config: AdapterConfig | None
    problem: str = ""


class Outcome(NamedTuple):
    """How taking an adapter out of a pod ended, at a Unix time; `trouble` None: it is out."""

    at: float
    entry: Entry
    trouble: Trouble | None


def adapter_report(inspected: Inspected | None, warning: str, pods: Iterable[pb.AdapterInPod]) -> pb.AdapterReport:
    """About the adapter of one model. `warning`: how its base model differs, empty when it does not."""
    report = pb.AdapterReport(pods=sorted(pods, key=lambda pod: pod.pod_uid))
    if inspected is not None and inspected.config is not None:
        config = inspected.config
        report.config.CopyFrom(
            pb.AdapterConfig(rank=config.rank, target_modules=config.target_modules, base_model=config.base_model)
        )
    if inspected is not None and inspected.problem:
        report.problem.CopyFrom(pb.Problem(reason="InvalidAdapter", message=inspected.problem))
    if warning:
        report.warning.CopyFrom(pb.Problem(reason="BaseModelMismatch", message=warning))
    return report


def in_pod(view: View, model: ObjectKey, lora_name: str, unix_offset: float) -> pb.AdapterInPod:
    """How the adapter of a model is in a pod into which it belongs. `unix_offset` makes Unix seconds of monotonic ones."""
    knowledge, pod = view.knowledge, view.pod
    report = pb.AdapterInPod(
        pod_uid=pod.uid, engine=knowledge.engine, container_start=pod.container_start, state=pb.ADAPTER_STATE_WAITING
    )
    target = view.targets.get(lora_name)
    not_ready = pb.Problem(reason="PodNotReady", message=f"Pod {pod.name} is not Ready.")
    if target is None or target.model != model:
        if not pod.ready:
            report.problem.CopyFrom(not_ready)
        return report
    report.manifest_digest, report.uri = target.identity
    trouble = knowledge.troubles.get(lora_name)
    if is_loaded(view, target):
        report.state = pb.ADAPTER_STATE_LOADED
        if knowledge.listing is not None:
            report.engine_id = knowledge.listing.present[lora_name].id
        if knowledge.trouble is not None and knowledge.trouble.tries >= _PATIENT_TRIES:
            report.state = pb.ADAPTER_STATE_FAILED
            report.problem.CopyFrom(_problem(knowledge.trouble, unix_offset))
    elif knowledge.listing is None and _recorded(view, lora_name, target.identity):
        report.state = pb.ADAPTER_STATE_UNCONFIRMED
        if knowledge.trouble is not None:
            report.problem.CopyFrom(_problem(knowledge.trouble, unix_offset))
    elif not pod.ready or not pod.container_start:
        report.problem.CopyFrom(not_ready)
    elif knowledge.trouble is not None:
        waits = knowledge.trouble.reason in ("EngineNotReady", "Unreachable") and knowledge.listing is None
        report.state = pb.ADAPTER_STATE_WAITING if waits else pb.ADAPTER_STATE_FAILED
        report.problem.CopyFrom(_problem(knowledge.trouble, unix_offset))
    elif trouble is not None and not _arrives(trouble, target.identity.uri):
        report.state = pb.ADAPTER_STATE_FAILED
        report.problem.CopyFrom(_problem(trouble, unix_offset))
    elif knowledge.listing is not None:
        report.state = pb.ADAPTER_STATE_LOADING
    return report


def leaving_pod(view: View | None, entry: Entry, unix_offset: float) -> pb.AdapterInPod:
    """How an adapter is that is being taken out of a pod. `view` None: the pod is not known at the moment."""
    report = pb.AdapterInPod(
        pod_uid=entry.pod_uid,
        state=pb.ADAPTER_STATE_UNLOADING,
        manifest_digest=entry.manifest_digest,
        uri=entry.uri,
        container_start=entry.container_start,
    )
    if view is not None:
        report.engine = view.knowledge.engine
        trouble = view.knowledge.troubles.get(entry.lora_name) or view.knowledge.trouble
        if trouble is not None:
            report.problem.CopyFrom(_problem(trouble, unix_offset))
    return report


def conflict(pod_uid: str, lora_name: str, other: ObjectKey) -> pb.AdapterInPod:
    """Another model has the same name in the same pod."""
    message = (
        f"DynamoModel {other} has the adapter name {lora_name} in this pod already; requests could not tell the two apart. "
        "Give one of them another spec.modelName."
    )
    problem = pb.Problem(reason="NameConflict", message=message)
    return pb.AdapterInPod(pod_uid=pod_uid, state=pb.ADAPTER_STATE_FAILED, problem=problem)


def unload_report(outcome: Outcome, unix_offset: float) -> pb.AdapterUnload:
    """How taking an adapter out of a pod ended."""
    entry = outcome.entry
    report = pb.AdapterUnload(
        model=pb.ModelKey(namespace=entry.namespace, name=entry.name),
        model_uid=entry.model_uid,
        lora_name=entry.lora_name,
        pod_uid=entry.pod_uid,
        pod_name=entry.pod_name,
    )
    if outcome.trouble is not None:
        report.problem.CopyFrom(_problem(outcome.trouble, unix_offset))
    return report


def _recorded(view: View, lora_name: str, identity: tuple[str, str]) -> bool:
    entry = view.records.get(lora_name)
    return (
        entry is not None
        and entry.confirmed
        and entry.container_start == view.pod.container_start
        and (entry.manifest_digest, entry.uri) == identity
    )


def _arrives(trouble: Trouble, uri: str) -> bool:
    """Whether an engine is still fetching a source by itself."""
    return trouble.reason == NOT_ROUTABLE and trouble.tries == 0 and local_path(uri) is None


def _problem(trouble: Trouble, unix_offset: float) -> pb.Problem:
    next_try = Timestamp()
    next_try.FromNanoseconds(int((trouble.until + unix_offset) * 1e9))
    return pb.Problem(reason=trouble.reason, message=trouble.message, next_try=next_try)
