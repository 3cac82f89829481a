"""DynamoModel (nvidia.com/v1alpha1) in Python.

The resource is a superset of two published shapes: the one that the Dynamo operator ships (model and endpoint tracking)
and the caching proposal (version, source, storage, verification). Fields of the proposal that make no sense on node-local
disk (`storage.pvc`, `downloader`) are accepted, so that existing manifests apply unchanged, and have no effect.

These types are the only definition: `modelcache.api.crd` generates the CustomResourceDefinition from them, descriptions
and limits included.
"""

from __future__ import annotations

import msgspec

from modelcache.api.base import Base
from modelcache.api.spec import Spec
from modelcache.api.status import Status
from modelcache.kube.objects import ObjectMeta


class DynamoModel(Base, frozen=True, kw_only=True):
    """A DynamoModel as the API server returns it."""

    metadata: ObjectMeta
    spec: Spec
    # Raw: a status that somebody else wrote must not make the object unreadable.
    status: msgspec.Raw = msgspec.Raw(b"null")

    def last_status(self) -> Status | None:
        """The status as last written; None when there is none, or none that this version understands."""
        try:
            return msgspec.json.decode(self.status, type=Status | None)
        except msgspec.DecodeError:
            return None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def deleting(self) -> bool:
        """Whether the user has deleted it and finalizers are still there."""
        return self.metadata.deletion_timestamp is not None
