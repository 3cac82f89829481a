"""What the Python client's models do not say about the built-in kinds: list and merge keys, defaults, enums.

Keys are `<Model>.<field>` with the client's model names without the leading `V1` (`Container.ports`, `CoreV1Event.type`).
Everything here is a fact of the Kubernetes API (k8s.io/api, types.go and the defaulting functions of 1.36); only the
part that is reachable from the kinds in `resources.py` and plausible in this project is listed. Lists that are not
listed are atomic, as nearly all lists of the built-in kinds are.
"""

from typing import Any

# field -> (keys of the map list, merge key of strategic merge patch or "")
MAP_LISTS: dict[str, tuple[tuple[str, ...], str]] = {
    "Container.env": (("name",), "name"),
    "Container.ports": (("containerPort", "protocol"), "containerPort"),
    "Container.volumeDevices": (("devicePath",), "devicePath"),
    "Container.volumeMounts": (("mountPath",), "mountPath"),
    "ContainerStatus.allocatedResourcesStatus": (("name",), "name"),
    "ContainerStatus.volumeMounts": (("mountPath",), "mountPath"),
    "CustomResourceDefinitionStatus.conditions": (("type",), ""),
    "DaemonSetStatus.conditions": (("type",), "type"),
    "DeploymentStatus.conditions": (("type",), "type"),
    "EphemeralContainer.env": (("name",), "name"),
    "EphemeralContainer.ports": (("containerPort", "protocol"), "containerPort"),
    "EphemeralContainer.volumeDevices": (("devicePath",), "devicePath"),
    "EphemeralContainer.volumeMounts": (("mountPath",), "mountPath"),
    "NamespaceStatus.conditions": (("type",), "type"),
    "NodeStatus.addresses": (("type",), "type"),
    "NodeStatus.conditions": (("type",), "type"),
    "ObjectMeta.ownerReferences": (("uid",), "uid"),
    "PersistentVolumeClaimStatus.conditions": (("type",), "type"),
    "PodDisruptionBudgetStatus.conditions": (("type",), "type"),
    "PodSpec.containers": (("name",), "name"),
    "PodSpec.ephemeralContainers": (("name",), "name"),
    "PodSpec.hostAliases": (("ip",), "ip"),
    "PodSpec.imagePullSecrets": (("name",), "name"),
    "PodSpec.initContainers": (("name",), "name"),
    "PodSpec.resourceClaims": (("name",), "name"),
    "PodSpec.schedulingGates": (("name",), "name"),
    "PodSpec.topologySpreadConstraints": (("topologyKey", "whenUnsatisfiable"), "topologyKey"),
    "PodSpec.volumes": (("name",), "name"),
    "PodStatus.conditions": (("type",), "type"),
    "PodStatus.podIPs": (("ip",), "ip"),
    "PodStatus.resourceClaimStatuses": (("name",), "name"),
    "ResourceRequirements.claims": (("name",), ""),
    "ServiceAccount.secrets": (("name",), "name"),
    "ServiceSpec.ports": (("port", "protocol"), "port"),
    "ServiceStatus.conditions": (("type",), "type"),
    "ValidatingAdmissionPolicySpec.matchConditions": (("name",), "name"),
    "ValidatingAdmissionPolicySpec.variables": (("name",), "name"),
    "ValidatingAdmissionPolicyStatus.conditions": (("type",), ""),
}

SET_LISTS = frozenset(
    {
        "Endpoint.addresses",
        "NodeSpec.podCIDRs",
        "ObjectMeta.finalizers",
        "ValidatingAdmissionPolicyBindingSpec.validationActions",
    }
)

# Lists whose items the server refuses to have twice, and the field it blames for it ("" for the whole item). The list
# types above do not say so: they only tell apply which items are the same one.
UNIQUE: dict[str, str] = {
    "Container.volumeDevices": "devicePath",
    "Container.volumeMounts": "mountPath",
    "EphemeralContainer.volumeDevices": "devicePath",
    "EphemeralContainer.volumeMounts": "mountPath",
    "PodSpec.containers": "name",
    "PodSpec.ephemeralContainers": "name",
    "PodSpec.initContainers": "name",
    "PodSpec.resourceClaims": "name",
    "PodSpec.schedulingGates": "",
    "PodSpec.topologySpreadConstraints": "",
    "PodSpec.volumes": "name",
    "ResourceRequirements.claims": "",
    "ServiceSpec.ports": "",
    "ValidatingAdmissionPolicyBindingSpec.validationActions": "",
    "ValidatingAdmissionPolicySpec.matchConditions": "name",
    "ValidatingAdmissionPolicySpec.variables": "name",
}

