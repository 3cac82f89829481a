"""How objects look on the wire: as themselves, as their metadata only, or as rows of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from local.kube.conversion import encoded, view
from local.kube.errors import ApiError
from local.kube.resources import Resource
from local.kube.store import Object, Stored
from local.kube.table import render_table

PLAIN, METADATA, TABLE = "", "PartialObjectMetadata", "Table"
_META = "meta.k8s.io/v1"


@dataclass(frozen=True)
class Presentation:
    """The representation that the client accepted. `include` is the Table's includeObject parameter."""

    form: str
    include: str
    clock: Callable[[], datetime]

    def object(self, resource: Resource, obj: Object) -> bytes:
        """One object."""
        if self.form == METADATA:
            return msgspec.json.encode(_partial(obj))
        if self.form == TABLE:
            table = render_table(resource, [obj], self.include, self.clock())
            table["metadata"] = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return msgspec.json.encode(table)
        return msgspec.json.encode(obj)

    def list(self, resource: Resource, items: Sequence[Stored], metadata: Mapping[str, Any]) -> bytes:
        """A collection with its list metadata."""
        if self.form == TABLE:
            table = render_table(resource, [view(resource, stored) for stored in items], self.include, self.clock())
            table["metadata"] = dict(metadata)
            return msgspec.json.encode(table)
        if self.form == METADATA:
            kind, api_version = "PartialObjectMetadataList", _META
            parts = [msgspec.json.encode(_partial(view(resource, stored))) for stored in items]
        else:
            kind, api_version = resource.list_kind, resource.api_version
            parts = [encoded(resource, stored, in_list=True) for stored in items]
        head = msgspec.json.encode({"kind": kind, "apiVersion": api_version, "metadata": dict(metadata)})
        return head[:-1] + b',"items":[' + b",".join(parts) + b"]}\n"

    def events(self, resource: Resource) -> "EventEncoder":
        """The same for the events of one watch."""
        return EventEncoder(self, resource)


class EventEncoder:
    """Encodes watch events; one per watch, because a table sends its column definitions only once."""

    def __init__(self, presentation: Presentation, resource: Resource) -> None:
        self._presentation = presentation
        self._resource = resource
        self._columns_sent = False

    def event(self, kind: str, stored: Stored) -> bytes:
        """One event about an object."""
        if self._presentation.form == PLAIN:
            return _event(kind, encoded(self._resource, stored))
        obj = view(self._resource, stored)
        if self._presentation.form == METADATA:
            return _event(kind, msgspec.json.encode(_partial(obj)))
        return _event(kind, self._table(obj))

    def _table(self, obj: Object) -> bytes:
        table = render_table(self._resource, [obj], self._presentation.include, self._presentation.clock())
        table["metadata"] = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        if self._columns_sent:
            table["columnDefinitions"] = None
        self._columns_sent = True
        return msgspec.json.encode(table)

    def bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        """One bookmark: an object of the watched kind that has nothing but a version."""
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if annotations:
            metadata["annotations"] = annotations
        kind, api_version = self._resource.kind, self._resource.api_version
        if self._presentation.form != PLAIN:
            kind, api_version = self._presentation.form, _META
        obj: Object = {"kind": kind, "apiVersion": api_version, "metadata": metadata}
        if self._presentation.form == TABLE:
            obj |= {"columnDefinitions": None, "rows": []}
        return _event("BOOKMARK", msgspec.json.encode(obj))

    def error(self, error: ApiError) -> bytes:
        """One error."""
        return _event("ERROR", msgspec.json.encode(error.status))


def _event(kind: str, encoded_object: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + encoded_object + b"}\n"


def _partial(obj: Object) -> Object:
    return {"kind": METADATA, "apiVersion": _META, "metadata": obj["metadata"]}
