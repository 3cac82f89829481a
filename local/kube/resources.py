"""What the server can serve: one `Resource` record per group, version and plural, and the table of built-in ones.

A record is plain data. Discovery, OpenAPI, Table output, validation and routing all read the same record, so a kind is
added by adding one line here (and its schema), and an installed CRD turns into the same records at run time.

Kinds that this project's controllers never look into (Deployments, RBAC, ...) are served as objects only: they are
stored, validated and watched, but nothing acts on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# In the order in which the real server's discovery prints them.
ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CREATE_ONLY = ("create",)
STATUS_VERBS = ("get", "patch", "update")


@dataclass(frozen=True)
class Subresource:
    """One path below an object (`/status`, `/scale`, ...): its verbs and the kind it speaks when not the parent's."""

    verbs: tuple[str, ...]
    kind: str = ""  # empty: the kind of the parent
    group: str = ""
    version: str = ""


STATUS = Subresource(STATUS_VERBS)
SCALE = Subresource(STATUS_VERBS, kind="Scale", group="autoscaling", version="v1")


@dataclass(frozen=True, eq=False)
class Resource:
    """One served resource. Compared by identity: schemas are plain dicts, and one record exists per served version."""

    group: str  # "" is the core group
    version: str
    plural: str
    singular: str
    kind: str
    list_kind: str
    namespaced: bool
    verbs: tuple[str, ...] = ALL_VERBS
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: Mapping[str, Subresource] = field(default_factory=dict)
    # The version's `openAPIV3Schema` for custom resources; None for built-in ones (see builtin_schemas.py).
    schema: dict[str, Any] | None = None
    # `additionalPrinterColumns` as in the CRD; empty for built-in kinds, whose columns table.py knows.
    printer_columns: tuple[dict[str, Any], ...] = ()
    # JSON paths without the leading dot ("spec.color"), from `selectableFields[].jsonPath`.
    selectable_fields: tuple[str, ...] = ()
    # `subresources.scale` of the CRD (specReplicasPath, statusReplicasPath, labelSelectorPath).
    scale: Mapping[str, str] | None = None
    # True for records that came from a CustomResourceDefinition.
    custom: bool = False
    # Sent as a Warning header with every response, from `deprecated`/`deprecationWarning` of the CRD version.
    deprecation_warning: str = ""
    # Name of the storage that several groups or versions of one resource share; see `storage_key`.
    shared_storage: str = ""

    @property
    def api_version(self) -> str:
        """`v1` for the core group, otherwise `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """`pods`, or `dynamomodels.nvidia.com`: how the real server names a resource in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def storage_key(self) -> str:
        """Where the objects live: the same for all versions of a resource (and for both groups of events)."""
        return self.shared_storage or self.group_resource


def _builtin(
    group: str,
    version: str,
    plural: str,
    kind: str,
    *,
    namespaced: bool = True,
    short: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    subresources: Mapping[str, Subresource] | None = None,
    verbs: tuple[str, ...] = ALL_VERBS,
    selectable: tuple[str, ...] = (),
    shared_storage: str = "",
) -> Resource:
    return Resource(
        group=group,
        version=version,
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        list_kind=f"{kind}List",
        namespaced=namespaced,
        verbs=verbs,
        short_names=short,
        categories=categories,
        subresources=subresources or {},
        selectable_fields=selectable,
        shared_storage=shared_storage,
    )


_WITH_STATUS = {"status": STATUS}
_WORKLOAD = {"scale": SCALE, "status": STATUS}
_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"

# Field selectors per kind: the `AddFieldLabelConversionFunc` registrations of the real server.
_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_CORE_EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_EVENT_FIELDS = (
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
)

BUILTIN_RESOURCES: tuple[Resource, ...] = (
    _builtin("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    _builtin("", "v1", "endpoints", "Endpoints", short=("ep",)),
    _builtin("", "v1", "events", "Event", short=("ev",), selectable=_CORE_EVENT_FIELDS, shared_storage="events"),
    _builtin(
        "",
        "v1",
        "namespaces",
        "Namespace",
        namespaced=False,
        short=("ns",),
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
        subresources={"finalize": Subresource(("update",)), "status": STATUS},
        selectable=("status.phase",),
    ),
    _builtin(
        "",
        "v1",
        "nodes",
        "Node",
        namespaced=False,
        short=("no",),
        subresources=_WITH_STATUS,
        selectable=("spec.unschedulable",),
    ),
    _builtin(
        "",
        "v1",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        short=("pvc",),
        subresources=_WITH_STATUS,
    ),
    _builtin(
        "",
        "v1",
        "persistentvolumes",
        "PersistentVolume",
        namespaced=False,
        short=("pv",),
        subresources=_WITH_STATUS,
    ),
    _builtin(
        "",
        "v1",
        "pods",
        "Pod",
        short=("po",),
        categories=("all",),
        subresources={"binding": Subresource(("create",), kind="Binding", version="v1"), "status": STATUS},
        selectable=_POD_FIELDS,
    ),
    _builtin("", "v1", "secrets", "Secret", selectable=("type",)),
    _builtin(
        "",
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        short=("sa",),
        subresources={
            "token": Subresource(("create",), kind="TokenRequest", group="authentication.k8s.io", version="v1")
        },
    ),
    _builtin(
        "",
        "v1",
        "services",
        "Service",
        short=("svc",),
        categories=("all",),
        subresources=_WITH_STATUS,
        selectable=("spec.clusterIP", "spec.type"),
    ),
    _builtin("apps", "v1", "daemonsets", "DaemonSet", short=("ds",), categories=("all",), subresources=_WITH_STATUS),
    _builtin("apps", "v1", "deployments", "Deployment", short=("deploy",), categories=("all",), subresources=_WORKLOAD),
    _builtin(
        "events.k8s.io", "v1", "events", "Event", short=("ev",), selectable=_EVENT_FIELDS, shared_storage="events"
    ),
    _builtin(
        "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False, verbs=CREATE_ONLY
    ),
    _builtin("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False, verbs=CREATE_ONLY),
    _builtin("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=CREATE_ONLY),
    _builtin(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        namespaced=False,
        verbs=CREATE_ONLY,
    ),
    _builtin(
        "authorization.k8s.io",
        "v1",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        namespaced=False,
        verbs=CREATE_ONLY,
    ),
    _builtin(
        "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False, verbs=CREATE_ONLY
    ),
    _builtin("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short=("netpol",)),
    _builtin("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short=("pdb",), subresources=_WITH_STATUS),
    _builtin(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    _builtin(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    _builtin(_RBAC, "v1", "rolebindings", "RoleBinding"),
    _builtin(_RBAC, "v1", "roles", "Role"),
    _builtin(
        _ADMISSION,
        "v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        namespaced=False,
        categories=("api-extensions",),
        subresources=_WITH_STATUS,
    ),
    _builtin(
        _ADMISSION,
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        namespaced=False,
        categories=("api-extensions",),
    ),
    _builtin(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short=("crd", "crds"),
        categories=("api-extensions",),
        subresources=_WITH_STATUS,
    ),
    _builtin("coordination.k8s.io", "v1", "leases", "Lease"),
    _builtin("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
)

# Groups in the order of the real server's discovery (its group priorities); custom groups follow.
GROUP_ORDER: tuple[str, ...] = (
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "networking.k8s.io",
    "policy",
    _RBAC,
    _ADMISSION,
    "apiextensions.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
)
