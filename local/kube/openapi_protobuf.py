"""`/openapi/v2` in protobuf: the least that keeps kubectl from giving up.

For a kind that it does not find in OpenAPI v3, kubectl asks the v2 document, which it reads in protobuf only, whether the
server validates fields itself: it looks for the query parameter `fieldValidation` of the kind's PATCH operation. So this
document holds those operations and nothing else. Field numbers: github.com/google/gnostic, openapiv2/OpenAPIv2.proto.
"""

from collections.abc import Iterable

from local.kube.protobuf import encode_fields
from local.kube.resources import Resource

# What clients ask for (the first is no valid media type, and deprecated), and what they are told they get.
ACCEPTED = (
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
)
MEDIA_TYPE = ACCEPTED[1]

_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")


def document(resources: Iterable[Resource]) -> bytes:
    """The Document message: swagger=1, info=2, paths=8."""
    info = encode_fields((1, "Kubernetes"), (2, "v1.36.0"))
    items = [encode_fields((2, _path(resource))) for resource in resources if "patch" in resource.verbs]
    return encode_fields((1, "2.0"), (2, info), (8, b"".join(items)))


def _path(resource: Resource) -> bytes:
    """A NamedPathItem: name=1, value=2 a PathItem with patch=8."""
    root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
    scope = "/namespaces/{namespace}" if resource.namespaced else ""
    item = encode_fields((8, _operation(resource)))
    return encode_fields((1, f"{root}{scope}/{resource.plural}/{{name}}"), (2, item))


def _operation(resource: Resource) -> bytes:
    """An Operation: parameters=8, vendor_extension=13 a NamedAny{name=1, value=2 Any{yaml=2}}."""
    kind = f"group: {resource.group!r}\nkind: {resource.kind}\nversion: {resource.version}\n"
    extension = encode_fields((1, "x-kubernetes-group-version-kind"), (2, encode_fields((2, kind))))
    return encode_fields(*((8, _query_parameter(name)) for name in _PARAMETERS), (13, extension))


def _query_parameter(name: str) -> bytes:
    """A ParametersItem{parameter=1 Parameter{non_body_parameter=2 NonBodyParameter{query=3 {in=2, name=4, type=6}}}}."""
    query = encode_fields((2, "query"), (4, name), (6, "string"))
    return encode_fields((1, encode_fields((2, encode_fields((3, query))))))
