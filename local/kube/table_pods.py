"""The row of a pod: most of it is finding the one word that says what a pod is up to.

k8s.io/kubernetes, pkg/printers/internalversion/printers.go, printPod.
"""

from datetime import datetime
from typing import Any

from local.kube.ages import human_age
from local.kube.table_cells import NONE, Object, Row, age_of, dig, list_at, map_at, name_of


def pod_row(obj: Object, now: datetime) -> Row:
    """The cells of a pod."""
    status, spec = map_at(obj, "status"), map_at(obj, "spec")
    statuses = [item for item in list_at(status, "containerStatuses") if isinstance(item, dict)]
    sidecars = {item.get("name") for item in list_at(spec, "initContainers") if item.get("restartPolicy") == "Always"}
    side_statuses = [item for item in list_at(status, "initContainerStatuses") if item.get("name") in sidecars]
    counted = [*side_statuses, *statuses]
    ready = sum(bool(item.get("ready")) for item in counted)
    total = len(list_at(spec, "containers")) + len(sidecars)
    ips = [item.get("ip") for item in list_at(status, "podIPs")] or [status.get("podIP")]
    gates = list_at(spec, "readinessGates")
    cells = [
        name_of(obj),
        f"{ready}/{total}",
        _pod_reason(obj),
        _restarts(counted, now),
        age_of(obj, now),
        ips[0] or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(gates, list_at(status, "conditions")),
    ]
    verdict = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}.get(
        status.get("phase", "")
    )
    if verdict is None:
        return Row(cells)
    condition = {"type": "Completed", "status": "True", "reason": status["phase"], "message": verdict}
    return Row(cells, [condition])


def _gates(gates: list[Any], conditions: list[Any]) -> str:
    if not gates:
        return NONE
    true = {item.get("type") for item in conditions if item.get("status") == "True"}
    return f"{sum(gate.get('conditionType') in true for gate in gates)}/{len(gates)}"


def _restarts(statuses: list[Any], now: datetime) -> str:
    count = sum(int(item.get("restartCount") or 0) for item in statuses)
    ends = [dig(item, "lastState", "terminated", "finishedAt") for item in statuses]
    last = max((end for end in ends if end), default=None)
    return f"{count} ({human_age(last, now)} ago)" if count and last else str(count)


def _pod_reason(obj: Object) -> str:
    """The word in the STATUS column: the most telling of phase, reasons of containers, and deletion."""
    status, spec = map_at(obj, "status"), map_at(obj, "spec")
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    for item in list_at(status, "conditions"):
        if item.get("type") == "PodScheduled" and item.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    initializing = False
    inits = list_at(spec, "initContainers")
    sidecars = {item.get("name") for item in inits if item.get("restartPolicy") == "Always"}
    for index, item in enumerate(list_at(status, "initContainerStatuses")):
        state = map_at(item, "state")
        ended = state.get("terminated")
        if (ended and not ended.get("exitCode")) or (item.get("name") in sidecars and item.get("started")):
            continue
        waiting = dig(state, "waiting", "reason")
        if ended:
            reason = f"Init:{_ended(ended)}"
        elif waiting and waiting != "PodInitializing":
            reason = f"Init:{waiting}"
        else:
            reason = f"Init:{index}/{len(inits)}"
        initializing = True
        break
    if not initializing or _is_true(status, "Initialized"):
        running = False
        for item in reversed(list_at(status, "containerStatuses")):
            state = map_at(item, "state")
            if dig(state, "waiting", "reason"):
                reason = str(state["waiting"]["reason"])
            elif state.get("terminated"):
                reason = _ended(state["terminated"])
            elif item.get("ready") and "running" in state:
                running = True
        if reason == "Completed" and running:
            reason = "Running" if _is_true(status, "Ready") else "NotReady"
    if dig(obj, "metadata", "deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Failed", "Succeeded"):
            return "Terminating"
    return reason


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _is_true(status: Object, kind: str) -> bool:
    return any(item.get("type") == kind and item.get("status") == "True" for item in list_at(status, "conditions"))
