"""The headless Service in front of the workers of a base model.

The Dynamo operator makes one per base model, `dynamo-model-<hash>`, with the workers' label as its selector; routers find
the workers by it. Where it is missing we make it, the same way. It belongs to the DynamoModels that need it: each is an
owner, so the garbage collector takes it away with the last of them. One that somebody else made is used and left alone.

The owners are one list, and a hundred adapters may need the same Service at once. So whoever finds itself missing enters all
that are missing, and nobody looks again because of what was entered. An owner here never blocks anybody's deletion
(`blockOwnerDeletion` is not set), so the admission plugin OwnerReferencesPermissionEnforcement asks for nothing but the right
to delete Services, which the controller has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from controller.workers import SYSTEM_PORT, SYSTEM_PORT_NAME
from modelcache.api.base import API_VERSION, KIND
from modelcache.api.labels import BASE_MODEL_ANNOTATION, BASE_MODEL_HASH_LABEL, base_model_hash
from modelcache.api.model import DynamoModel
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from modelcache.kube.informer import Informer
from modelcache.kube.objects import ObjectMeta, OwnerReference, PartialObject, is_older
from modelcache.kube.resources import SERVICES

_log = logging.getLogger(__name__)

_MANAGED_BY = "app.kubernetes.io/managed-by"
_MANAGER = "modelcache-controller"
_BY_NAMESPACE = "namespace"


def services_informer(client: KubeClient) -> Informer[PartialObject]:
    """Follows the Services of all base models."""
    services = Informer(client, SERVICES, PartialObject, label_selector=BASE_MODEL_HASH_LABEL)
    services.index(_BY_NAMESPACE, lambda service: [service.metadata.namespace])
    return services


def service_name(base_model: str) -> str:
    """Name of the Service of a base model (Dynamo operator)."""
    return f"dynamo-model-{base_model_hash(base_model)}"


def service_body(models: Sequence[DynamoModel], base_model: str) -> dict[str, object]:
    """The Service that `models`, all of one namespace, need; manifests/policy/controller-writes.yaml allows this form."""
    selector = {BASE_MODEL_HASH_LABEL: base_model_hash(base_model)}
    port = {"name": SYSTEM_PORT_NAME, "port": SYSTEM_PORT, "targetPort": SYSTEM_PORT, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(base_model),
            "namespace": models[0].metadata.namespace,
            "labels": selector | {_MANAGED_BY: _MANAGER},
            "annotations": {BASE_MODEL_ANNOTATION: base_model},
            "ownerReferences": [_owner(model) for model in models],
        },
        "spec": {"clusterIP": "None", "selector": selector, "ports": [port]},
    }


class HeadlessServices:
    """Makes Services where they are missing, and keeps their owners right."""

    def __init__(self, client: KubeClient, services: Informer[PartialObject]) -> None:
        self._client = client
        self._services = services
        self._changing = asyncio.Lock()
        self._written: dict[str, ObjectMeta] = {}
        """By uid, what our own writes were answered with, until the informer has seen them."""

    def count(self, namespace: str, base_model: str) -> int | None:
        """How many Services stand in front of the workers of a base model, None while they have not been read."""
        return len(self._of(namespace, base_model)) if self._services.synced.is_set() else None

    async def ensure(self, model: DynamoModel, base_model: str, siblings: Iterable[DynamoModel] = ()) -> str:
        """See that there is one, and that `model` owns just the one that it needs. Why that failed; empty when it did not.

        `siblings` need the same one. It never raises: a model is cached and loaded without it as well.
        """
        if not self._services.synced.is_set():
            error = self._services.health.last_error
            return f"Services cannot be read: {error}" if error else ""
        try:
            if self._is_right(model, base_model):
                return ""
            async with self._changing:
                await self._disown(model, base_model)
                await self._own(model, base_model, siblings)
        except (AlreadyExists, Conflict) as error:
            # Somebody was quicker; the informer will show what he did. Or the name is taken by a Service without the label.
            return f"Service {service_name(base_model)} cannot be made yet: {error}"
        except KubeError as error:
            _log.warning("%s: the Service of base model %s: %s", model.key, base_model, error)
            return f"Service {service_name(base_model)} cannot be made: {error}"
        return ""

    def _is_right(self, model: DynamoModel, base_model: str) -> bool:
        needed = base_model_hash(base_model)
        ours = [service for service in self._in(model.metadata.namespace) if _is_ours(service)]
        wrong = any(_owns(model, service) is not (_hash(service) == needed) for service in ours)
        return not wrong and bool(self._of(model.metadata.namespace, base_model))

    async def _own(self, model: DynamoModel, base_model: str, siblings: Iterable[DynamoModel]) -> None:
        found = self._of(model.metadata.namespace, base_model)
        needers = [model, *(s for s in siblings if s.metadata.uid != model.metadata.uid and not s.deleting)]
        if not found:
            body = service_body(needers, base_model)
            made = await self._client.create(SERVICES, body, model.metadata.namespace, name=service_name(base_model))
            self._written[made.uid] = made
            _log.info("%s: made Service %s for base model %s", model.key, service_name(base_model), base_model)
            return
        for service in filter(_is_ours, found):
            if not _owns(model, service):
                owners = map(_as_sent, service.owner_references or [])
                missing = [_owner(needer) for needer in needers if not _owns(needer, service)]
                await self._set_owners(service, [*owners, *missing])

    async def _disown(self, model: DynamoModel, base_model: str) -> None:
        """Another base model is asked for now: let go of the Service of the former one."""
        needed = base_model_hash(base_model)
        for service in self._in(model.metadata.namespace):
            owners = service.owner_references or []
            others = [owner for owner in owners if owner.uid != model.metadata.uid]
            if len(others) == len(owners) or not _is_ours(service) or _hash(service) == needed:
                continue
            if others:
                await self._set_owners(service, [_as_sent(owner) for owner in others])
            else:
                await self._delete(service)

    async def _set_owners(self, service: ObjectMeta, owners: list[dict[str, object]]) -> None:
        # With the resourceVersion: the list is replaced as a whole, and two models may want to be in it at once.
        metadata = {"ownerReferences": owners, "resourceVersion": service.resource_version, "uid": service.uid}
        try:
            written = await self._client.merge_patch(SERVICES, service.name, {"metadata": metadata}, service.namespace)
            self._written[written.uid] = written
        except NotFound:
            return

    async def _delete(self, service: ObjectMeta) -> None:
        try:
            await self._client.delete(
                SERVICES, service.name, service.namespace, uid=service.uid, resource_version=service.resource_version
            )
        except NotFound:
            return
        _log.info("removed Service %s/%s: no DynamoModel needs it any more", service.namespace, service.name)

    def _in(self, namespace: str) -> list[ObjectMeta]:
        """The newest that is known of each."""
        metas = [service.metadata for service in self._services.lookup(_BY_NAMESPACE, namespace)]
        for index, meta in enumerate(metas):
            written = self._written.get(meta.uid)
            if written is not None and is_older(meta.resource_version, written.resource_version):
                metas[index] = written
            elif written is not None:
                del self._written[meta.uid]
        return sorted((meta for meta in metas if meta.deletion_timestamp is None), key=lambda meta: meta.name)

    def _of(self, namespace: str, base_model: str) -> list[ObjectMeta]:
        wanted = base_model_hash(base_model)
        return [service for service in self._in(namespace) if _hash(service) == wanted]


def matters(old: PartialObject | None, new: PartialObject | None) -> bool:
    """Whether a change of a Service may concern DynamoModels that own it: not when it only got another owner."""
    if old is None or new is None:
        return True
    before, after = old.metadata, new.metadata
    lost = {owner.uid for owner in before.owner_references or []} - {
        owner.uid for owner in after.owner_references or []
    }
    return bool(lost) or before.labels != after.labels or before.deletion_timestamp != after.deletion_timestamp


def _owns(model: DynamoModel, service: ObjectMeta) -> bool:
    return any(owner.uid == model.metadata.uid for owner in service.owner_references or [])


def _hash(service: ObjectMeta) -> str:
    return (service.labels or {}).get(BASE_MODEL_HASH_LABEL, "")


def _is_ours(service: ObjectMeta) -> bool:
    return (service.labels or {}).get(_MANAGED_BY) == _MANAGER


def _owner(model: DynamoModel) -> dict[str, object]:
    meta = model.metadata
    return _as_sent(OwnerReference(api_version=API_VERSION, kind=KIND, name=meta.name, uid=meta.uid))


def _as_sent(owner: OwnerReference) -> dict[str, object]:
    return {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