# Lists that come as null while nothing has set them: Go's encoder leaves none out that is not marked for it.
NULL_AT_FIRST = frozenset({"CustomResourceDefinitionStatus.conditions"})

# Lists that strategic merge patch merges as sets, and one-of structs of which a patch keeps only the given keys.
MERGED_SETS = frozenset({"NodeSpec.podCIDRs", "ObjectMeta.finalizers"})
RETAIN_KEYS = frozenset({"DeploymentSpec.strategy", "PodSpec.resourceClaims", "PodSpec.volumes"})

# Models and map fields that server-side apply treats as one value.
ATOMIC_MODELS = frozenset(
    {
        "ConfigMapKeySelector",
        "FileKeySelector",
        "LabelSelector",
        "LocalObjectReference",
        "NodeSelector",
        "NodeSelectorTerm",
        "ObjectFieldSelector",
        "ObjectReference",
        "OwnerReference",
        "ParamRef",
        "RbacV1Subject",
        "ResourceFieldSelector",
        "RoleRef",
        "SecretKeySelector",
        "SecretReference",
        "TypedLocalObjectReference",
    }
)
ATOMIC_MAPS = frozenset({"PodSpec.nodeSelector", "ServiceSpec.selector"})

QUANTITIES = frozenset(
    {
        "ContainerStatus.allocatedResources",
        "EmptyDirVolumeSource.sizeLimit",
        "NodeStatus.allocatable",
        "NodeStatus.capacity",
        "PersistentVolumeClaimStatus.allocatedResources",
        "PersistentVolumeClaimStatus.capacity",
        "PersistentVolumeSpec.capacity",
        "PodSpec.overhead",
        "PodStatus.allocatedResources",
        "ResourceFieldSelector.divisor",
        "ResourceRequirements.limits",
        "ResourceRequirements.requests",
        "VolumeResourceRequirements.limits",
        "VolumeResourceRequirements.requests",
    }
)

# Values that the server fills in whatever the other fields are; those that depend on others are in defaults.py.
DEFAULTS: dict[str, Any] = {
    "ClientIPConfig.timeoutSeconds": 10800,
    "ConfigMapVolumeSource.defaultMode": 420,
    "Container.resources": {},
    "Container.terminationMessagePath": "/dev/termination-log",
    "Container.terminationMessagePolicy": "File",
    "ContainerPort.protocol": "TCP",
    "CoreV1EndpointPort.protocol": "TCP",
    "DaemonSetSpec.revisionHistoryLimit": 10,
    "DaemonSetSpec.updateStrategy": {
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        "type": "RollingUpdate",
    },
    "DeploymentSpec.progressDeadlineSeconds": 600,
    "DeploymentSpec.replicas": 1,
    "DeploymentSpec.revisionHistoryLimit": 10,
    "DeploymentSpec.strategy": {
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
        "type": "RollingUpdate",
    },
    "DiscoveryV1EndpointPort.name": "",
    "DiscoveryV1EndpointPort.protocol": "TCP",
    "DownwardAPIVolumeSource.defaultMode": 420,
    "GRPCAction.service": "",
    "HTTPGetAction.path": "/",
    "HTTPGetAction.scheme": "HTTP",
    "HostPathVolumeSource.type": "",
    "MatchResources.matchPolicy": "Equivalent",
    "MatchResources.namespaceSelector": {},
    "MatchResources.objectSelector": {},
    "NamedRuleWithOperations.scope": "*",
    "NetworkPolicyPort.protocol": "TCP",
    "ObjectFieldSelector.apiVersion": "v1",
    "PersistentVolumeClaimSpec.volumeMode": "Filesystem",
    "PersistentVolumeSpec.persistentVolumeReclaimPolicy": "Retain",
    "PersistentVolumeSpec.volumeMode": "Filesystem",
    "PodSpec.dnsPolicy": "ClusterFirst",
    "PodSpec.enableServiceLinks": True,
    "PodSpec.restartPolicy": "Always",
    "PodSpec.schedulerName": "default-scheduler",
    "PodSpec.securityContext": {},
    "PodSpec.terminationGracePeriodSeconds": 30,
    "Probe.failureThreshold": 3,
    "Probe.periodSeconds": 10,
    "Probe.successThreshold": 1,
    "Probe.timeoutSeconds": 1,
    "ProjectedVolumeSource.defaultMode": 420,
    "ResourceFieldSelector.divisor": "0",
    "RoleRef.apiGroup": "rbac.authorization.k8s.io",
    "Secret.type": "Opaque",
    "SecretVolumeSource.defaultMode": 420,
    "ServiceAccountTokenProjection.expirationSeconds": 3600,
    "ServicePort.protocol": "TCP",
    "ServiceSpec.internalTrafficPolicy": "Cluster",
    "ServiceSpec.sessionAffinity": "None",
    "ServiceSpec.type": "ClusterIP",
    "ValidatingAdmissionPolicySpec.failurePolicy": "Fail",
}

