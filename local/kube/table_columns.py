"""The columns of the built-in kinds: k8s.io/kubernetes, pkg/printers/internalversion/printers.go.

One entry per kind: its columns, and a function from an object to the cells of its row.
"""

from datetime import datetime

from local.kube.ages import human_age
from local.kube.table_cells import (
    NONE,
    UNKNOWN,
    UNSET,
    BuiltinTable,
    Column,
    Object,
    Row,
    age_of,
    columns,
    container_columns,
    dig,
    labels_text,
    list_at,
    map_at,
    name_of,
    selector_text,
)
from local.kube.table_pods import pod_row


def _node(obj: Object, now: datetime) -> Row:
    conditions = {item.get("type"): item.get("status") for item in list_at(obj, "status", "conditions")}
    words = ["Ready" if conditions["Ready"] == "True" else "NotReady"] if "Ready" in conditions else ["Unknown"]
    if dig(obj, "spec", "unschedulable"):
        words.append("SchedulingDisabled")
    info = map_at(obj, "status", "nodeInfo")
    addresses = list_at(obj, "status", "addresses")

    def address(kind: str) -> str:
        return next((str(item.get("address")) for item in addresses if item.get("type") == kind), NONE)

    return Row(
        [
            name_of(obj),
            ",".join(words),
            _roles(map_at(obj, "metadata", "labels")),
            age_of(obj, now),
            info.get("kubeletVersion", ""),
            address("InternalIP"),
            address("ExternalIP"),
            info.get("osImage") or UNKNOWN,
            info.get("kernelVersion") or UNKNOWN,
            info.get("containerRuntimeVersion") or UNKNOWN,
        ]
    )


def _roles(labels: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix}
    if labels.get("kubernetes.io/role"):
        roles.add(labels["kubernetes.io/role"])
    return ",".join(sorted(roles)) or NONE


def _namespace(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), dig(obj, "status", "phase") or "", age_of(obj, now)])


def _service(obj: Object, now: datetime) -> Row:
    spec = map_at(obj, "spec")
    kind = spec.get("type", "ClusterIP")
    cluster_ips = list_at(spec, "clusterIPs")
    ip = (cluster_ips[0] if cluster_ips else spec.get("clusterIP")) or NONE
    external = ",".join(list_at(spec, "externalIPs"))
    if kind == "ExternalName":
        external = spec.get("externalName") or ""
    elif kind == "LoadBalancer":
        ingress = [item.get("ip") or item.get("hostname") for item in list_at(obj, "status", "loadBalancer", "ingress")]
        external = ",".join([*filter(None, ingress), *filter(None, [external])]) or "<pending>"
    ports = []
    for port in list_at(spec, "ports"):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    selector = labels_text(map_at(spec, "selector"))
    return Row([name_of(obj), kind, ip, external or NONE, ",".join(ports) or NONE, age_of(obj, now), selector])


def _endpoints(obj: Object, now: datetime) -> Row:
    shown = []
    for subset in list_at(obj, "subsets"):
        for address in list_at(subset, "addresses"):
            for port in list_at(subset, "ports") or [{}]:
                suffix = f":{port['port']}" if port else ""
                shown.append(f"{address.get('ip')}{suffix}")
    return Row([name_of(obj), _first_three(shown), age_of(obj, now)])


def _first_three(items: list[str]) -> str:
    if len(items) > 3:
        return f"{','.join(items[:3])} + {len(items) - 3} more..."
    return ",".join(items) or NONE


def _config_map(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), len(map_at(obj, "data")) + len(map_at(obj, "binaryData")), age_of(obj, now)])


def _secret(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), obj.get("type", ""), len(map_at(obj, "data")), age_of(obj, now)])


def _service_account(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), len(list_at(obj, "secrets")), age_of(obj, now)])


def _access_modes(holder: Object) -> str:
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    return ",".join(short[mode] for mode in short if mode in list_at(holder, "accessModes"))


def _phase(obj: Object) -> str:
    return "Terminating" if dig(obj, "metadata", "deletionTimestamp") else str(map_at(obj, "status").get("phase", ""))


def _volume(obj: Object, now: datetime) -> Row:
    spec, claim = map_at(obj, "spec"), map_at(obj, "spec", "claimRef")
    return Row(
        [
            name_of(obj),
            str(map_at(spec, "capacity").get("storage", "")),
            _access_modes(spec),
            spec.get("persistentVolumeReclaimPolicy", ""),
            _phase(obj),
            f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
            spec.get("storageClassName", ""),
            spec.get("volumeAttributesClassName") or UNSET,
            map_at(obj, "status").get("reason", ""),
            age_of(obj, now),
            spec.get("volumeMode") or UNSET,
        ]
    )


