"""The pods of each node, with the directories that they see through PersistentVolumeClaims.

Where `hostPath` volumes are forbidden to workers (Pod Security `baseline` and `restricted`), an administrator gives them the
cache as a PersistentVolume of the kind `hostPath`, or `local` for a single node. A pod then names a claim, the claim a volume,
and the volume the directory. It is followed under the rule by which the kubelet mounts: claim and volume have to name each
other, and a volume that names a uid, this very claim. So a volume that is bound to another claim, a claim that was made anew
under an old name, and a path with `..` in it lead nowhere. What lies behind other kinds (network, CSI) nobody here can know.

Claims and volumes are followed like pods, and reduced to these fields. To ask for each one when a pod needs it would take
the right to `get` instead of `list` and `watch`; but a claim may be bound after its pod has appeared, and who asks has to
guess when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import msgspec

from controller.pods import BY_NODE, Mount, Pod, host_path
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Forbidden
from modelcache.kube.informer import Informer
from modelcache.kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, ObjectKey, ResourceType

T = TypeVar("T")

_BY_CLAIM = "claim"


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""


class _ClaimSpec(msgspec.Struct, frozen=True, rename="camel"):
    volume_name: str = ""


class Claim(msgspec.Struct, frozen=True):
    """As much of a PersistentVolumeClaim as it takes to find its volume."""

    metadata: _Meta
    spec: _ClaimSpec = _ClaimSpec()


class _Directory(msgspec.Struct, frozen=True):
    path: str = ""


class _VolumeSpec(msgspec.Struct, frozen=True, rename="camel"):
    host_path: _Directory | None = None
    local: _Directory | None = None
    claim_ref: _Meta | None = None


class Volume(msgspec.Struct, frozen=True):
    """As much of a PersistentVolume as it takes to find its directory."""

    metadata: _Meta
    spec: _VolumeSpec = _VolumeSpec()

    @property
    def claim(self) -> ObjectKey | None:
        """The claim that it is for, or was."""
        ref = self.spec.claim_ref
        return ObjectKey(ref.namespace, ref.name) if ref is not None else None


def directory_of(claim: Claim, volume: Volume) -> str:
    """The directory of the node that a claim stands for; empty when `volume` is not bound to it, or no directory."""
    meta, ref = claim.metadata, volume.spec.claim_ref
    if ref is None or claim.spec.volume_name != volume.metadata.name:
        return ""
    if volume.claim != ObjectKey(meta.namespace, meta.name) or ref.uid not in ("", meta.uid):
        return ""
    source = volume.spec.host_path or volume.spec.local
    return host_path(source.path) if source is not None else ""


def with_directories(pod: Pod, directory: Callable[[str], str]) -> Pod:
    """The pod with the directory of each claim, which `directory` tells by name, in the mounts that show it."""
    if not pod.claims:
        return pod

    def found(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
        return tuple(
            mount._replace(host_path=host_path(directory(mount.claim), mount.sub_path)) if mount.claim else mount
            for mount in mounts
        )

    containers = tuple(container._replace(mounts=found(container.mounts)) for container in pod.containers)
    return replace(pod, containers=containers, extra_mounts=found(pod.extra_mounts))


class NodePods:
    """What runs on each node and which directories it sees, from informers of pods, claims and volumes."""

    def __init__(self, client: KubeClient, pods: Informer[Pod]) -> None:
        """To be called before `pods` runs: it declares an index."""
        self._client = client
        self._pods = pods
        self._claims = Informer(client, PERSISTENT_VOLUME_CLAIMS, Claim)
        self._volumes = Informer(client, PERSISTENT_VOLUMES, Volume)
        pods.index(_BY_CLAIM, lambda pod: [str(ObjectKey(pod.namespace, claim)) for claim in pod.claims])

    @property
    def known(self) -> bool:
        """Whether all of them have been read. Claims that this process has no right to read are not waited for."""
        return self._pods.synced.is_set() and self._claims.settled.is_set() and self._volumes.settled.is_set()

    def on(self, node: str) -> list[Pod]:
        """The active pods on a node, in the order of their uids."""
        pods = (pod for pod in self._pods.lookup(BY_NODE, node) if pod.active)
        return [self._seen(pod) for pod in sorted(pods, key=lambda pod: pod.uid)]

    @property
    def reached(self) -> str:
        """resourceVersion of the state of the pods that is shown, empty before there is one."""
        return self._pods.reached

    def get(self, namespace: str, name: str) -> Pod | None:
        """One pod as it is shown now."""
        pod = self._pods.get(ObjectKey(namespace, name))
        return self._seen(pod) if pod is not None else None

    async def as_listed(self, pod: Pod) -> Pod:
        """A pod that was listed, with its directories; claims and volumes that are not shown yet are listed as well.

        Raises KubeError.
        """
        found = {name: await self._directory_now(ObjectKey(pod.namespace, name)) for name in pod.claims}
        return with_directories(pod, lambda name: found[name])

    def on_change(self, handler: Callable[[Pod], None]) -> None:
        """Call `handler` with each pod that may see another directory than before. To be called before `run`."""

        def tell(key: ObjectKey | None) -> None:
            for pod in self._pods.lookup(_BY_CLAIM, str(key)) if key is not None else ():
                handler(pod)

        def claim_changed(old: Claim | None, new: Claim | None) -> None:
            for claim in filter(None, (old, new)) if old != new else ():
                tell(ObjectKey(claim.metadata.namespace, claim.metadata.name))

        def volume_changed(old: Volume | None, new: Volume | None) -> None:
            for volume in filter(None, (old, new)) if old != new else ():
                tell(volume.claim)

        self._claims.on_change(claim_changed)
        self._volumes.on_change(volume_changed)

    async def run(self) -> None:
        """Follow claims and volumes until cancelled; the pods are somebody else's."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.run(), name="informer of PersistentVolumeClaims")
            group.create_task(self._volumes.run(), name="informer of PersistentVolumes")

    async def wait_known(self) -> None:
        """Return as soon as `known`."""
        await self._pods.wait_synced()
        await self._claims.settled.wait()
        await self._volumes.settled.wait()

    async def _directory_now(self, key: ObjectKey) -> str:
        claim = self._claims.get(key)
        if claim is None or not claim.spec.volume_name:
            claim = await self._list_one(PERSISTENT_VOLUME_CLAIMS, key, Claim)
        if claim is None or not claim.spec.volume_name:
            return ""
        name = ObjectKey("", claim.spec.volume_name)
        volume = self._volumes.get(name)
        if volume is None or volume.claim is None:
            volume = await self._list_one(PERSISTENT_VOLUMES, name, Volume)
        return directory_of(claim, volume) if volume is not None else ""

    async def _list_one(self, resource: ResourceType, key: ObjectKey, into: type[T]) -> T | None:
        """The most recent state of an object: a list, because `get` is another right. None where there is no right."""
        pages = self._client.list_pages(
            resource, key.namespace, into=into, field_selector=f"metadata.name={key.name}", limit=0
        )
        try:
            return next(iter([each async for page in pages for each in page.objects]), None)
        except Forbidden:
            return None

    def _seen(self, pod: Pod) -> Pod:
        return with_directories(pod, lambda name: self._directory(ObjectKey(pod.namespace, name)))

    def _directory(self, key: ObjectKey) -> str:
        claim = self._claims.get(key)
        volume = self._volumes.get(ObjectKey("", claim.spec.volume_name)) if claim is not None else None
        return directory_of(claim, volume) if claim is not None and volume is not None else ""
