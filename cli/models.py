"""Reads DynamoModels for the commands that show them."""

from __future__ import annotations

from modelcache.api.model import DynamoModel
from modelcache.kube.client import KubeClient
from modelcache.kube.resources import DYNAMO_MODELS


async def list_models(client: KubeClient, namespace: str = "", name: str = "") -> list[DynamoModel]:
    """DynamoModels sorted by namespace and name; all namespaces when `namespace` is empty.

    Raises NotFound for a `name` that does not exist, KubeError when the API server does not answer.
    """
    if name:
        return [await client.get(DYNAMO_MODELS, name, namespace, into=DynamoModel)]
    models: list[DynamoModel] = []
    async for page in client.list_pages(DYNAMO_MODELS, namespace, into=DynamoModel):
        models.extend(page.objects)
    return sorted(models, key=lambda model: (model.metadata.namespace, model.metadata.name))
