"""Kinds of objects as the API server addresses them, and the ones this project uses.

A `ResourceType` is only an address: group, version, plural. What an object contains is up to the caller, who decodes
it into a Struct that holds just the fields it reads.

Names come from objects that users write (a `secretRef.name`, a label turned into a node name), so paths are built here
and nowhere else: every segment is percent-encoded, and what the API server would refuse as a path segment is refused
before anything is sent; `../../secrets/x` never becomes part of a URL.
"""

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from modelcache.kube.errors import Invalid, printable


class ObjectKey(NamedTuple):
    """Which object of a kind: `namespace` is empty for cluster-scoped kinds. Sorts by namespace, then name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One kind of object in one API version. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """As in a manifest: `v1`, `nvidia.com/v1alpha1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As in `kubectl get`: `pods`, `dynamomodels.nvidia.com`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """URL path of one object (`name` given) or of the collection, percent-encoded.

        A namespaced kind without `namespace` addresses the collection over all namespaces. Raises Invalid for a name that
        cannot be a path segment, for an object of a namespaced kind without namespace, and the other way round.
        """
        if namespace and not self.namespaced:
            raise self._unaddressable(name, namespace, "this kind has no namespace")
        if name and self.namespaced and not namespace:
            raise self._unaddressable(name, namespace, "the namespace is missing")
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = ["namespaces", namespace, self.plural] if namespace else [self.plural]
        parts += [part for part in (name, subresource) if part]
        for part in (name, namespace):
            if not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
                raise self._unaddressable(name, namespace, "names are Unicode text")  # JSON can hold half a character
            # The same four rules as the API server's IsValidPathSegmentName.
            if part in (".", "..") or "/" in part or "%" in part:
                raise self._unaddressable(name, namespace, "names cannot be '.' or '..' or contain '/' or '%'")
        return "/".join([root, *(quote(part, safe="") for part in parts)])

    def describe(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """For messages: `pods "team-a/web-0"`, `dynamomodels.nvidia.com/status "team-a/llama"`, `nodes`."""
        kind = f"{self.qualified}/{subresource}" if subresource else self.qualified
        if name:
            return f'{kind} "{printable(str(ObjectKey(namespace, name)), 300)}"'
        return f'{kind} in namespace "{printable(namespace, 100)}"' if namespace else kind

    def _unaddressable(self, name: str, namespace: str, reason: str) -> Invalid:
        return Invalid(reason, verb="address", subject=self.describe(name, namespace))


DYNAMO_MODELS = ResourceType("nvidia.com", "v1alpha1", "dynamomodels", "DynamoModel", True)
NODES = ResourceType("", "v1", "nodes", "Node", False)
NAMESPACES = ResourceType("", "v1", "namespaces", "Namespace", False)
PODS = ResourceType("", "v1", "pods", "Pod", True)
SECRETS = ResourceType("", "v1", "secrets", "Secret", True)
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
CONFIG_MAPS = ResourceType("", "v1", "configmaps", "ConfigMap", True)
SERVICES = ResourceType("", "v1", "services", "Service", True)
PERSISTENT_VOLUME_CLAIMS = ResourceType("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True)
PERSISTENT_VOLUMES = ResourceType("", "v1", "persistentvolumes", "PersistentVolume", False)
EVENTS = ResourceType("", "v1", "events", "Event", True)
ENDPOINT_SLICES = ResourceType("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
LEASES = ResourceType("coordination.k8s.io", "v1", "leases", "Lease", True)
CRDS = ResourceType("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
