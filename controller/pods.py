"""The pods of the cluster, as far as they concern models: which node, since when, what they mount, whether they are ready.

There may be 10,000 pods, each with kilobytes of specification that nobody here reads. So every object is reduced to a `Pod`
at the moment it arrives (`read_pod`), and pods that have ended, or that no node runs yet, are not even sent by the API
server. Labels and annotations are kept only where they are of NVIDIA components; everything else is dropped unread.

Everything in a pod was written by users. A path that makes no sense (relative, with `..` in it) is no path; a sub path that
cannot be told (`controller.expansion`) counts as the directory above it where the question is what a pod may use.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import msgspec

from controller.expansion import expanded, field_of, variables_of
from modelcache.kube.client import KubeClient
from modelcache.kube.informer import Informer
from modelcache.kube.resources import PODS

BY_NODE = "node"
"""Index of the informer: name of the node -> its pods."""

_ENDED = ("Succeeded", "Failed")
_NOT_ENDED = ",".join(f"status.phase!={phase}" for phase in _ENDED)
_SELECTOR = f"spec.nodeName!=,{_NOT_ENDED}"
_DOMAIN = "nvidia.com"


class Mount(NamedTuple):
    """One mount of a container. `host_path` is the absolute path on the host with the sub path applied.

    It is empty for volumes of another kind, which matter only because they hide what is below `mount_path`. Where a part of the
    sub path cannot be told, `exact` is false, and `host_path` a directory above the one that is mounted.

    `claim` is the PersistentVolumeClaim (of the pod's namespace) whose volume this is, `sub_path` what is mounted of it:
    `host_path` is then what `controller.claims` finds, and empty before.
    """

    host_path: str
    mount_path: str
    exact: bool = True
    claim: str = ""
    sub_path: str = ""


class Container(NamedTuple):
    """One container of a pod. `start` names one start of it and is empty while it has not been started."""

    name: str
    mounts: tuple[Mount, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    """(name, number); the name is empty where it has none."""
    restarts: int = 0
    start: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """What is kept of a pod. `since` is when its node took it on, in Unix seconds; 0 when nobody knows.

    `labels` and `annotations` hold those whose prefix is `nvidia.com` or ends in it. `extra_mounts` are those of init and
    ephemeral containers.
    """

    namespace: str
    name: str
    uid: str
    node: str
    since: float = 0.0
    ip: str = ""
    phase: str = ""
    ready: bool = False
    deleting: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    containers: tuple[Container, ...] = ()
    extra_mounts: tuple[Mount, ...] = ()

    @property
    def active(self) -> bool:
        """Whether processes of it run or may still be started. A pod that is being deleted is active until it is gone."""
        return bool(self.node) and self.phase not in _ENDED

    @property
    def restarts(self) -> int:
        """How often containers of it were started again."""
        return sum(container.restarts for container in self.containers)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The mounts of all its containers."""
        return tuple(mount for container in self.containers for mount in container.mounts) + self.extra_mounts

    @property
    def claims(self) -> frozenset[str]:
        """The PersistentVolumeClaims that it mounts."""
        return frozenset(mount.claim for mount in self.mounts if mount.claim)


def pods_informer(client: KubeClient) -> Informer[Pod]:
    """Follows all pods that a node has taken on and that have not ended, with the index BY_NODE."""
    pods = Informer(client, PODS, Pod, decode=read_pod, field_selector=_SELECTOR)
    pods.index(BY_NODE, lambda pod: [pod.node])
    return pods


def pods_selector(node: str) -> str:
    """Field selector of the pods that one node has taken on and that have not ended."""
    return f"spec.nodeName={node},{_NOT_ENDED}"


def read_pod(data: msgspec.Raw | bytes) -> Pod:
    """What matters of a pod as the API server sent it. Raises msgspec.MsgspecError."""
    found = _DECODER.decode(data)
    meta, spec, status = found.metadata, found.spec, found.status
    states = {state.name: state for state in status.container_statuses or ()}
    volumes = {volume.name: volume for volume in spec.volumes or () if volume.host_path or volume.claim}
    fields = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": spec.node_name,
        "spec.serviceAccountName": spec.service_account_name,
    }
    downward = partial(field_of, fields=fields, labels=meta.labels, annotations=meta.annotations)
    return Pod(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        node=spec.node_name,
        since=_unix(status.start_time or meta.creation_timestamp),
        ip=status.pod_ip,
        phase=status.phase,
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions or ()),
        deleting=meta.deletion_timestamp is not None,
        labels=_ours(meta.labels),
        annotations=_ours(meta.annotations),
        containers=tuple(_container(each, states.get(each.name), volumes, downward) for each in spec.containers or ()),
        extra_mounts=tuple(
            _mount(mount, volumes, each, downward)
            for each in (*(spec.init_containers or ()), *(spec.ephemeral_containers or ()))
            for mount in each.volume_mounts or ()
            if mount.name in volumes
        ),
    )


