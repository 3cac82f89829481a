"""What the Dynamo operator and the kubelet would write about a worker: its Pod and the status of it. Pure.

Labels and annotations are those that a service with a `modelRef` gives its pods; the mounts are `hostPath` volumes, as in
docs/using-models.md.
"""

from datetime import UTC, datetime
from typing import Any

from local.workers.container import PORTS, ContainerState, WorkerSpec
from modelcache.api.labels import (
    BASE_MODEL_ANNOTATION,
    BASE_MODEL_HASH_LABEL,
    LORA_ENGINE_ANNOTATION,
    LORA_PORT_ANNOTATION,
    base_model_hash,
)

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "modelcache-workers"
CONTAINER = "main"
"""What the Dynamo operator calls the container of a worker."""
_IMAGE = "local/worker"


def pod(spec: WorkerSpec, *, annotate_engine: bool = False) -> dict[str, Any]:
    """The Pod as it is created. `annotate_engine`: say in an annotation what can be found out by asking."""
    annotations = {BASE_MODEL_ANNOTATION: spec.base_model}
    if annotate_engine:
        annotations[LORA_ENGINE_ANNOTATION] = spec.engine
    if spec.port != PORTS["dynamo"]:
        annotations[LORA_PORT_ANNOTATION] = str(spec.port)
    ports = [{"name": "system" if spec.engine == "dynamo" else "http", "containerPort": spec.port}]
    mounts = [
        {"name": f"models-{index}", "mountPath": mount.mount_path, "readOnly": True}
        for index, mount in enumerate(spec.mounts)
    ]
    volumes = [
        {"name": f"models-{index}", "hostPath": {"path": mount.host_path, "type": "DirectoryOrCreate"}}
        for index, mount in enumerate(spec.mounts)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {
                MANAGED_BY: MANAGER,
                BASE_MODEL_HASH_LABEL: base_model_hash(spec.base_model),
                "nvidia.com/dynamo-component-type": "worker",
            },
            "annotations": annotations,
        },
        "spec": {
            "nodeName": spec.node,
            "containers": [{"name": CONTAINER, "image": _IMAGE, "ports": ports, "volumeMounts": mounts}],
            "volumes": volumes,
        },
    }


def status(spec: WorkerSpec, state: ContainerState, now: float) -> dict[str, Any]:
    """The status of that Pod, as a merge patch has it. `now` is in Unix seconds."""
    ready = "True" if state.ready else "False"
    since = _rfc3339(state.ready_since if state.ready_since is not None else now)
    reason = (
        {} if state.ready else {"reason": "ContainersNotReady", "message": "containers with unready status: [main]"}
    )
    conditions = [
        {"type": "Ready", "status": ready, "lastTransitionTime": since, **reason},
        {"type": "ContainersReady", "status": ready, "lastTransitionTime": since, **reason},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": _rfc3339(state.started_at)},
        {"type": "Initialized", "status": "True", "lastTransitionTime": _rfc3339(state.started_at)},
    ]
    running = {"running": {"startedAt": _rfc3339(state.started_at)}}
    return {
        "status": {
            "phase": "Running",
            "podIP": spec.ip,
            "podIPs": [{"ip": spec.ip}],
            "startTime": _rfc3339(state.started_at),
            "conditions": conditions,
            "containerStatuses": [
                {
                    "name": CONTAINER,
                    "image": _IMAGE,
                    "imageID": _IMAGE,
                    "containerID": state.container_id,
                    "ready": state.ready,
                    "started": state.running,
                    "restartCount": state.restarts,
                    "state": running if state.running else {"waiting": {"reason": "CrashLoopBackOff"}},
                }
            ],
        }
    }


def _rfc3339(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
