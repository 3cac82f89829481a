"""Which resources are served right now: the built-in ones, and those of the installed CustomResourceDefinitions."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from local.kube.resources import BUILTIN_RESOURCES, GROUP_ORDER, Resource


@dataclass(frozen=True, eq=False)
class Definition:
    """What one CustomResourceDefinition serves. `terminating`: being deleted, new objects are refused."""

    name: str
    resources: tuple[Resource, ...]
    storage_version: str
    terminating: bool = False


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key, best first: v10, v2, v1, v3beta1, v11alpha2, anything else by name (k8s.io/apimachinery/pkg/version)."""
    match = re.fullmatch(r"v([1-9][0-9]*)(?:(alpha|beta)([1-9][0-9]*))?", version)
    if match is None:
        return (3, 0, 0, version)
    major, stage, minor = match.groups()
    return ({None: 0, "beta": 1, "alpha": 2}[stage], -int(major), -int(minor or 0), "")


class Registry:
    """Lookup of resources by path, kind or storage. `revision` changes whenever the answer of any lookup may."""

    def __init__(self, builtin: Iterable[Resource] = BUILTIN_RESOURCES) -> None:
        self._builtin = tuple(builtin)
        self._definitions: dict[str, Definition] = {}
        self._paths: dict[tuple[str, str, str], Resource] = {}
        self._storages: dict[str, Resource] = {}
        self.revision = 0
        self._index()

    def _index(self) -> None:
        self._paths = {(r.group, r.version, r.plural): r for r in self}
        self._storages = {}
        for resource in self._builtin:
            self._storages.setdefault(resource.storage_key, resource)
        for definition in self._definitions.values():
            for resource in definition.resources:
                if resource.version == definition.storage_version or resource.storage_key not in self._storages:
                    self._storages[resource.storage_key] = resource
        self.revision += 1

    def __iter__(self) -> Iterator[Resource]:
        yield from self._builtin
        for definition in self._definitions.values():
            yield from definition.resources

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource at this path."""
        return self._paths.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of a reference such as an ownerReference: any version of the group will do."""
        group = api_version.rpartition("/")[0]
        candidates = [r for r in self if r.group == group and r.kind == kind and "get" in r.verbs]
        exact = [r for r in candidates if r.api_version == api_version]
        return next(iter(exact or candidates), None)

    def storage(self, storage_key: str) -> Resource | None:
        """The resource in the version that objects of this storage are kept in."""
        return self._storages.get(storage_key)

    def storages(self) -> tuple[Resource, ...]:
        """One resource for each storage that keeps objects."""
        return tuple(resource for resource in self._storages.values() if "get" in resource.verbs)

    def definition_of(self, resource: Resource) -> Definition | None:
        """The definition that serves a custom resource."""
        return self._definitions.get(resource.group_resource) if resource.custom else None

    def definitions(self) -> tuple[Definition, ...]:
        """All installed definitions."""
        return tuple(self._definitions.values())

    def install(self, definition: Definition) -> None:
        """Serve these resources from now on, instead of what the definition of the same name served."""
        self._definitions[definition.name] = definition
        self._index()

    def uninstall(self, name: str) -> None:
        """Stop serving the resources of a definition."""
        if self._definitions.pop(name, None) is not None:
            self._index()

    def groups(self) -> dict[str, list[str]]:
        """Served versions by group, both in the order of discovery: built-in groups first, best version first."""
        found: dict[str, set[str]] = {}
        for resource in self:
            found.setdefault(resource.group, set()).add(resource.version)
        custom = sorted(group for group in found if group not in GROUP_ORDER)
        return {
            group: sorted(found[group], key=version_priority) for group in (*GROUP_ORDER, *custom) if group in found
        }

    def in_version(self, group: str, version: str) -> list[Resource]:
        """The resources of one group version, by name."""
        return sorted((r for r in self if r.group == group and r.version == version), key=lambda r: r.plural)
