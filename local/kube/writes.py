"""Create, update and patch: the steps between a decoded request and a committed object.

Every write, whatever the verb, ends in one of two functions: `_insert` for a new object, `_replace` for one that takes
the place of another. They hold the rules that all kinds share (identity, generation, status isolation, field ownership,
optimistic locking, no write without a change), in the order in which the real server applies them
(k8s.io/apiserver/pkg/registry/rest/{create,update}.go). Nothing here awaits: a write is atomic on the event loop.
"""

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from local.kube import errors, metadata, ownership, patches, typed
from local.kube.addresses import ServiceAddresses
from local.kube.admission import Admission, Write
from local.kube.builtin_defaults import complete
from local.kube.causes import Cause, go_quote
from local.kube.conversion import copy_of, to_storage, view
from local.kube.documents import (
    IGNORE,
    WARN,
    Body,
    Kind,
    canonical,
    check_kind,
    kind_of,
    read_object,
    report_unknown,
    schema_of,
)
from local.kube.errors import ApiError
from local.kube.registry import Registry
from local.kube.resources import Resource
from local.kube.rules import Rules, rules_for
from local.kube.store import Object, Store, Stored, TooLarge, key_of
from local.kube.structural import validate

# k8s.io/apiserver/pkg/storage/names: five characters that cannot form words, in names of at most 63.
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_PREFIX_LIMIT = 63 - _SUFFIX_LENGTH
_NAME_ATTEMPTS = 8


