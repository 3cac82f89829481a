"""How built-in kinds differ from each other when they are written: one `Rules` record per kind.

The real server has a "strategy" object per resource; this table holds the parts of them that clients can see. A kind
without an entry (and every custom resource) has the plain `Rules()`.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from local.kube import causes, names
from local.kube.causes import Cause
from local.kube.resources import Resource
from local.kube.store import Object


def _nothing(obj: Object) -> None:
    """Nothing to fill in."""


def _keep(new: Object, old: Object) -> None:
    """Nothing to carry over."""


def _valid(new: Object, old: Object | None) -> list[Cause]:
    """No rules beyond the schema."""
    return []


@dataclass(frozen=True)
class Rules:
    """What is special about a kind."""

    name_check: names.NameCheck = names.dns_subdomain
    # Defaults that builtin_schemas.py and builtin_defaults.py do not know.
    default: Callable[[Object], None] = _nothing
    # Called with a new object whose owner has been noted: what it gets from the server belongs to nobody.
    prepare_create: Callable[[Object], None] = _nothing
    # Called with (new, old) before an update is compared and validated.
    prepare_update: Callable[[Object, Object], None] = _keep
    validate: Callable[[Object, Object | None], list[Cause]] = _valid
    # PUT without resourceVersion is allowed.
    unconditional_update: bool = True
    # PUT of an object that does not exist creates it.
    create_on_update: bool = False
    # metadata.generation starts at 1 and counts changes outside of metadata and status.
    counts_generation: bool = False
    # A client may set status when it creates the object.
    status_on_create: bool = False
    # The status subresource also takes labels and annotations.
    status_takes_metadata: bool = True
    # DELETE answers with the object instead of a Status.
    returns_deleted: bool = False
    # DELETE waits for the kubelet.
    graceful: bool = False


# Pod specs are fixed but for these (k8s.io/kubernetes/pkg/apis/core/validation, ValidatePodUpdate).
_POD_IMMUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def _fixed_pod_spec(spec: Object) -> Object:
    mutable = ("activeDeadlineSeconds", "tolerations", "schedulingGates", "nodeName")
    fixed = {key: value for key, value in spec.items() if key not in mutable}
    for key in ("containers", "initContainers"):
        if key in fixed:
            fixed[key] = [{k: v for k, v in container.items() if k != "image"} for container in fixed[key]]
    return fixed


def _validate_pod(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec", {})
    problems = [] if spec.get("containers") else [causes.required("spec.containers")]
    if old is not None:
        before = old.get("spec", {})
        if _fixed_pod_spec(spec) != _fixed_pod_spec(before) or spec.get("nodeName") != before.get("nodeName"):
            problems.append(causes.forbidden("spec", _POD_IMMUTABLE))
    return problems


# Fields of a volume's spec that are not its source (core/v1 PersistentVolumeSpec).
_NO_SOURCE = frozenset(
    {
        "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
        "storageClassName", "volumeAttributesClassName", "volumeMode",
    }
)  # fmt: skip


def _validate_volume(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec", {})
    problems = [causes.required(f"spec.{field}") for field in ("accessModes", "capacity") if not spec.get(field)]
    sources = sorted(spec.keys() - _NO_SOURCE)
    if not sources:
        problems.append(causes.required("spec", "must specify a volume type"))
    problems += [causes.forbidden(f"spec.{each}", "may not specify more than 1 volume type") for each in sources[1:]]
    for source in {"hostPath", "local"} & set(sources):
        path = spec[source].get("path", "")
        if not path:
            problems.append(causes.required(f"spec.{source}.path"))
        if ".." in path.split("/"):
            problems.append(causes.invalid(f"spec.{source}.path", path, "must not contain '..'"))
    if "local" in sources and not spec.get("nodeAffinity"):
        problems.append(causes.required("spec.nodeAffinity", "Local volume requires node affinity"))
    return problems


def _hold_namespace(obj: Object) -> None:
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def _keep_namespace(new: Object, old: Object) -> None:
    # Only /finalize may change spec.finalizers.
    new["spec"] = old.get("spec", {})


def _name_definition(obj: Object) -> None:
    spec = obj.get("spec", {})
    spec.setdefault("conversion", {}).setdefault("strategy", "None")
    kinds = spec.get("names", {})
    if "kind" in kinds:
        kinds.setdefault("singular", kinds["kind"].lower())
        kinds.setdefault("listKind", kinds["kind"] + "List")


def _validate_definition(new: Object, old: Object | None) -> list[Cause]:
    # Compiling expressions takes a library that is slow to import: only when a definition is written.
    from local.kube.crd import validate_crd

    return validate_crd(new, old)


def _immutable_data(new: Object, old: Object | None) -> list[Cause]:
    if old is None or not old.get("immutable"):
        return []
    problems = []
    if not new.get("immutable"):
        problems.append(causes.forbidden("immutable", "field is immutable when `immutable` is set"))
    for key in ("data", "binaryData"):
        if new.get(key) != old.get(key):
            problems.append(causes.forbidden(key, "field is immutable when `immutable` is set"))
    return problems


def _config_keys(new: Object, field: str) -> list[Cause]:
    problems = []
    for key in new.get(field) or {}:
        if not key or len(key) > 253 or key in (".", "..") or not _is_config_key(key):
            problems.append(
                causes.invalid(
                    f"{field}[{key}]",
                    key,
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                    "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                )
            )
    return problems


def _is_config_key(key: str) -> bool:
    return all(character.isascii() and (character.isalnum() or character in "-._") for character in key)


# k8s.io/api/core/v1: MaxSecretSize, also the limit of a ConfigMap.
_DATA_LIMIT = 1024 * 1024


def _validate_secret(new: Object, old: Object | None) -> list[Cause]:
    problems = _config_keys(new, "data") + _immutable_data(new, old)
    size = 0
    for key, value in (new.get("data") or {}).items():
        try:
            size += len(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            problems.append(causes.invalid(f"data[{key}]", "<hidden>", "must be base64-encoded"))
    if size > _DATA_LIMIT:
        problems.append(causes.too_long("data", _DATA_LIMIT))
    if old is not None and new.get("type") != old.get("type"):
        problems.append(causes.invalid("type", new.get("type"), "field is immutable"))
    return problems


def _validate_config_map(new: Object, old: Object | None) -> list[Cause]:
    problems = _config_keys(new, "data") + _config_keys(new, "binaryData") + _immutable_data(new, old)
    size = sum(len(str(value).encode()) for value in (new.get("data") or {}).values())
    size += sum(len(str(value)) * 3 // 4 for value in (new.get("binaryData") or {}).values())
    if size > _DATA_LIMIT:
        problems.append(causes.too_long("", _DATA_LIMIT))
    for key in sorted((new.get("data") or {}).keys() & (new.get("binaryData") or {}).keys()):
        problems.append(causes.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
    return problems


def _validate_event(new: Object, old: Object | None) -> list[Cause]:
    involved = new.get("involvedObject", new.get("regarding")) or {}
    namespace, own = involved.get("namespace", ""), new["metadata"].get("namespace", "")
    field = "regarding" if "regarding" in new else "involvedObject"
    # Events about cluster-scoped objects live in "default".
    if namespace != own and not (namespace == "" and own == "default"):
        return [causes.invalid(f"{field}.namespace", namespace, "does not match event.namespace")]
    return []


def _validate_event_v1(new: Object, old: Object | None) -> list[Cause]:
    problems = _validate_event(new, old)
    if old is None:
        if not new.get("eventTime"):
            problems.append(causes.required("eventTime"))
        problems += [
            causes.required(key)
            for key in ("reportingController", "reportingInstance", "action", "reason")
            if not new.get(key)
        ]
    return problems


def _validate_workload(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec", {})
    problems = []
    selector = spec.get("selector")
    if not isinstance(selector, dict):
        problems.append(causes.required("spec.selector"))
        selector = {}
    wanted: dict[str, Any] = selector.get("matchLabels") or {}
    labels: dict[str, Any] = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        problems.append(
            causes.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
        )
    if not (((spec.get("template") or {}).get("spec") or {}).get("containers")):
        problems.append(causes.required("spec.template.spec.containers"))
    if old is not None and spec.get("selector") != old.get("spec", {}).get("selector"):
        problems.append(causes.invalid("spec.selector", spec.get("selector"), "field is immutable"))
    return problems


def _validate_role_ref(new: Object, old: Object | None) -> list[Cause]:
    if old is not None and new.get("roleRef") != old.get("roleRef"):
        return [causes.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")]
    return []


def _validate_slice(new: Object, old: Object | None) -> list[Cause]:
    if old is not None and new.get("addressType") != old.get("addressType"):
        return [causes.invalid("addressType", new.get("addressType"), "field is immutable")]
    return []


def _validate_lease(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec", {})
    problems = []
    if "leaseDurationSeconds" in spec and spec["leaseDurationSeconds"] <= 0:
        problems.append(
            causes.invalid("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
        )
    if spec.get("leaseTransitions", 0) < 0:
        problems.append(
            causes.invalid("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")
        )
    return problems


def _start_definition(definition: Object) -> None:
    """The status of a definition that nobody has looked at: the lists of Go that are nil come as null."""
    stored = [version["name"] for version in definition["spec"].get("versions", ()) if version.get("storage")]
    definition["status"] = {
        "conditions": None, "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored or None,
    }  # fmt: skip


_PLAIN = Rules()
_CUSTOM = Rules(unconditional_update=False, counts_generation=True, status_takes_metadata=False)
_RBAC = Rules(name_check=names.path_segment, create_on_update=True)
_RBAC_BINDING = Rules(name_check=names.path_segment, create_on_update=True, validate=_validate_role_ref)

_RULES: dict[str, Rules] = {
    "configmaps": Rules(validate=_validate_config_map),
    "secrets": Rules(validate=_validate_secret),
    "endpoints": Rules(create_on_update=True),
    "events": Rules(validate=_validate_event, create_on_update=True),
    "events.events.k8s.io": Rules(validate=_validate_event_v1, create_on_update=True),
    "namespaces": Rules(name_check=names.dns_label, prepare_create=_hold_namespace, prepare_update=_keep_namespace),
    "nodes": Rules(status_on_create=True),
    "persistentvolumeclaims": Rules(returns_deleted=True),
    "persistentvolumes": Rules(validate=_validate_volume, returns_deleted=True),
    "pods": Rules(validate=_validate_pod, counts_generation=True, returns_deleted=True, graceful=True),
    "serviceaccounts": Rules(unconditional_update=False, returns_deleted=True),
    "services": Rules(name_check=names.dns_1035_label, create_on_update=True, returns_deleted=True),
    "daemonsets.apps": Rules(validate=_validate_workload, counts_generation=True),
    "deployments.apps": Rules(validate=_validate_workload, counts_generation=True),
    "leases.coordination.k8s.io": Rules(validate=_validate_lease, unconditional_update=False, create_on_update=True),
    "endpointslices.discovery.k8s.io": Rules(validate=_validate_slice, counts_generation=True),
    "clusterroles.rbac.authorization.k8s.io": _RBAC,
    "roles.rbac.authorization.k8s.io": _RBAC,
    "clusterrolebindings.rbac.authorization.k8s.io": _RBAC_BINDING,
    "rolebindings.rbac.authorization.k8s.io": _RBAC_BINDING,
    "validatingadmissionpolicies.admissionregistration.k8s.io": Rules(
        unconditional_update=False, counts_generation=True
    ),
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": Rules(
        unconditional_update=False, counts_generation=True
    ),
    "customresourcedefinitions.apiextensions.k8s.io": Rules(
        default=_name_definition,
        prepare_create=_start_definition,
        validate=_validate_definition,
        unconditional_update=False,
        counts_generation=True,
    ),
}


def rules_for(resource: Resource) -> Rules:
    """The rules of a resource."""
    return _CUSTOM if resource.custom else _RULES.get(resource.group_resource, _PLAIN)