def _claim(obj: Object, now: datetime) -> Row:
    spec, status = map_at(obj, "spec"), map_at(obj, "status")
    bound = bool(spec.get("volumeName"))
    return Row(
        [
            name_of(obj),
            _phase(obj),
            spec.get("volumeName", ""),
            str(map_at(status, "capacity").get("storage", "")) if bound else "",
            _access_modes(status) if bound else "",
            spec.get("storageClassName", ""),
            spec.get("volumeAttributesClassName") or UNSET,
            age_of(obj, now),
            spec.get("volumeMode") or UNSET,
        ]
    )


def _event(obj: Object, now: datetime) -> Row:
    involved = map_at(obj, "involvedObject") or map_at(obj, "regarding")
    series = map_at(obj, "series")
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    count = series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1
    source = map_at(obj, "source") or map_at(obj, "deprecatedSource")
    reporter = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    host = source.get("host") or (obj.get("reportingInstance", "") if not source.get("component") else "")
    return Row(
        [
            human_age(last, now),
            obj.get("type", ""),
            obj.get("reason", ""),
            f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}",
            involved.get("fieldPath", ""),
            ", ".join(part for part in (reporter, host) if part),
            str(obj.get("message") or obj.get("note") or "").strip(),
            human_age(first, now),
            int(count),
            name_of(obj),
        ]
    )


# --- other groups -------------------------------------------------------------------------------------------------


def _lease(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), dig(obj, "spec", "holderIdentity") or "", age_of(obj, now)])


def _endpoint_slice(obj: Object, now: datetime) -> Row:
    ports = [str(port["port"]) if port.get("port") is not None else "*" for port in list_at(obj, "ports")]
    addresses = [address for item in list_at(obj, "endpoints") for address in list_at(item, "addresses")]
    kind = obj.get("addressType", "")
    return Row([name_of(obj), kind, _first_three(ports) if ports else UNSET, _unset_or(addresses), age_of(obj, now)])


def _unset_or(items: list[str]) -> str:
    return _first_three(items) if items else UNSET


def _daemon_set(obj: Object, now: datetime) -> Row:
    status, spec = map_at(obj, "status"), map_at(obj, "spec")
    names, images = container_columns(map_at(spec, "template", "spec"))
    numbers = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    return Row(
        [
            name_of(obj),
            *(int(status.get(number) or 0) for number in numbers),
            labels_text(map_at(spec, "template", "spec", "nodeSelector")),
            age_of(obj, now),
            names,
            images,
            selector_text(map_at(spec, "selector")),
        ]
    )


def _deployment(obj: Object, now: datetime) -> Row:
    status, spec = map_at(obj, "status"), map_at(obj, "spec")
    names, images = container_columns(map_at(spec, "template", "spec"))
    return Row(
        [
            name_of(obj),
            f"{int(status.get('readyReplicas') or 0)}/{int(spec.get('replicas') or 0)}",
            int(status.get("updatedReplicas") or 0),
            int(status.get("availableReplicas") or 0),
            age_of(obj, now),
            names,
            images,
            selector_text(map_at(spec, "selector")),
        ]
    )


def _role(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), dig(obj, "metadata", "creationTimestamp") or ""])


def _role_binding(obj: Object, now: datetime) -> Row:
    subjects = list_at(obj, "subjects")

    def names(kind: str) -> str:
        chosen = [item for item in subjects if item.get("kind") == kind]
        prefix = kind == "ServiceAccount"
        return ", ".join(f"{item.get('namespace')}/{item['name']}" if prefix else item["name"] for item in chosen)

    role = f"{dig(obj, 'roleRef', 'kind')}/{dig(obj, 'roleRef', 'name')}"
    return Row([name_of(obj), role, age_of(obj, now), names("User"), names("Group"), names("ServiceAccount")])


def _policy(obj: Object, now: datetime) -> Row:
    kind = map_at(obj, "spec", "paramKind")
    shown = f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET
    return Row([name_of(obj), len(list_at(obj, "spec", "validations")), shown, age_of(obj, now)])


def _policy_binding(obj: Object, now: datetime) -> Row:
    ref = map_at(obj, "spec", "paramRef")
    name = ref.get("name") or ("*" if ref.get("selector") else "")
    shown = "/".join(part for part in (ref.get("namespace"), name) if part) or UNSET
    return Row([name_of(obj), dig(obj, "spec", "policyName") or "", shown, age_of(obj, now)])


def _network_policy(obj: Object, now: datetime) -> Row:
    return Row([name_of(obj), selector_text(map_at(obj, "spec", "podSelector")), age_of(obj, now)])


