"""From a URL path to what it is about (k8s.io/apiserver/pkg/endpoints/request/requestinfo.go).

    /api/v1/<plural>[/<name>[/<subresource>]]
    /apis/<group>/<version>/[namespaces/<namespace>/]<plural>[/<name>[/<subresource>]]

A path that names nothing served is None, and the answer is the plain 404 page.
"""

from dataclasses import dataclass
from urllib.parse import unquote

from local.kube.registry import Registry
from local.kube.resources import Resource


@dataclass(frozen=True)
class Route:
    """What a path is about. `everywhere`: a namespaced collection without a namespace in the path."""

    resource: Resource
    namespace: str
    name: str
    subresource: str
    everywhere: bool
    # The deprecated /watch/ prefix: a list that watches.
    watch: bool


def parse(raw_path: str, registry: Registry) -> Route | None:
    """The route of a percent-encoded path below `/api/` or `/apis/`."""
    segments = [unquote(segment) for segment in raw_path.strip("/").split("/")]
    if segments[0] == "api":
        group, segments = "", segments[1:]
    elif segments[0] == "apis" and len(segments) > 1:
        group, segments = segments[1], segments[2:]
    else:
        return None
    if not segments or not all(segments):
        return None
    version, *segments = segments
    watch = bool(segments) and segments[0] == "watch"
    return _in_version(registry, group, version, segments[1:] if watch else segments, watch=watch)


def _in_version(registry: Registry, group: str, version: str, segments: list[str], *, watch: bool) -> Route | None:
    namespace = ""
    if len(segments) >= 3 and segments[0] == "namespaces":
        # /namespaces/x/status is about the Namespace, /namespaces/x/pods about the pods in it.
        owner = registry.find(group, version, "namespaces")
        if owner is None or segments[2] not in owner.subresources or len(segments) > 3:
            namespace, segments = segments[1], segments[2:]
    if not 1 <= len(segments) <= 3:
        return None
    resource = registry.find(group, version, segments[0])
    if resource is None:
        return None
    name = segments[1] if len(segments) > 1 else ""
    subresource = segments[2] if len(segments) > 2 else ""
    everywhere = resource.namespaced and not namespace
    if (everywhere and name) or (namespace and not resource.namespaced):
        return None
    if subresource and subresource not in resource.subresources:
        return None
    return Route(resource, namespace, name, subresource, everywhere, watch)
