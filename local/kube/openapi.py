"""The OpenAPI documents that `/openapi/v3` and `/openapi/v2` serve, made from the served resources.

kubectl reads them for three things: `explain` (descriptions, and the way from a resource to its schema), the merge keys
of a strategic merge patch that `apply` builds, and the question whether the server validates fields itself: it looks for
the query parameter `fieldValidation` on the PATCH operation of the kind. The Python client does not read them. So
operations carry what names them and their parameters, and components carry everything.

All functions are pure; the caller keeps their results until the set of resources changes.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from local.kube import builtin_schemas as builtin
from local.kube.object_meta import API_VERSION, KIND
from local.kube.resources import Resource

Document = dict[str, Any]

_REF = "#/components/schemas/"
_GVK = "x-kubernetes-group-version-kind"
_JSON = "application/json"
_CUSTOM_PATCH_TYPES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
# kubectl takes the last one for a promise that the server knows merge keys.
_PATCH_TYPES = (*_CUSTOM_PATCH_TYPES, "application/strategic-merge-patch+json")
_INFO = {"title": "Kubernetes", "version": "v1.36.0"}

_QUERY = {
    "allowWatchBookmarks": ("boolean", "Send bookmark events in a watch."),
    "continue": ("string", "Token of the next page, from the previous one."),
    "dryRun": ("string", "`All`: process the request without storing anything."),
    "fieldManager": ("string", "Name of whoever makes the change, for managedFields."),
    "fieldSelector": ("string", "Only objects whose fields match."),
    "fieldValidation": ("string", "What to do with unknown or duplicate fields: Ignore, Warn or Strict."),
    "force": ("boolean", "Take over fields of other managers in an apply."),
    "gracePeriodSeconds": ("integer", "Seconds before the object is removed."),
    "labelSelector": ("string", "Only objects whose labels match."),
    "limit": ("integer", "Size of a page."),
    "orphanDependents": ("boolean", "Replaced by propagationPolicy."),
    "pretty": ("string", "`true`: indent the answer."),
    "propagationPolicy": ("string", "Orphan, Background or Foreground."),
    "resourceVersion": ("string", "Version to read at or to watch from."),
    "resourceVersionMatch": ("string", "How to apply resourceVersion to a list."),
    "sendInitialEvents": ("boolean", "Begin a watch with the existing objects."),
    "timeoutSeconds": ("integer", "Limit of the call's duration."),
    "watch": ("boolean", "Stream changes instead of listing."),
}
_LIST_QUERY = (
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "pretty",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
)
_WRITE_QUERY = ("pretty", "dryRun", "fieldManager", "fieldValidation")
_DELETE_QUERY = ("pretty", "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")


def openapi_v3_index(resources: Iterable[Resource]) -> Document:
    """The answer to `/openapi/v3`: where the document of every group version is.

    The hash in a URL changes with the document, so that clients may keep a document for as long as its URL lives.
    """
    by_version: dict[tuple[str, str], list[Resource]] = {}
    for resource in resources:
        by_version.setdefault((resource.group, resource.version), []).append(resource)
    paths = {}
    for (group, version), members in sorted(by_version.items()):
        root = _root(group, version).removeprefix("/")
        paths[root] = {"serverRelativeURL": f"/openapi/v3/{root}?hash={_digest(members)}"}
    return {"paths": paths}


def openapi_v3_document(group_version: str, resources: Iterable[Resource]) -> Document:
    """The OpenAPI v3 document of one group version (`v1`, `apps/v1`), with all components that it refers to.

    Raises KeyError when no resource is served there.
    """
    members = [resource for resource in resources if resource.api_version == group_version]
    if not members:
        raise KeyError(group_version)
    return _document(members)


def openapi_v2(resources: Iterable[Resource]) -> Document:
    """One Swagger 2.0 document for everything, for older clients."""
    document = _document(list(resources))
    definitions = {name: _to_v2(schema) for name, schema in document["components"]["schemas"].items()}
    definitions[builtin.INT_OR_STRING] = {
        "type": "string",
        "format": "int-or-string",
        "description": definitions.get(builtin.INT_OR_STRING, {}).get("description", ""),
    }
    definitions[builtin.QUANTITY] = {
        "type": "string",
        "description": definitions.get(builtin.QUANTITY, {}).get("description", ""),
    }
    paths = {path: _path_to_v2(item) for path, item in document["paths"].items()}
    return {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": definitions}


def component_of(resource: Resource) -> str:
    """`io.k8s.api.core.v1.Pod`, or `com.nvidia.v1alpha1.DynamoModel`: the group's domain backwards."""
    if not resource.custom:
        return builtin.component_name(resource.group, resource.kind)
    return ".".join((*reversed(resource.group.split(".")), resource.version, resource.kind))


