"""Worker pods: where a base model is served, and everything that loading adapters into it needs to know.

The Dynamo operator labels every pod of a service that has a `modelRef` with a hash of the model's name. Pods are read
directly, not by way of EndpointSlices: a pod says on which node it is, what it mounts and whether it is ready, and it is
there once, however many slices list it.

Of the containers of a pod, the one whose port is named `system` (or is 9090) is the worker; without any such port it is
the one named `main`, as the Dynamo operator does, or else the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.pods import Container, Mount, Pod
from modelcache.api.labels import (
    BASE_MODEL_ANNOTATION,
    BASE_MODEL_HASH_LABEL,
    LORA_ENGINE_ANNOTATION,
    LORA_PORT_ANNOTATION,
    base_model_hash,
)
from modelcache.kube.informer import Informer
from modelcache.rpc import modelcache_pb2 as pb

SYSTEM_PORT = 9090
"""Port of a worker's system server (Dynamo operator)."""
SYSTEM_PORT_NAME = "system"
MAIN_CONTAINER = "main"

_BY_BASE = "base model"
_LONGEST_ENGINE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker pod that a node runs. `ending`: it is being deleted, so it is no endpoint any more.

    `base_hash` is the label, `base_model` the annotation (may be empty). `ip` is empty while the pod has none.
    `container_start` names one start of the worker container, empty before the first.
    """

    uid: str
    namespace: str
    name: str
    node: str
    base_hash: str
    base_model: str = ""
    ip: str = ""
    port: int = SYSTEM_PORT
    ready: bool = False
    ending: bool = False
    container_start: str = ""
    engine: str = ""
    mounts: tuple[Mount, ...] = ()

    @property
    def address(self) -> str:
        """URL of its system server; empty while it has no IP."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}" if self.ip else ""

    def serves(self, base_model: str) -> bool:
        """Whether it serves this base model. The hash has only 32 bits, so the name has to agree where it is given."""
        return self.base_hash == base_model_hash(base_model) and self.base_model in ("", base_model)


def worker_of(pod: Pod) -> Worker | None:
    """The worker in a pod; None for a pod that serves no base model, or has ended."""
    base_hash = pod.labels.get(BASE_MODEL_HASH_LABEL, "")
    if not base_hash or not pod.active:
        return None
    container = _worker_container(pod)
    return Worker(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        node=pod.node,
        base_hash=base_hash,
        base_model=pod.annotations.get(BASE_MODEL_ANNOTATION, ""),
        ip=pod.ip,
        port=_port(pod, container),
        ready=pod.ready and not pod.deleting,
        ending=pod.deleting,
        container_start=container.start,
        engine=pod.annotations.get(LORA_ENGINE_ANNOTATION, "").strip().lower()[:_LONGEST_ENGINE],
        mounts=container.mounts,
    )


def workers_among(pods: Iterable[Pod]) -> list[Worker]:
    """The workers in some pods, of all namespaces."""
    return [worker for worker in map(worker_of, pods) if worker is not None]


def endpoints_of(workers: Iterable[Worker]) -> list[Worker]:
    """Those that can be talked to, each once, in the order of their names."""
    return sorted({w.uid: w for w in workers if w.ip and not w.ending}.values(), key=lambda w: (w.name, w.uid))


def to_messages(workers: Iterable[Worker]) -> list[pb.WorkerPod]:
    """As agents get them, without those that end, in the order of their uids, so that equal states have equal bytes."""
    return [
        pb.WorkerPod(
            uid=worker.uid,
            namespace=worker.namespace,
            name=worker.name,
            ip=worker.ip,
            port=worker.port,
            ready=worker.ready,
            container_start=worker.container_start,
            engine=worker.engine,
            mounts=[_mount(mount) for mount in worker.mounts],
        )
        for worker in sorted(workers, key=lambda worker: worker.uid)
        if not worker.ending
    ]


class Workers:
    """The worker pods of the cluster, found by base model, from an informer of all pods."""

    def __init__(self, pods: Informer[Pod]) -> None:
        """To be called before `pods` runs: it declares an index."""
        self._pods = pods
        pods.index(_BY_BASE, _bases)

    @property
    def known(self) -> bool:
        """Whether the pods have been read at all."""
        return self._pods.synced.is_set()

    @property
    def problem(self) -> str:
        """Why they have not been, empty while that is only a matter of time."""
        return "" if self.known else self._pods.health.last_error

    def serving(self, namespace: str, base_model: str) -> tuple[Worker, ...] | None:
        """All workers of a base model, None while pods have not been read."""
        if not self.known:
            return None
        found = self._pods.lookup(_BY_BASE, _place(namespace, base_model_hash(base_model)))
        return tuple(worker for worker in workers_among(found) if worker.serves(base_model))


def _place(namespace: str, base_hash: str) -> str:
    return f"{namespace}/{base_hash}"


def _bases(pod: Pod) -> list[str]:
    base_hash = pod.labels.get(BASE_MODEL_HASH_LABEL)
    return [_place(pod.namespace, base_hash)] if base_hash else []


def _worker_container(pod: Pod) -> Container:
    for fits in (_has_system_name, _has_system_port, lambda container: container.name == MAIN_CONTAINER):
        for container in pod.containers:
            if fits(container):
                return container
    return pod.containers[0] if pod.containers else Container("")


def _has_system_name(container: Container) -> bool:
    return any(name == SYSTEM_PORT_NAME for name, _ in container.ports)


def _has_system_port(container: Container) -> bool:
    return any(number == SYSTEM_PORT for _, number in container.ports)


def _port(pod: Pod, container: Container) -> int:
    text = pod.annotations.get(LORA_PORT_ANNOTATION, "").strip()
    if text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536:
        return int(text)
    named = (number for name, number in container.ports if name == SYSTEM_PORT_NAME and 0 < number < 65536)
    return next(named, SYSTEM_PORT)


def _mount(mount: Mount) -> pb.Mount:
    # A path that is not exact would lead an engine to the wrong place: the pod is told the original URI instead.
    return pb.Mount(host_path=mount.host_path if mount.exact else "", mount_path=mount.mount_path)
