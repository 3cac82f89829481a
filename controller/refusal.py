"""A DynamoModel that cannot be read: the API server accepted it, but its spec does not fit this version's types.

That happens with an object stored under an older CRD, or written by a newer one. What is on the nodes stays as it is, the
user is told once, and it can be deleted like any other: for that, its metadata is enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from controller.conditions import MAX_MESSAGE
from controller.problems import rfc3339
from modelcache.api.model import DynamoModel
from modelcache.api.spec import Spec
from modelcache.api.status import Condition, Status
from modelcache.kube.cache import Invalid
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import NotFound, printable
from modelcache.kube.objects import PartialObject
from modelcache.kube.resources import DYNAMO_MODELS, ObjectKey

_log = logging.getLogger(__name__)


class Refusal:
    """Tells users about objects that cannot be read."""

    def __init__(self, client: KubeClient, wall: Callable[[], datetime]) -> None:
        self._client = client
        self._wall = wall
        self._told: dict[ObjectKey, tuple[str, str]] = {}

    async def step(self, key: ObjectKey, invalid: Invalid) -> DynamoModel | None:
        """Tell the user, once for each reason. Returns a stand-in if the object is being deleted. Raises KubeError."""
        try:
            found = await self._client.get(DYNAMO_MODELS, key.name, key.namespace, into=PartialObject)
        except NotFound:
            return None
        if found.metadata.deletion_timestamp is not None:
            self._told.pop(key, None)
            return DynamoModel(metadata=found.metadata, spec=Spec(model_name=key.name))
        content = (invalid.uid, invalid.reason)
        if self._told.get(key) == content:
            return None
        message = printable(f"The spec cannot be understood by this version: {invalid.reason}", MAX_MESSAGE)
        _log.error("%s: left as it is: %s", key, message)
        condition = Condition(
            type="Ready",
            status="False",
            last_transition_time=rfc3339(self._wall()),
            reason="InvalidSpec",
            message=message,
        )
        status = Status(ready_endpoints=0, total_endpoints=0, phase="Failed", conditions=(condition,))
        self._told[key] = content
        await self._client.merge_patch(DYNAMO_MODELS, key.name, {"status": status}, key.namespace, subresource="status")
        return None