def _disruption_budget(obj: Object, now: datetime) -> Row:
    spec = map_at(obj, "spec")
    limits = [str(spec[key]) if key in spec else "N/A" for key in ("minAvailable", "maxUnavailable")]
    return Row([name_of(obj), *limits, map_at(obj, "status").get("disruptionsAllowed", 0), age_of(obj, now)])


_EVENTS = BuiltinTable(
    columns(
        "Last Seen",
        "Type",
        "Reason",
        "Object",
        "*Subobject",
        "*Source",
        "Message",
        "*First Seen",
        "*#Count",
        "*Name",
    ),
    _event,
)
_BINDINGS = BuiltinTable(columns("Name", "Role", "Age", "*Users", "*Groups", "*ServiceAccounts"), _role_binding)
_ROLES = BuiltinTable((columns("Name")[0], Column("Created At", type="date")), _role)
_RBAC, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"

BUILTIN_TABLES: dict[tuple[str, str], BuiltinTable] = {
    ("", "ConfigMap"): BuiltinTable(columns("Name", "Data", "Age"), _config_map),
    ("", "Endpoints"): BuiltinTable(columns("Name", "Endpoints", "Age"), _endpoints),
    ("", "Event"): _EVENTS,
    ("", "Namespace"): BuiltinTable(columns("Name", "Status", "Age"), _namespace),
    ("", "Node"): BuiltinTable(
        columns(
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "*Internal-IP",
            "*External-IP",
            "*OS-Image",
            "*Kernel-Version",
            "*Container-Runtime",
        ),
        _node,
    ),
    ("", "PersistentVolume"): BuiltinTable(
        columns(
            "Name",
            "Capacity",
            "Access Modes",
            "Reclaim Policy",
            "Status",
            "Claim",
            "StorageClass",
            "VolumeAttributesClass",
            "Reason",
            "Age",
            "*VolumeMode",
        ),
        _volume,
    ),
    ("", "PersistentVolumeClaim"): BuiltinTable(
        columns(
            "Name",
            "Status",
            "Volume",
            "Capacity",
            "Access Modes",
            "StorageClass",
            "VolumeAttributesClass",
            "Age",
            "*VolumeMode",
        ),
        _claim,
    ),
    ("", "Pod"): BuiltinTable(
        columns("Name", "Ready", "Status", "Restarts", "Age", "*IP", "*Node", "*Nominated Node", "*Readiness Gates"),
        pod_row,
    ),
    ("", "Secret"): BuiltinTable(columns("Name", "Type", "#Data", "Age"), _secret),
    ("", "Service"): BuiltinTable(
        columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "*Selector"), _service
    ),
    ("", "ServiceAccount"): BuiltinTable(columns("Name", "#Secrets", "Age"), _service_account),
    (_ADMISSION, "ValidatingAdmissionPolicy"): BuiltinTable(
        columns("Name", "#Validations", "ParamKind", "Age"), _policy
    ),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): BuiltinTable(
        columns("Name", "PolicyName", "ParamRef", "Age"), _policy_binding
    ),
    ("apps", "DaemonSet"): BuiltinTable(
        columns(
            "Name",
            "#Desired",
            "#Current",
            "#Ready",
            "#Up-to-date",
            "#Available",
            "Node Selector",
            "Age",
            "*Containers",
            "*Images",
            "*Selector",
        ),
        _daemon_set,
    ),
    ("apps", "Deployment"): BuiltinTable(
        columns("Name", "Ready", "#Up-to-date", "#Available", "Age", "*Containers", "*Images", "*Selector"),
        _deployment,
    ),
    ("coordination.k8s.io", "Lease"): BuiltinTable(columns("Name", "Holder", "Age"), _lease),
    ("discovery.k8s.io", "EndpointSlice"): BuiltinTable(
        columns("Name", "AddressType", "Ports", "Endpoints", "Age"), _endpoint_slice
    ),
    ("events.k8s.io", "Event"): _EVENTS,
    ("networking.k8s.io", "NetworkPolicy"): BuiltinTable(columns("Name", "Pod-Selector", "Age"), _network_policy),
    ("policy", "PodDisruptionBudget"): BuiltinTable(
        columns("Name", "Min Available", "Max Unavailable", "#Allowed Disruptions", "Age"), _disruption_budget
    ),
    (_RBAC, "ClusterRole"): _ROLES,
    (_RBAC, "ClusterRoleBinding"): _BINDINGS,
    (_RBAC, "Role"): _ROLES,
    (_RBAC, "RoleBinding"): _BINDINGS,
}
