"""Events about endpoints: the reasons that the Dynamo operator has published, told once per change.

Like `events`, derived from two statuses. The user guide's table says what each one means to a user. Two are our own:
`CacheNotMounted` and `BaseModelMismatch`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from controller.adapter_reports import Unload
from controller.conditions import names
from controller.endpoints import WAITING
from controller.events import MAX_PER_CHANGE, Note
from modelcache.api.spec import Spec
from modelcache.api.status import Condition, Endpoint, Status


def endpoint_events(old: Status, new: Status, spec: Spec) -> list[Note]:
    """The events that the change from `old` to `new` is worth, in the order in which they are to be read."""
    before, after = _condition(old), _condition(new)
    if after is None or after.reason == "Deleting":
        return []
    base = spec.base_model_name or spec.model_name
    # A base model is cached first and served afterwards: having no pods yet is nothing to warn of.
    expects_pods = spec.model_type == "lora" or spec.source is None or old.total_endpoints > 0
    notes = _discovery(old, new, before, after, base, expects_pods=expects_pods)
    if spec.model_type == "lora":
        notes += _failures(old, new, spec.model_name)
        notes += _not_mounted(old, new, spec.model_name)
        notes += _adapter(old, new)
    return notes + _readiness(old, new, before, after, base)


def unload_events(name: str, unloads: Sequence[tuple[str, Unload]], lost: Collection[str]) -> list[Note]:
    """What became of the adapter `name` in its pods when its DynamoModel was deleted.

    `lost` are the pods, as far as they were known to have it, on nodes without an agent.
    """
    failed = [f"{unload.pod_name}: {unload.problem.message}" for _, unload in unloads if unload.problem]
    failed += [f"{pod}: no agent runs on its node" for pod in sorted(lost)]
    done = sum(1 for _, unload in unloads if unload.problem is None)
    notes = []
    if failed:
        text = f"Failed to unload {name} from some endpoints; it stays there until they restart: "
        more = f"; and {len(failed) - MAX_PER_CHANGE} more" if len(failed) > MAX_PER_CHANGE else ""
        notes.append(Note("Warning", "LoRAUnloadFailed", text + "; ".join(failed[:MAX_PER_CHANGE]) + more))
    if done:
        notes.append(Note("Normal", "LoRAUnloaded", f"Unloaded {name} from {done} endpoint(s)"))
    return notes


def _discovery(
    old: Status, new: Status, before: Condition | None, after: Condition, base: str, *, expects_pods: bool
) -> list[Note]:
    if after.reason == "EndpointDiscoveryFailed":
        known = before is not None and before.reason == after.reason
        return [] if known else [Note("Warning", "EndpointDiscoveryFailed", after.message)]
    if after.reason == "NoEndpoints":
        known = before is not None and before.reason == after.reason
        return [] if known or not expects_pods else [Note("Warning", "NoEndpointsFound", after.message)]
    if new.total_endpoints and not old.total_endpoints:
        count = new.total_endpoints
        return [Note("Normal", "EndpointsDiscovered", f"Discovered {count} endpoints for base model {base}")]
    return []


def _readiness(old: Status, new: Status, before: Condition | None, after: Condition, base: str) -> list[Note]:
    ready, total = new.ready_endpoints, new.total_endpoints
    changed = before is None or before.status != after.status
    if after.status == "True" and (changed or ready != old.ready_endpoints):
        return [Note("Normal", "EndpointsReady", f"Discovered {ready} ready endpoints for base model {base}")]
    if after.reason in ("NotReady", "NoReadyEndpoints") and (changed or not old.total_endpoints):
        return [Note("Warning", "NotReady", f"Only {ready} of {total} endpoints ready for base model {base}")]
    return []


def _failures(old: Status, new: Status, lora: str) -> list[Note]:
    known = {(endpoint.pod_name, endpoint.reason) for endpoint in old.endpoints}
    fresh = [
        endpoint
        for endpoint in new.endpoints
        if not endpoint.ready and endpoint.reason not in WAITING and (endpoint.pod_name, endpoint.reason) not in known
    ]
    if not fresh:
        return []
    # "Failed to load", "error" and the pod's name are what the user guide has people search the log for.
    told = "; ".join(f"{e.pod_name}: error {e.reason}: {e.message}" for e in fresh[:MAX_PER_CHANGE])
    more = f"; and {len(fresh) - MAX_PER_CHANGE} more, see status.endpoints" if len(fresh) > MAX_PER_CHANGE else ""
    return [Note("Warning", "PartialEndpointFailure", f"Failed to load {lora} into some endpoints: {told}{more}")]


def _not_mounted(old: Status, new: Status, lora: str) -> list[Note]:
    known = {(endpoint.pod_name, endpoint.loaded_from) for endpoint in old.endpoints}
    fresh: list[Endpoint] = [
        endpoint
        for endpoint in new.endpoints
        if endpoint.loaded_from and (endpoint.pod_name, endpoint.loaded_from) not in known
    ]
    if not fresh:
        return []
    pods = names([endpoint.pod_name for endpoint in fresh], MAX_PER_CHANGE)
    text = (
        f"{pods} do not mount the node's cache, so the engine loads {lora} from {fresh[0].loaded_from} itself; mount the "
        f"cache directory as a hostPath volume to have it load the verified files."
    )
    return [Note("Warning", "CacheNotMounted", text)]


def _adapter(old: Status, new: Status) -> list[Note]:
    warning = new.adapter.warning if new.adapter else ""
    if not warning or (old.adapter and old.adapter.warning == warning):
        return []
    reason, _, message = warning.partition(": ")
    return [Note("Warning", reason, message)]


def _condition(status: Status) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == "EndpointsReady"), None)