@dataclass(frozen=True)
class Target:
    """What a request is about. `namespace` is empty for cluster-scoped resources, `name` for collections."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True)
class WriteOptions:
    """Query parameters of a write. `manager` is the field manager, never empty; `user` who asks, None for the server."""

    manager: str
    dry_run: bool = False
    validation: str = WARN
    force: bool = False
    user: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Written:
    """The outcome: the object in the version of the request."""

    object: Object
    created: bool = False
    warnings: list[str] = field(default_factory=list)


class Writer:
    """Writes objects for clients and for the server's own controllers."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        addresses: ServiceAddresses,
        admission: Admission,
        clock: Callable[[], datetime],
    ) -> None:
        self._admission = admission
        self._store = store
        self._registry = registry
        self._addresses = addresses
        self._clock = clock

    def create(self, target: Target, body: Body, options: WriteOptions) -> Written:
        """POST to a collection. Raises ApiError."""
        expected = kind_of(target.resource)
        obj = read_object(body, expected)
        warnings = self._accept(target, obj, expected, body, options)
        return self._insert(target, obj, options, warnings)

    def update(self, target: Target, body: Body, options: WriteOptions) -> Written:
        """PUT of an object or of its status. Raises ApiError."""
        resource = target.resource
        expected = kind_of(resource)
        obj = read_object(body, expected)
        warnings = self._accept(target, obj, expected, body, options)
        _check_name(target, obj)
        stored = self._store.get(resource.storage_key, target.namespace, target.name)
        if stored is None:
            if rules_for(resource).create_on_update and not target.subresource:
                return self._insert(target, obj, options, warnings)
            raise errors.not_found(resource, target.name)
        before = view(resource, stored)["metadata"]
        if obj["metadata"].get("uid", before["uid"]) != before["uid"]:
            raise _uid_conflict(resource, before, obj["metadata"]["uid"])
        return self._replace(target, stored, obj, options, warnings)

    def patch(self, target: Target, media_type: str, body: Body, options: WriteOptions) -> Written:
        """PATCH with a JSON patch, a merge patch or a strategic merge patch. Raises ApiError."""
        resource = target.resource
        stored = self._store.get(resource.storage_key, target.namespace, target.name)
        if stored is None:
            raise errors.not_found(resource, target.name)
        expected = kind_of(resource)
        obj = patches.patched(resource, copy_of(view(resource, stored)), media_type, body)
        warnings = self._accept(target, obj, expected, None, options)
        _check_name(target, obj)
        return self._replace(target, stored, obj, options, warnings)

    def apply(self, target: Target, body: Body, options: WriteOptions) -> Written:
        """PATCH by server-side apply: creates the object, or merges what the manager wants into it. Raises ApiError."""
        resource = target.resource
        expected = kind_of(resource)
        config = read_object(body, expected)
        check_kind(config, expected, custom=resource.custom)
        if resource.custom and (faults := typed.faults(schema_of(resource), config)):
            raise _mistyped(target, config, faults)
        warnings = self._accept(target, config, expected, body, options, partial=True)
        _check_applied(target, config)
        stored = self._store.get(resource.storage_key, target.namespace, target.name)
        if stored is None and target.subresource:
            raise errors.not_found(resource, target.name)
        live = view(resource, stored) if stored else None
        obj = ownership.applied(
            resource, live, config, target.subresource, options.manager, force=options.force, now=self._clock()
        )
        # What was pruned is null now, and what it left to the server gets its default.
        self._accept(target, obj, expected, None, replace(options, validation=IGNORE))
        if stored is None:
            return self._insert(target, obj, options, warnings, tracked=True)
        return self._replace(target, stored, obj, options, warnings, tracked=True)

    def rewrite(
        self, target: Target, change: Callable[[Object], None], manager: str, *, dry_run: bool = False
    ) -> Written:
        """Change the present object in place, as one of the server's own controllers. Raises ApiError."""
        stored = self._store.get(target.resource.storage_key, target.namespace, target.name)
        if stored is None:
            raise errors.not_found(target.resource, target.name)
        obj = copy_of(view(target.resource, stored))
        change(obj)
        return self._replace(target, stored, obj, WriteOptions(manager, dry_run), [])

    def _accept(
        self,
        target: Target,
        obj: Object,
        expected: Kind,
        body: Body | None,
        options: WriteOptions,
        *,
        partial: bool = False,
    ) -> list[str]:
        resource = target.resource
        check_kind(obj, expected, custom=resource.custom)
        unknown = canonical(resource, obj, expected, partial=partial)
        if partial and unknown and not resource.custom:
            raise _mistyped(target, obj, [f".{path}: field not declared in schema" for path in unknown])
        duplicates = []
        if body is not None and options.validation in ("Strict", WARN):
            duplicates = body.duplicates()
        warnings = report_unknown(expected, unknown, duplicates, options.validation)
        if not resource.custom and not partial:
            complete(resource.group, resource.kind, obj)
            rules_for(resource).default(obj)
        found = obj["metadata"].get("namespace", "")
        if not resource.namespaced:
            obj["metadata"].pop("namespace", None)
        elif found not in ("", target.namespace):
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        else:
            obj["metadata"]["namespace"] = target.namespace
        return warnings

    def _insert(
        self, target: Target, obj: Object, options: WriteOptions, warnings: list[str], *, tracked: bool = False
    ) -> Written:
        resource, rules = target.resource, rules_for(target.resource)
        self._check_namespace(target, obj)
        definition = self._registry.definition_of(resource)
        if definition is not None and definition.terminating:
            raise errors.method_not_allowed(resource, "create")
        if _isolates_status(resource) and not rules.status_on_create:
            obj.pop("status", None)
        now = self._clock()
        if not tracked:
            ownership.track(resource, "", None, obj, options.manager, now)
        meta = metadata.without_system_fields(obj["metadata"])
        version = meta.pop("resourceVersion", "")
        meta.pop("generation", None)
        generated = not meta.get("name") and bool(meta.get("generateName"))
        if generated:
            meta["name"] = self._free_name(target, meta["generateName"])
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": metadata.timestamp(now)}
        if rules.counts_generation:
            meta["generation"] = 1
        obj["metadata"] = meta
        if not resource.custom:
            complete(resource.group, resource.kind, obj)  # once more: the status is gone, the name is known
        rules.prepare_create(obj)
        problems = metadata.validate(meta, namespaced=resource.namespaced, name_check=rules.name_check)
        problems += [*validate(schema_of(resource), obj, None), *rules.validate(obj, None)]
        if problems:
            raise errors.invalid(resource, meta.get("name", ""), problems)
        self._admit("CREATE", replace(target, name=meta["name"]), obj, None, options)
        if version not in ("", "0"):
            # The storage layer's own words; a plain error there, hence the 500.
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        if self._store.get(resource.storage_key, meta.get("namespace", ""), meta["name"]) is not None:
            conflict = errors.generate_name_conflict if generated else errors.already_exists
            raise conflict(resource, meta["name"])
        if resource.storage_key == "services":
            self._addresses.assign(resource, obj, None)
        if options.dry_run:
            return Written(obj, created=True, warnings=warnings)
        return Written(self._put(resource, obj), created=True, warnings=warnings)

    def _replace(
        self,
        target: Target,
        stored: Stored,
        obj: Object,
        options: WriteOptions,
        warnings: list[str],
        *,
        tracked: bool = False,
    ) -> Written:
        resource, rules = target.resource, rules_for(target.resource)
        old = view(resource, stored)
        meta, before = obj["metadata"], old["metadata"]
        version = meta.get("resourceVersion", "0")
        if version in ("", "0"):
            if not (rules.unconditional_update or tracked):
                raise errors.unconditional_update(resource, target.name)
            meta["resourceVersion"] = before["resourceVersion"]
        elif version != before["resourceVersion"]:
            if not version.isdecimal():
                raise errors.bad_request(f"invalid resource version: {go_quote(version)}")
            raise errors.stale(resource, target.name)
        obj = _isolated(target, rules, obj, old)
        meta = obj["metadata"]
        meta.setdefault("uid", before["uid"])
        for key in ("creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
            if key in before:
                meta[key] = before[key]
        if "generation" not in before:
            meta.pop("generation", None)
        if not tracked:
            ownership.track(resource, target.subresource, old, obj, options.manager, self._clock())
        # Other subresources exist to change what the rules of the object itself keep (a binding, namespaced finalizers).
        ruled = target.subresource in ("", "status")
        if ruled:
            rules.prepare_update(obj, old)
        if rules.counts_generation and _desired(resource, obj) != _desired(resource, old):
            meta["generation"] = before.get("generation", 0) + 1
        status_only = resource.custom and target.subresource == "status"
        problems = metadata.validate_update(meta, before)
        problems += validate(schema_of(resource), obj, old, status_only=status_only)
        if ruled:
            problems += rules.validate(obj, old)
        if problems:
            raise errors.invalid(resource, target.name, problems)
        self._admit("UPDATE", target, obj, old, options)
        if resource.storage_key == "services" and not target.subresource:
            self._addresses.assign(resource, obj, old)
        if not meta.get("managedFields"):
            meta.pop("managedFields", None)
        if ownership.same_but_times(obj, old):
            return Written(old, warnings=warnings)
        if options.dry_run:
            return Written(obj, warnings=warnings)
        if _is_finished(resource, obj):
            # Never written: watchers see the last stored state go, the client gets the one it asked for.
            self._store.remove(resource.storage_key, stored)
            return Written(obj, warnings=warnings)
        return Written(self._put(resource, obj), warnings=warnings)

    def _admit(self, operation: str, target: Target, obj: Object, old: Object | None, options: WriteOptions) -> None:
        if options.user is not None:
            place = (target.resource, target.namespace, target.name, target.subresource)
            self._admission.check(Write(operation, *place, obj, old, options.user))

    def _put(self, resource: Resource, obj: Object) -> Object:
        try:
            stored = self._store.put(resource.storage_key, to_storage(resource, obj, self._registry))
        except TooLarge:
            raise errors.object_too_large() from None
        except OSError as error:
            raise errors.internal(str(error)) from error
        if stored.object["apiVersion"] == resource.api_version:
            stored.views[resource] = stored.object  # written by this very schema: nothing left to prune or default
        return view(resource, stored)

    def _check_namespace(self, target: Target, obj: Object) -> None:
        if not target.resource.namespaced:
            return
        namespaces = self._registry.storage("namespaces")
        assert namespaces is not None
        name = target.namespace
        stored = self._store.get("namespaces", "", name)
        if stored is None:
            raise errors.not_found(namespaces, name)
        if "deletionTimestamp" in stored.object["metadata"]:
            why = f"unable to create new content in namespace {name} because it is being terminated"
            cause = Cause("metadata.namespace", "NamespaceTerminating", f"namespace {name} is being terminated")
            raise errors.forbidden(target.resource, obj["metadata"].get("name", ""), why, [cause])

    def _free_name(self, target: Target, prefix: str) -> str:
        for _ in range(_NAME_ATTEMPTS):
            suffix = "".join(random.choices(_SUFFIX_ALPHABET, k=_SUFFIX_LENGTH))  # noqa: S311  (not a secret)
            name = prefix[:_PREFIX_LIMIT] + suffix
            if self._store.get(target.resource.storage_key, target.namespace, name) is None:
                break
        return name


def _check_name(target: Target, obj: Object) -> None:
    found = obj["metadata"].get("name", "")
    if not found:
        raise errors.bad_request("name must be provided")
    if found != target.name:
        raise errors.bad_request(f"the name of the object ({found}) does not match the name on the URL ({target.name})")


def _check_applied(target: Target, config: Object) -> None:
    meta = config["metadata"]
    if "managedFields" in meta:
        raise errors.bad_request("metadata.managedFields must be nil")
    meta.setdefault("name", target.name)
    _check_name(target, config)


def _mistyped(target: Target, config: Object, faults: list[str]) -> ApiError:
    """The real server's answer to a configuration that does not fit the schema: a plain error, hence the 500. It names the
    object as the configuration does, which may leave out the namespace."""
    kind = f"{target.resource.api_version}, Kind={target.resource.kind}"
    meta = config.get("metadata")
    namespace, name = (str(meta.get(key) or "") if isinstance(meta, dict) else "" for key in ("namespace", "name"))
    listed = faults[0] if len(faults) == 1 else "\n  ".join(["errors:", *faults])
    return ApiError(500, "", f"failed to create typed patch object ({namespace}/{name}; {kind}): {listed}")


def _uid_conflict(resource: Resource, before: Object, asked: str) -> ApiError:
    """The storage layer's own words, as the real server passes them on."""
    key = "/".join(("/registry", resource.storage_key, key_of(before.get("namespace", ""), before["name"])))
    return errors.conflict(
        resource,
        before["name"],
        f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: "
        f"UID in precondition: {asked}, UID in object meta: {before['uid']}",
    )


def _isolates_status(resource: Resource) -> bool:
    return "status" in resource.subresources


def _isolated(target: Target, rules: Rules, obj: Object, old: Object) -> Object:
    """What of the new object may take effect through this path: everything but status, or nothing but status."""
    if target.subresource == "status":
        kept = {key: value for key, value in old.items() if key != "status"}
        if "status" in obj:
            kept["status"] = obj["status"]
        before, meta = old["metadata"], obj["metadata"]
        if rules.status_takes_metadata:
            kept["metadata"] = dict(meta)
            for key in ("ownerReferences", "finalizers"):
                kept["metadata"].pop(key, None)
                if key in before:
                    kept["metadata"][key] = before[key]
        else:
            kept["metadata"] = dict(before)
            if "managedFields" in meta:
                kept["metadata"]["managedFields"] = meta["managedFields"]
        return kept
    if not target.subresource and _isolates_status(target.resource):
        obj = {key: value for key, value in obj.items() if key != "status"}
        if "status" in old:
            obj["status"] = old["status"]
    return obj


def _desired(resource: Resource, obj: Object) -> Object:
    skipped = ("metadata", "status") if _isolates_status(resource) else ("metadata",)
    return {key: value for key, value in obj.items() if key not in skipped and key not in ("apiVersion", "kind")}


def _is_finished(resource: Resource, obj: Object) -> bool:
    """Whether nothing holds a deleted object any more."""
    meta = obj["metadata"]
    if "deletionTimestamp" not in meta or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds", 0):
        return False
    return resource.storage_key != "namespaces" or not obj.get("spec", {}).get("finalizers")
