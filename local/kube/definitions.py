"""CustomResourceDefinitions at work: from an object in the store to served resources, and back.

What kube-apiserver does in four controllers (naming, establishing, serving, finalizing) is one function of the stored
definition here: accept its names, serve its versions, and when it is being deleted, delete its objects and then let it
go. It runs after every change of a definition and, for those being deleted, of their objects.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from local.kube.deletes import CLEANUP_FINALIZER, DeleteOptions, Deleter
from local.kube.metadata import timestamp
from local.kube.registry import Definition, Registry
from local.kube.resources import ALL_VERBS, SCALE, STATUS, Resource, Subresource
from local.kube.store import Change, Object, Store
from local.kube.watching import Watches
from local.kube.worker import Worker
from local.kube.writes import Target, Writer

STORAGE = "customresourcedefinitions.apiextensions.k8s.io"
_MANAGER = "kube-apiserver"


class Definitions:
    """Keeps the registry in line with the stored definitions."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        writer: Writer,
        deleter: Deleter,
        watches: Watches,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = deleter
        self._watches = watches
        self._clock = clock
        self._worker: Worker[str] = Worker(self._reconcile)
        self._specs: dict[str, tuple[Object, bool]] = {}

    def start(self) -> None:
        """Serve what is stored, and follow the store from now on."""
        for stored in tuple(self._store.items(STORAGE)):
            self._reconcile(stored.name)
        self._store.subscribe(self._observe)

    def _observe(self, change: Change) -> None:
        if change.storage == STORAGE:
            self._worker.add(change.new.name)
        elif change.deleted and change.storage in self._specs and self._specs[change.storage][1]:
            self._worker.add(change.storage)

    def _reconcile(self, name: str) -> None:
        stored = self._store.get(STORAGE, "", name)
        if stored is None:
            self._uninstall(name)
            return
        definition = stored.object
        resource = self._registry.storage(STORAGE)
        assert resource is not None
        target = Target(resource, "", name, "status")
        terminating = "deletionTimestamp" in definition["metadata"]
        status = self._status(definition)
        if status != definition.get("status"):
            self._writer.rewrite(target, lambda obj: obj.update(status=status), _MANAGER)
        if is_established(status):
            self._install(name, definition["spec"], terminating=terminating)
        if terminating:
            self._finalize(resource, name)

    def _install(self, name: str, spec: Object, *, terminating: bool) -> None:
        if self._specs.get(name) == (spec, terminating):
            return
        installed = self._specs.get(name)
        if installed is not None and installed[0] != spec:
            # Open watches show the old schema; their clients resume on the new one.
            self._watches.close(
                frozenset(r for d in self._registry.definitions() if d.name == name for r in d.resources)
            )
        resources = resources_of(spec)
        if installed is not None and installed[0] == spec:
            resources = next(d.resources for d in self._registry.definitions() if d.name == name)
        storage_version = next(version["name"] for version in spec["versions"] if version["storage"])
        self._specs[name] = (spec, terminating)
        self._registry.install(Definition(name, resources, storage_version, terminating))

    def _uninstall(self, name: str) -> None:
        if self._specs.pop(name, None) is None:
            return
        self._watches.close(frozenset(r for d in self._registry.definitions() if d.name == name for r in d.resources))
        self._registry.uninstall(name)
        self._store.forget(name)

    def _finalize(self, resource: Resource, name: str) -> None:
        """Delete what the definition defined; the definition itself once nothing is left."""
        served = self._registry.storage(name)
        for stored in tuple(self._store.items(name)) if served else ():
            if "deletionTimestamp" not in stored.object["metadata"] and served:
                self._deleter.delete(Target(served, stored.namespace, stored.name), DeleteOptions())
        if self._store.count(name):
            return

        def release(obj: Object) -> None:
            meta = obj["metadata"]
            meta["finalizers"] = [f for f in meta.get("finalizers", []) if f != CLEANUP_FINALIZER]

        stored_definition = self._store.get(STORAGE, "", name)
        if stored_definition and CLEANUP_FINALIZER in stored_definition.object["metadata"].get("finalizers", []):
            self._writer.rewrite(Target(resource, "", name), release, _MANAGER)

    def _status(self, definition: Object) -> Object:
        spec, status = definition["spec"], dict(definition.get("status") or {})
        wanted = spec["names"]
        conflict = self._name_conflict(definition["metadata"]["name"], spec)
        conditions = list(status.get("conditions") or [])
        now = timestamp(self._clock())
        if conflict is None:
            status["acceptedNames"] = wanted
            _set(conditions, now, "NamesAccepted", "True", "NoConflicts", "no conflicts found")
            if not _is(conditions, "Established"):
                why = "the initial names have been accepted"
                _set(conditions, now, "Established", "True", "InitialNamesAccepted", why)
        else:
            status.setdefault("acceptedNames", {"kind": "", "plural": ""})
            _set(conditions, now, "NamesAccepted", "False", *conflict)
            if not _is(conditions, "Established"):
                _set(conditions, now, "Established", "False", "NotAccepted", "not all names are accepted")
        if "deletionTimestamp" in definition["metadata"]:
            why = "CustomResource deletion is in progress"
            _set(conditions, now, "Terminating", "True", "InstanceDeletionInProgress", why)
        status["conditions"] = conditions
        storage = next(version["name"] for version in spec["versions"] if version["storage"])
        versions = list(status.get("storedVersions") or [])
        status["storedVersions"] = versions if storage in versions else [*versions, storage]
        return status

    def _name_conflict(self, name: str, spec: Object) -> tuple[str, str] | None:
        """(reason, message) of the first name that another resource of the group has."""
        others = [r for r in self._registry if r.group == spec["group"] and r.group_resource != name]
        plurals = {text for r in others for text in (r.plural, r.singular, *r.short_names)}
        kinds = {text for r in others for text in (r.kind, r.list_kind)}
        names = spec["names"]
        checks = [
            ("PluralConflict", names["plural"], plurals),
            ("SingularConflict", names["singular"], plurals),
            *(("ShortNamesConflict", short, plurals) for short in names.get("shortNames", [])),
            ("KindConflict", names["kind"], kinds),
            ("ListKindConflict", names["listKind"], kinds),
        ]
        for reason, text, taken in checks:
            if text in taken:
                return reason, f'"{text}" is already in use'
        return None