def _root(group: str, version: str) -> str:
    return f"/apis/{group}/{version}" if group else f"/api/{version}"


def _digest(members: list[Resource]) -> str:
    content = [(r.plural, r.kind, r.namespaced, r.verbs, sorted(r.subresources), r.schema) for r in members]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest().upper()


def _document(members: list[Resource]) -> Document:
    paths: dict[str, Any] = {}
    known: dict[str, Any] = {**builtin.component_schemas()}
    for resource in members:
        paths.update(_paths(resource))
        known.update(_kind_components(resource))
    wanted: dict[str, Any] = {}
    pending = list(_references(paths)) + [component_of(resource) for resource in members]
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted[name] = known[name]
            pending += _references(known[name])
    schemas = {name: wanted[name] for name in sorted(wanted)}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": schemas}}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "$ref" and isinstance(item, str):
                yield item.removeprefix(_REF)
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _ref(component: str) -> Document:
    return {"$ref": _REF + component}


def _kind_components(resource: Resource) -> dict[str, Document]:
    """The component of the kind, marked with its group, version and kind, and that of its list."""
    name = component_of(resource)
    schema = _custom_schema(resource) if resource.custom else dict(builtin.component_schemas()[name])
    schema[_GVK] = [_gvk(resource.group, resource.version, resource.kind)]
    components = {name: schema}
    if "list" in resource.verbs:
        components[_list_component(resource)] = {
            "type": "object",
            "description": f"A list of {resource.kind}.",
            "required": ["items"],
            "properties": {
                "apiVersion": API_VERSION,
                "items": {"type": "array", "description": f"The {resource.plural}.", "items": _ref(name)},
                "kind": KIND,
                "metadata": {**_ref_to_meta("ListMeta"), "description": "Metadata of the list."},
            },
            _GVK: [_gvk(resource.group, resource.version, resource.list_kind)],
        }
    return components


def _ref_to_meta(kind: str) -> Document:
    return {"allOf": [_ref(f"{builtin.META_PREFIX}.{kind}")]}


def _list_component(resource: Resource) -> str:
    return component_of(resource).removesuffix(resource.kind) + resource.list_kind


def _custom_schema(resource: Resource) -> Document:
    schema = copy.deepcopy(resource.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    schema["properties"] = {
        **schema.get("properties", {}),
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {**_ref_to_meta("ObjectMeta"), "description": "Metadata of the object."},
    }
    return schema


def _gvk(group: str, version: str, kind: str) -> dict[str, str]:
    return {"group": group, "kind": kind, "version": version}


def _paths(resource: Resource) -> dict[str, Any]:
    """Path items of a resource: the collection, one object, its subresources, and the list over all namespaces."""
    root = _root(resource.group, resource.version)
    scope = "/namespaces/{namespace}" if resource.namespaced else ""
    collection = f"{root}{scope}/{resource.plural}"
    one = f"{collection}/{{name}}"
    kind = component_of(resource)
    paths: dict[str, Any] = {
        collection: {
            "get": _operation(resource, "list", _LIST_QUERY, answer=_list_component(resource)),
            "post": _operation(resource, "create", _WRITE_QUERY, body=kind, answer=kind),
            "delete": _operation(resource, "deletecollection", (*_DELETE_QUERY, *_LIST_QUERY[:7]), answer="Status"),
        },
        one: {
            "get": _operation(resource, "get", ("pretty",), answer=kind),
            "put": _operation(resource, "update", _WRITE_QUERY, body=kind, answer=kind),
            "patch": _operation(resource, "patch", (*_WRITE_QUERY, "force"), body="Patch", answer=kind),
            "delete": _operation(resource, "delete", _DELETE_QUERY, body="DeleteOptions", answer="Status"),
        },
    }
    if resource.namespaced:
        paths[f"{root}/{resource.plural}"] = {
            "get": _operation(resource, "list", _LIST_QUERY, answer=_list_component(resource))
        }
    for name, below in resource.subresources.items():
        speaks = below.kind and builtin.component_name(below.group, below.kind)
        gvk = _gvk(below.group, below.version, below.kind) if below.kind else None
        paths[f"{one}/{name}"] = {
            method: _operation(resource, verb, query, body=body or speaks or kind, answer=speaks or kind, gvk=gvk)
            for verb, method, query, body in (
                ("get", "get", ("pretty",), ""),
                ("create", "post", _WRITE_QUERY, ""),
                ("update", "put", _WRITE_QUERY, ""),
                ("patch", "patch", (*_WRITE_QUERY, "force"), "Patch"),
            )
            if verb in below.verbs
        }
    for path, item in paths.items():
        served = {method: operation for method, operation in item.items() if operation is not None}
        parameters = [_path_parameter(part) for part in ("name", "namespace") if f"{{{part}}}" in path]
        for method, operation in served.items():
            operation["operationId"] = _operation_id(method, path)
        item.clear()
        item.update(served)
        if served and parameters:
            item["parameters"] = parameters
    return {path: item for path, item in paths.items() if item}


_ACTIONS = {"create": "post", "update": "put"}


def _operation(
    resource: Resource,
    verb: str,
    query: tuple[str, ...],
    *,
    answer: str,
    body: str = "",
    gvk: dict[str, str] | None = None,
) -> Document | None:
    """One operation, or None when the resource does not have the verb."""
    if gvk is None and verb not in resource.verbs:
        return None
    operation: Document = {
        "description": f"{verb} {resource.plural}",
        "tags": [f"{resource.group.split('.')[0] or 'core'}_{resource.version}"],
        "parameters": [_query_parameter(name) for name in query],
        "responses": {
            "200": {"description": "OK", "content": {_JSON: {"schema": _ref(_meta_or_component(answer))}}},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": _ACTIONS.get(verb, verb),
        _GVK: gvk or _gvk(resource.group, resource.version, resource.kind),
    }
    if body and verb not in ("get", "list"):
        patch_types = _CUSTOM_PATCH_TYPES if resource.custom else _PATCH_TYPES
        types = patch_types if body == "Patch" else (_JSON,)
        schema = _ref(_meta_or_component(body))
        operation["requestBody"] = {
            "content": {kind: {"schema": schema} for kind in types},
            "required": verb != "delete",
        }
    return operation


def _meta_or_component(name: str) -> str:
    return name if "." in name else f"{builtin.META_PREFIX}.{name}"


def _operation_id(verb: str, path: str) -> str:
    """Unique within all documents: the verb and the path, in camel case."""
    return verb + "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", path))