_PROTOCOLS = ["SCTP", "TCP", "UDP"]
ENUMS: dict[str, list[str]] = {
    "Container.imagePullPolicy": ["Always", "IfNotPresent", "Never"],
    "Container.terminationMessagePolicy": ["FallbackToLogsOnError", "File"],
    "ContainerPort.protocol": _PROTOCOLS,
    "CoreV1EndpointPort.protocol": _PROTOCOLS,
    "DaemonSetUpdateStrategy.type": ["OnDelete", "RollingUpdate"],
    "DeploymentStrategy.type": ["Recreate", "RollingUpdate"],
    "EndpointSlice.addressType": ["FQDN", "IPv4", "IPv6"],
    "HTTPGetAction.scheme": ["HTTP", "HTTPS"],
    "LabelSelectorRequirement.operator": ["DoesNotExist", "Exists", "In", "NotIn"],
    "NetworkPolicyPort.protocol": _PROTOCOLS,
    "NodeSelectorRequirement.operator": ["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"],
    "PersistentVolumeClaimSpec.volumeMode": ["Block", "Filesystem"],
    "PersistentVolumeSpec.persistentVolumeReclaimPolicy": ["Delete", "Recycle", "Retain"],
    "PersistentVolumeSpec.volumeMode": ["Block", "Filesystem"],
    "PodSpec.dnsPolicy": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    "PodSpec.restartPolicy": ["Always", "Never", "OnFailure"],
    "ServicePort.protocol": _PROTOCOLS,
    "ServiceSpec.sessionAffinity": ["ClientIP", "None"],
    "ServiceSpec.type": ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    "Taint.effect": ["NoExecute", "NoSchedule", "PreferNoSchedule"],
    "TopologySpreadConstraint.whenUnsatisfiable": ["DoNotSchedule", "ScheduleAnyway"],
    "ValidatingAdmissionPolicySpec.failurePolicy": ["Fail", "Ignore"],
}

# Fields that the server insists on. The client marks many more as required, but those only have no `omitempty` in Go:
# when they are missing the server stores their zero value.
REQUIRED = frozenset(
    {
        "ConfigMapKeySelector.key",
        "Container.image",
        "Container.name",
        "ContainerPort.containerPort",
        "CoreV1EndpointPort.port",
        "CoreV1Event.involvedObject",
        "CustomResourceDefinition.spec",
        "CustomResourceDefinitionNames.kind",
        "CustomResourceDefinitionNames.plural",
        "CustomResourceDefinitionSpec.group",
        "CustomResourceDefinitionSpec.names",
        "CustomResourceDefinitionSpec.scope",
        "CustomResourceDefinitionSpec.versions",
        "CustomResourceDefinitionVersion.name",
        "DaemonSetSpec.selector",
        "DaemonSetSpec.template",
        "DeploymentSpec.selector",
        "DeploymentSpec.template",
        "Endpoint.addresses",
        "EndpointSlice.addressType",
        "EnvVar.name",
        "EventsV1Event.eventTime",
        "HTTPGetAction.port",
        "HostPathVolumeSource.path",
        "KeyToPath.key",
        "IPBlock.cidr",
        "KeyToPath.path",
        "LabelSelectorRequirement.key",
        "LabelSelectorRequirement.operator",
        "NodeSelector.nodeSelectorTerms",
        "NodeSelectorRequirement.key",
        "NodeSelectorRequirement.operator",
        "ObjectFieldSelector.fieldPath",
        "PersistentVolumeClaimVolumeSource.claimName",
        "PodAffinityTerm.topologyKey",
        "PodSpec.containers",
        "PolicyRule.verbs",
        "PreferredSchedulingTerm.preference",
        "PreferredSchedulingTerm.weight",
        "RbacV1Subject.kind",
        "RbacV1Subject.name",
        "RoleRef.kind",
        "RoleRef.name",
        "ClusterRoleBinding.roleRef",
        "RoleBinding.roleRef",
        "SecretKeySelector.key",
        "ServiceAccountTokenProjection.path",
        "ServicePort.port",
        "TCPSocketAction.port",
        "Taint.effect",
        "Taint.key",
        "TopologySpreadConstraint.maxSkew",
        "TopologySpreadConstraint.topologyKey",
        "TopologySpreadConstraint.whenUnsatisfiable",
        "TokenReview.spec",
        "SubjectAccessReview.spec",
        "LocalSubjectAccessReview.spec",
        "SelfSubjectAccessReview.spec",
        "Validation.expression",
        "Variable.expression",
        "Variable.name",
        "MatchCondition.expression",
        "MatchCondition.name",
        "Volume.name",
        "VolumeMount.mountPath",
        "VolumeMount.name",
        "WeightedPodAffinityTerm.podAffinityTerm",
        "WeightedPodAffinityTerm.weight",
    }
)