def host_path(volume: str, sub_path: str = "") -> str:
    """The directory of the host that a mount of a volume shows; empty when the volume's path is none."""
    if not volume.startswith("/") or ".." in volume.split("/"):
        return ""
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        sub_path = ""
    # normpath keeps two leading slashes (POSIX allows them a meaning), the kernel of Linux does not.
    return "/" + posixpath.normpath(posixpath.join(volume, sub_path)).lstrip("/")


def _container(
    spec: _ContainerSpec,
    state: _ContainerStatus | None,
    volumes: Mapping[str, _Volume],
    downward: Callable[[str], str | None],
) -> Container:
    running = state.state.running if state is not None and state.state is not None else None
    return Container(
        name=spec.name,
        mounts=tuple(_mount(mount, volumes, spec, downward) for mount in spec.volume_mounts or ()),
        ports=tuple((port.name, port.container_port) for port in spec.ports or ()),
        restarts=state.restart_count if state is not None else 0,
        start=f"{state.container_id} {running.started_at or ''}" if state is not None and running is not None else "",
    )


def _mount(
    mount: _VolumeMount, volumes: Mapping[str, _Volume], spec: _ContainerSpec, downward: Callable[[str], str | None]
) -> Mount:
    volume = volumes.get(mount.name)
    if volume is None:
        return Mount("", mount.mount_path)
    sub_path, exact = _sub_path(mount, spec, downward)
    if volume.host_path is not None:
        return Mount(host_path(volume.host_path.path, sub_path), mount.mount_path, exact)
    return Mount("", mount.mount_path, exact, volume.claim, sub_path)


def _sub_path(mount: _VolumeMount, spec: _ContainerSpec, downward: Callable[[str], str | None]) -> tuple[str, bool]:
    """What of its volume is mounted, and whether that is exact; see `Mount`."""
    expression = mount.sub_path_expr
    if not expression:
        return mount.sub_path, True
    entries = ((each.name, each.value, each.path) for each in spec.env or ())
    sub_path = expanded(expression, variables_of(entries, downward))
    if sub_path is not None:
        return sub_path, True
    return expression[: expression.index("$")].rpartition("/")[0], False


def _ours(pairs: Mapping[str, str] | None) -> dict[str, str]:
    return {key: value for key, value in (pairs or {}).items() if _is_ours(key.partition("/")[0])}


def _is_ours(domain: str) -> bool:
    return domain == _DOMAIN or domain.endswith("." + _DOMAIN)


def _unix(text: str | None) -> float:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# The parts of a Pod that are decoded; everything else is skipped without building anything for it.


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _HostPath(msgspec.Struct, frozen=True):
    path: str = ""


class _ClaimSource(msgspec.Struct, frozen=True, rename="camel"):
    claim_name: str = ""


class _Volume(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    host_path: _HostPath | None = None
    persistent_volume_claim: _ClaimSource | None = None

    @property
    def claim(self) -> str:
        return self.persistent_volume_claim.claim_name if self.persistent_volume_claim is not None else ""


class _VolumeMount(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    container_port: int = 0


class _FieldRef(msgspec.Struct, frozen=True, rename="camel"):
    field_path: str = ""


class _Source(msgspec.Struct, frozen=True, rename="camel"):
    field_ref: _FieldRef | None = None


class _Variable(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    value: str = ""
    value_from: _Source | None = None

    @property
    def path(self) -> str | None:
        """See `expansion.variables_of`."""
        if self.value_from is None:
            return None
        return self.value_from.field_ref.field_path if self.value_from.field_ref is not None else ""


class _ContainerSpec(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    env: list[_Variable] | None = None
    volume_mounts: list[_VolumeMount] | None = None
    ports: list[_Port] | None = None


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = ""
    volumes: list[_Volume] | None = None
    containers: list[_ContainerSpec] | None = None
    init_containers: list[_ContainerSpec] | None = None
    ephemeral_containers: list[_ContainerSpec] | None = None


class _Running(msgspec.Struct, frozen=True, rename="camel"):
    started_at: str | None = None


class _State(msgspec.Struct, frozen=True):
    running: _Running | None = None


class _ContainerStatus(
    msgspec.Struct, frozen=True, rename={"container_id": "containerID", "restart_count": "restartCount"}
):
    name: str = ""
    container_id: str = ""
    restart_count: int = 0
    state: _State | None = None


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Status(
    msgspec.Struct,
    frozen=True,
    rename={"start_time": "startTime", "pod_ip": "podIP", "container_statuses": "containerStatuses"},
):
    phase: str = ""
    start_time: str | None = None
    pod_ip: str = ""
    conditions: list[_Condition] | None = None
    container_statuses: list[_ContainerStatus] | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec = _Spec()
    status: _Status = _Status()


_DECODER = msgspec.json.Decoder(_Object)