def _query_parameter(name: str) -> Document:
    kind, description = _QUERY[name]
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": True}}


def _path_parameter(name: str) -> Document:
    description = "Name of the object." if name == "name" else "Namespace of the object."
    schema = {"type": "string", "uniqueItems": True}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


# Keywords of OpenAPI v3 that Swagger 2.0 does not have; the real server drops them as well.
_V3_ONLY = frozenset({"anyOf", "oneOf", "not", "nullable", "x-kubernetes-validations", "x-kubernetes-int-or-string"})


def _to_v2(schema: Any, *, is_schema: bool = True) -> Any:
    """A component in Swagger 2.0. `is_schema` is False inside `properties`, where keys are names, not keywords."""
    if isinstance(schema, list):
        return [_to_v2(item) for item in schema]
    if not isinstance(schema, dict):
        return schema.replace(_REF, "#/definitions/") if isinstance(schema, str) else schema
    converted: Document = {}
    for key, item in schema.items():
        if is_schema and key in _V3_ONLY:
            continue
        if is_schema and key == "allOf" and len(item) == 1 and "$ref" in item[0]:
            converted["$ref"] = _to_v2(item[0]["$ref"])
        elif is_schema and key in ("default", "enum", "example", "required"):
            converted[key] = item
        else:
            converted[key] = _to_v2(item, is_schema=key != "properties" or not is_schema)
    return converted


def _path_to_v2(item: Document) -> Document:
    converted: Document = {}
    for method, operation in item.items():
        if method == "parameters":
            converted[method] = [_parameter_to_v2(parameter) for parameter in operation]
            continue
        old = dict(operation)
        parameters = [_parameter_to_v2(parameter) for parameter in old.pop("parameters", ())]
        body = old.pop("requestBody", None)
        if body is not None:
            consumes = sorted(body["content"])
            schema = _to_v2(body["content"][consumes[0]]["schema"])
            parameters.insert(0, {"name": "body", "in": "body", "required": body["required"], "schema": schema})
            old["consumes"] = consumes
        old["parameters"] = parameters
        old["produces"] = [_JSON]
        old["responses"] = {code: _response_to_v2(response) for code, response in old["responses"].items()}
        converted[method] = old
    return converted


def _parameter_to_v2(parameter: Document) -> Document:
    return {**{key: item for key, item in parameter.items() if key != "schema"}, **parameter["schema"]}


def _response_to_v2(response: Document) -> Document:
    content = response.get("content")
    converted = {"description": response["description"]}
    return {**converted, "schema": _to_v2(content[_JSON]["schema"])} if content else converted