def resources_of(spec: Object) -> tuple[Resource, ...]:
    """The served versions of a definition as resources."""
    names = spec["names"]
    found = []
    for version in spec["versions"]:
        if not version["served"]:
            continue
        below: dict[str, Any] = version.get("subresources") or {}
        subresources: dict[str, Subresource] = {}
        if "status" in below:
            subresources["status"] = STATUS
        if "scale" in below:
            subresources["scale"] = SCALE
        warning = ""
        if version.get("deprecated"):
            default = f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
            warning = version.get("deprecationWarning") or default
        found.append(
            Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                singular=names["singular"],
                kind=names["kind"],
                list_kind=names["listKind"],
                namespaced=spec["scope"] == "Namespaced",
                verbs=ALL_VERBS,
                short_names=tuple(names.get("shortNames", ())),
                categories=tuple(names.get("categories", ())),
                subresources=subresources,
                schema=(version.get("schema") or {}).get("openAPIV3Schema"),
                printer_columns=tuple(version.get("additionalPrinterColumns") or ()),
                selectable_fields=tuple(
                    field["jsonPath"].removeprefix(".") for field in version.get("selectableFields") or ()
                ),
                scale=below.get("scale"),
                custom=True,
                deprecation_warning=warning,
            )
        )
    return tuple(found)


def is_established(status: Object) -> bool:
    """Whether the definition's resources are to be served."""
    return _is(status.get("conditions") or [], "Established")


def _is(conditions: list[Object], kind: str) -> bool:
    return any(condition.get("type") == kind and condition.get("status") == "True" for condition in conditions)


def _set(conditions: list[Object], now: str, kind: str, status: str, reason: str, message: str) -> None:
    for position, condition in enumerate(conditions):
        if condition.get("type") == kind:
            since = condition.get("lastTransitionTime", now) if condition.get("status") == status else now
            conditions[position] = _condition(kind, status, reason, message, since)
            return
    conditions.append(_condition(kind, status, reason, message, now))


def _condition(kind: str, status: str, reason: str, message: str, since: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
