"""What the parts of the DynamoModel API share: the group and kind, the common form of its types."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

GROUP = "nvidia.com"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DynamoModel"
PLURAL = "dynamomodels"

Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 in UTC with whole seconds, as Kubernetes writes metav1.Time."""


class Base(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What the types of the API have in common: immutable, camelCase on the wire, defaults left out."""