# Written with microseconds by the server.
MICRO_TIMES = frozenset(
    {
        "CoreV1Event.eventTime",
        "CoreV1EventSeries.lastObservedTime",
        "EventsV1Event.eventTime",
        "EventsV1EventSeries.lastObservedTime",
        "LeaseSpec.acquireTime",
        "LeaseSpec.renewTime",
    }
)

INT64_FIELDS = frozenset(
    {
        "activeDeadlineSeconds",
        "expirationSeconds",
        "fsGroup",
        "observedGeneration",
        "runAsGroup",
        "runAsUser",
        "sizeBytes",
        "terminationGracePeriodSeconds",
        "tolerationSeconds",
    }
)

# Models that belong to meta/v1 wherever they are used.
META_MODELS = frozenset(
    {
        "Condition",
        "DeleteOptions",
        "LabelSelector",
        "LabelSelectorRequirement",
        "ListMeta",
        "ManagedFieldsEntry",
        "ObjectMeta",
        "OwnerReference",
        "Preconditions",
        "Status",
        "StatusCause",
        "StatusDetails",
        "FieldSelectorRequirement",
    }
)

DESCRIPTIONS: dict[str, str] = {
    "ClusterRole": "A set of rules that bindings grant cluster-wide or in a namespace.",
    "ClusterRoleBinding": "Grants a ClusterRole to subjects in every namespace.",
    "ConfigMap": "Configuration data for pods to consume.",
    "Container": "One container that runs in a pod.",
    "CoreV1Event": "A report of something that happened in the cluster, kept for a limited time.",
    "CustomResourceDefinition": "A kind that the API server serves in addition to the built-in ones.",
    "DaemonSet": "Runs one copy of a pod on every matching node.",
    "Deployment": "Runs a number of equal pods and rolls out changes of their template.",
    "EndpointSlice": "A part of the addresses behind a Service.",
    "Endpoints": "All addresses behind a Service in one object; EndpointSlice has replaced it.",
    "EventsV1Event": "A report of something that happened in the cluster, kept for a limited time.",
    "Lease": "A lock that its holder renews, as used by leader election.",
    "LocalSubjectAccessReview": "Asks whether a subject may perform an action in one namespace.",
    "Namespace": "A scope for names.",
    "NetworkPolicy": "Who may talk to some pods, and to whom they may talk.",
    "Node": "A machine that runs pods.",
    "PersistentVolume": "A piece of storage of the cluster, which a claim can be bound to.",
    "PersistentVolumeClaim": "A request for storage by a user.",
    "Pod": "A group of containers that run together on one node.",
    "PodDisruptionBudget": "How many of some pods may be away at a time by intention.",
    "PodSpec": "What a pod should run, and where.",
    "PodStatus": "The last reported state of a pod.",
    "Role": "A set of rules that bindings grant in one namespace.",
    "RoleBinding": "Grants a Role or ClusterRole to subjects in one namespace.",
    "Secret": "Sensitive data, base64-encoded in `data`.",
    "SelfSubjectAccessReview": "Asks whether the caller may perform an action.",
    "SelfSubjectRulesReview": "Asks what the caller may do in a namespace.",
    "Service": "A stable name and address for a set of pods.",
    "ServiceAccount": "An identity for the processes of a pod.",
    "SubjectAccessReview": "Asks whether a subject may perform an action.",
    "TokenReview": "Asks who the bearer of a token is.",
    "ValidatingAdmissionPolicy": "CEL expressions that decide whether a write is admitted.",
    "ValidatingAdmissionPolicyBinding": "Puts a ValidatingAdmissionPolicy into force for some objects.",
    "Volume": "Storage that the containers of a pod can mount.",
}
