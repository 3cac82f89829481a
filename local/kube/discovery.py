"""Discovery: what is served, in the unaggregated form (one document per group version) and the aggregated one.

Clients cache these documents and derive everything else from them: which path a kind has, its short names, its verbs.
"""

import base64
from typing import Any

import xxhash

from local.kube.registry import Registry
from local.kube.resources import Resource, Subresource

GIT_VERSION = "v1.36.0"


def version() -> dict[str, str]:
    """`/version`: the Kubernetes version whose behaviour this server has."""
    _, major, minor = GIT_VERSION.partition(".")[0], "1", GIT_VERSION.split(".")[1]
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-04-22T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def core_versions(address: str) -> dict[str, Any]:
    """`/api`."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(registry: Registry) -> dict[str, Any]:
    """`/apis`."""
    groups = [_group(group, versions) for group, versions in registry.groups().items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> dict[str, Any] | None:
    """`/apis/<group>`; None for a group that is not served."""
    versions = registry.groups().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if name and versions else None


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(registry: Registry, group_name: str, version_name: str) -> dict[str, Any] | None:
    """`/api/v1` and `/apis/<group>/<version>`; None for what is not served."""
    resources = registry.in_version(group_name, version_name)
    if not resources:
        return None
    listed = []
    for resource in resources:
        listed.append(_resource(resource))
        listed += [_subresource(resource, name, sub) for name, sub in sorted(resource.subresources.items())]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": resources[0].api_version,
        "resources": listed,
    }


def _resource(resource: Resource) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        listed["shortNames"] = list(resource.short_names)
    if resource.categories:
        listed["categories"] = list(resource.categories)
    if "list" in resource.verbs:
        # Clients compare it to see whether two paths share one storage; any stable digest will do.
        digest = xxhash.xxh64_digest(resource.storage_key.encode())
        listed["storageVersionHash"] = base64.b64encode(digest).decode()
    return listed


def _subresource(resource: Resource, name: str, sub: Subresource) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind or resource.kind,
        "verbs": list(sub.verbs),
    }
    if sub.kind and sub.version and (sub.group, sub.version) != (resource.group, resource.version):
        listed |= {"group": sub.group, "version": sub.version}
    return listed


def aggregated(registry: Registry, *, core: bool) -> dict[str, Any]:
    """`/api` or `/apis` as APIGroupDiscoveryList: everything in one document."""
    items = []
    for name, versions in registry.groups().items():
        if (name == "") == core:
            items.append(
                {
                    "metadata": {"name": name} if name else {},
                    "versions": [
                        {
                            "version": version_name,
                            "resources": [_aggregated_resource(r) for r in registry.in_version(name, version_name)],
                            "freshness": "Current",
                        }
                        for version_name in versions
                    ],
                }
            )
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _aggregated_resource(resource: Resource) -> dict[str, Any]:
    listed: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        listed["shortNames"] = list(resource.short_names)
    if resource.categories:
        listed["categories"] = list(resource.categories)
    if resource.subresources:
        listed["subresources"] = [
            {
                "subresource": name,
                "responseKind": {
                    "group": sub.group if sub.kind else resource.group,
                    "version": sub.version if sub.kind else resource.version,
                    "kind": sub.kind or resource.kind,
                },
                "verbs": list(sub.verbs),
            }
            for name, sub in sorted(resource.subresources.items())
        ]
    return listed
