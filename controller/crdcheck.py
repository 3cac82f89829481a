"""Is the DynamoModel CRD in this cluster the one that this controller was built for?

A cluster holds one CRD of this name, and the Dynamo operator ships one too, with fewer fields. With that one installed the
API server would silently drop `spec.version` or `spec.storage` from everything that users apply, and the status that we
write. Better to say so and not to start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelcache.api.base import GROUP, PLURAL, VERSION
from modelcache.api.crd import custom_resource_definition
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import NotFound
from modelcache.kube.resources import CRDS

CRD_NAME = f"{PLURAL}.{GROUP}"
_FIELDS_SHOWN = 8
_REMEDY = "apply manifests/crd (kubectl apply --server-side -k manifests/crd)"


class CRDError(Exception):
    """The installed CRD cannot be used; the message says why and what to do."""


async def check_crd(client: KubeClient) -> None:
    """Raises CRDError when the CRD is missing or another one, KubeError when the cluster cannot be asked."""
    try:
        installed = await client.get(CRDS, CRD_NAME, into=dict[str, Any])
    except NotFound:
        raise CRDError(
            f"the CustomResourceDefinition {CRD_NAME} is not installed in {client.server}: {_REMEDY}"
        ) from None
    problem = difference(installed)
    if problem:
        raise CRDError(f"the CustomResourceDefinition {CRD_NAME} in {client.server} {problem}")


def difference(installed: Mapping[str, Any]) -> str | None:
    """What an installed CRD lacks, as the end of a sentence; None when it has all that is needed (it may have more)."""
    version = _version(installed)
    if version is None:
        return f"does not serve version {VERSION}; {_REMEDY}"
    if "status" not in version.get("subresources", {}):
        return f"has no status subresource; it belongs to something else. To use this controller, {_REMEDY}"
    ours = _version(custom_resource_definition())
    assert ours is not None
    present = set(field_paths(_schema(version)))
    missing = [path for path in field_paths(_schema(ours)) if path not in present]
    if not missing:
        return None
    shown = ", ".join(missing[:_FIELDS_SHOWN]) + (" and more" if len(missing) > _FIELDS_SHOWN else "")
    return (
        f"lacks the fields {shown}: it is that of another controller or of an older version, and the API server would "
        f"silently drop these fields. It can be replaced: {_REMEDY}; ours has all published fields of the other one"
    )


def field_paths(schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all properties of a structural schema: `spec.source.uri`, items of lists without an index."""
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path
        yield from field_paths(child, f"{path}.")
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from field_paths(items, prefix)


def _version(definition: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for version in definition.get("spec", {}).get("versions", []):
        if version.get("name") == VERSION and version.get("served"):
            return dict(version)
    return None


def _schema(version: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(version.get("schema", {}).get("openAPIV3Schema", {}))
