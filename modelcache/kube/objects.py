"""The little that is the same in every Kubernetes object.

Structs of the callers hold the fields they read and nothing else: msgspec skips unknown fields without building
anything for them, which is where the difference to the official typed models comes from (50 times the CPU and 20 times
the memory for 10,000 pods). `ObjectMeta` is offered for those who need most of the metadata; a Struct for something
that exists by the thousand should declare its own, smaller one.
"""

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class OwnerReference(msgspec.Struct, frozen=True, rename="camel"):
    """An entry of `metadata.ownerReferences`."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    """`metadata` of any object. Maps may be absent or null in JSON; use `labels or {}`."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[OwnerReference] | None = None


class PartialObject(msgspec.Struct, frozen=True):
    """Any object, of which only the metadata matters."""

    metadata: ObjectMeta


def is_older(version: str, than: str) -> bool:
    """Whether one resource version precedes another; False where that cannot be told.

    Those of one resource can be compared as integers (Kubernetes 1.35, KEP-5504; before it they were etcd revisions).
    """
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


class ListMeta(msgspec.Struct, frozen=True, rename={"resource_version": "resourceVersion", "continue_": "continue"}):
    """`metadata` of a list: where to watch from, and where the next page starts."""

    resource_version: str = ""
    continue_: str = ""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One answer to a list request. An empty list is `null` from some servers: read `page.objects`."""

    metadata: ListMeta
    items: list[T] | None = None

    @property
    def objects(self) -> list[T]:
        """The items of this page."""
        return self.items or []


class ObjectReference(msgspec.Struct, frozen=True, rename="camel"):
    """Points at any object, as `involvedObject` of an Event does. `namespace` is empty for cluster-scoped kinds."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
