"""Worker pods on the API server, as the Dynamo operator and a kubelet write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelcache.api.labels import BASE_MODEL_ANNOTATION, BASE_MODEL_HASH_LABEL, base_model_hash
from tests.support.api import Api


def worker_pod(
    name: str,
    node: str,
    base_model: str,
    *,
    cache: str = "",
    port: int = 9090,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The pod, without a status. `cache` is the directory of the host that it mounts at /models; empty for none."""
    mounted = [{"name": "cache", "mountPath": "/models"}] if cache else []
    volumes = [{"name": "cache", "hostPath": {"path": cache}}] if cache else []
    container = {
        "name": "main",
        "image": "worker",
        "ports": [{"name": "system", "containerPort": port}],
        "volumeMounts": mounted,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                BASE_MODEL_HASH_LABEL: base_model_hash(base_model),
                "nvidia.com/dynamo-component-type": "worker",
            },
            "annotations": {BASE_MODEL_ANNOTATION: base_model, **(annotations or {})},
        },
        "spec": {"nodeName": node, "containers": [container], "volumes": volumes},
    }


def running(ip: str, *, ready: bool = True, start: int = 1) -> dict[str, Any]:
    """The status of a running pod; `start` counts starts of its container."""
    return {
        "phase": "Running",
        "podIP": ip,
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        "containerStatuses": [
            {
                "name": "main",
                "image": "worker",
                "imageID": "",
                "ready": ready,
                "restartCount": start - 1,
                "containerID": f"containerd://{start}",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }
        ],
    }


class WorkerPods:
    """The worker pods of one namespace and base model."""

    def __init__(self, api: Api, namespace: str, base_model: str) -> None:
        self._api = api
        self._base_model = base_model
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    def add(self, name: str, node: str, ip: str = "10.0.1.5", *, ready: bool = True, **options: Any) -> None:
        """Create a pod, scheduled and running."""
        self._api.post(self._path, worker_pod(name, node, self._base_model, **options)).expect(201)
        self.set(name, ip, ready=ready)

    def set(self, name: str, ip: str = "10.0.1.5", *, ready: bool = True, start: int = 1) -> None:
        """Write its status."""
        self._api.patch(f"{self._path}/{name}/status", {"status": running(ip, ready=ready, start=start)}).expect(200)

    def remove(self, *names: str) -> None:
        """Delete pods at once, as after their grace period."""
        for name in names:
            self._api.delete(f"{self._path}/{name}?gracePeriodSeconds=0").expect(200, 202)

    def names(self) -> Sequence[str]:
        """Names of all pods of the namespace."""
        return [item["metadata"]["name"] for item in self._api.get(self._path).expect(200)["items"]]
