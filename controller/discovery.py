"""What each DynamoModel has to do with worker pods: which ones serve its base model, and what they are to load.

A lora is meant for every worker of its base model in its namespace, and only for those; a model of another type only has
its endpoints counted. Two loras of one name would overwrite each other in the same pods, so only the one that was created
first gets them; the other one says so in its status.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from controller.facts import Serving
from controller.services import HeadlessServices, matters
from controller.tracked import AdapterOrder
from controller.workers import Worker, Workers
from modelcache.api.labels import BASE_MODEL_HASH_LABEL, base_model_hash
from modelcache.api.model import DynamoModel
from modelcache.api.spec import Spec
from modelcache.kube.informer import Informer
from modelcache.kube.objects import PartialObject
from modelcache.kube.resources import ObjectKey
from modelcache.sources.errors import InvalidURI
from modelcache.sources.uri import parse_uri

LORA = "lora"
_BY_BASE = "base model"


def base_model_of(spec: Spec) -> str:
    """The base model whose workers a DynamoModel belongs to."""
    return spec.base_model_name or spec.model_name


def first_claimant(model: DynamoModel, models: Iterable[DynamoModel]) -> DynamoModel:
    """Of those among `models` that load an adapter of the same name into the same pods as `model`: the oldest."""
    claim = _claim(model)
    rivals = [other for other in models if other.spec.model_type == LORA and _claim(other) == claim]
    return min([model, *rivals], key=lambda m: (m.metadata.creation_timestamp or "", m.metadata.name))


def source_for_engines(spec: Spec) -> str:
    """What an engine that does not see the cache is told to load: the source as the user wrote it.

    A `spec.version` beside an hf:// URI would be lost on the engine, so it is written into the URI.
    """
    if spec.source is None:
        return ""
    try:
        parsed = parse_uri(spec.source.uri)
    except InvalidURI:
        return spec.source.uri
    bare = parsed.scheme == "hf" and parsed.revision is None
    return f"{spec.source.uri}@{spec.version}" if bare and spec.version else spec.source.uri


def adapter_order(model: DynamoModel, serving: Serving) -> AdapterOrder | None:
    """What agents are told about the adapter; None for a model that is none."""
    if model.spec.model_type != LORA:
        return None
    pods: dict[str, list[str]] = {}
    if not serving.rival:
        for worker in serving.workers or ():
            if not worker.ending:
                pods.setdefault(worker.node, []).append(worker.uid)
    return AdapterOrder(
        lora_name=model.spec.model_name,
        base_model_name=serving.base_model,
        source_uri=source_for_engines(model.spec),
        model_uid=model.metadata.uid,
        pods={node: tuple(sorted(uids)) for node, uids in sorted(pods.items())},
    )


def nodes_of(serving: Serving, before: Collection[str]) -> frozenset[str]:
    """The nodes that a lora follows its pods to; while pods cannot be read, those where it was `before`.

    A pod that is being deleted keeps its node until it is gone: its successor is often made on the same one.
    """
    if serving.workers is None:
        return frozenset(before)
    return frozenset(worker.node for worker in serving.workers)


class Discovery:
    """Finds the workers of DynamoModels, and the DynamoModels of workers."""

    def __init__(self, models: Informer[DynamoModel], workers: Workers, services: HeadlessServices) -> None:
        """To be called before `models` runs: it declares an index."""
        self._models = models
        self._workers = workers
        self._services = services
        models.index(_BY_BASE, _bases)

    def look(self, model: DynamoModel) -> Serving:
        """The workers as they are known; asks nobody."""
        namespace, base = model.metadata.namespace, base_model_of(model.spec)
        lora = model.spec.model_name if model.spec.model_type == LORA else ""
        rival = first_claimant(model, self._siblings(namespace, base)).metadata.name if lora else ""
        return Serving(
            base_model=base,
            lora=lora,
            workers=self._workers.serving(namespace, base),
            problem=self._workers.problem,
            rival="" if rival == model.metadata.name else rival,
            services=self._services.count(namespace, base),
        )

    async def provide(self, model: DynamoModel) -> str:
        """See that there is a Service for the workers. Why that failed, empty when it did not. Never raises."""
        base = base_model_of(model.spec)
        return await self._services.ensure(model, base, self._siblings(model.metadata.namespace, base))

    def models_of(self, worker: Worker) -> list[ObjectKey]:
        """The DynamoModels that a worker concerns."""
        return self._keys(worker.namespace, worker.base_hash)

    def models_of_service(self, old: PartialObject | None, new: PartialObject | None) -> list[ObjectKey]:
        """The DynamoModels that a change of a Service concerns, which stands in front of their workers.

        If it only got an owner, that is those that are still missing.
        """
        namespace = next(service.metadata.namespace for service in (new, old) if service is not None)
        hashes = {(s.metadata.labels or {}).get(BASE_MODEL_HASH_LABEL, "") for s in (old, new) if s is not None}
        found = [m for base in hashes for m in self._models.lookup(_BY_BASE, f"{namespace}/{base}")]
        if new is not None and not matters(old, new):
            owners = {owner.uid for owner in new.metadata.owner_references or []}
            found = [model for model in found if model.metadata.uid not in owners]
        return [ObjectKey(namespace, model.metadata.name) for model in found]

    def siblings_of(self, model: DynamoModel) -> list[ObjectKey]:
        """The DynamoModels with the same base model, itself included."""
        return self._keys(model.metadata.namespace, base_model_hash(base_model_of(model.spec)))

    def _keys(self, namespace: str, base_hash: str) -> list[ObjectKey]:
        found = self._models.lookup(_BY_BASE, f"{namespace}/{base_hash}")
        return [ObjectKey(namespace, model.metadata.name) for model in found]

    def _siblings(self, namespace: str, base: str) -> list[DynamoModel]:
        return self._models.lookup(_BY_BASE, f"{namespace}/{base_model_hash(base)}")


def _bases(model: DynamoModel) -> list[str]:
    return [f"{model.metadata.namespace}/{base_model_hash(base_model_of(model.spec))}"]


def _claim(model: DynamoModel) -> tuple[str, str, str]:
    return (model.metadata.namespace, base_model_of(model.spec), model.spec.model_name)
