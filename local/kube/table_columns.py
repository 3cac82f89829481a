"""The columns of the built-in kinds: k8s.io/kubernetes, pkg/printers/internalversion/printers.go.

One entry per kind: its columns, and a function from an object to the cells of its row. The functions trust nothing:
any field may be missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from local.kube.ages import human_age
from local.kube.object_meta import OBJECT_META

Object = dict[str, Any]

NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"


def metadata_text(name: str) -> str:
    """The description of a field of ObjectMeta."""
    return str(OBJECT_META["properties"][name]["description"])


@dataclass(frozen=True)
class Column:
    """One column; `priority` 1 is shown with `-o wide` only."""

    name: str
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""

    def definition(self) -> Object:
        """As a TableColumnDefinition."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True)
class Row:
    """The cells of one object, and the row's conditions (only completed pods have one)."""

    cells: list[Any]
    conditions: list[Object] = field(default_factory=list)


@dataclass(frozen=True)
class BuiltinTable:
    """The table of one kind."""

    columns: tuple[Column, ...]
    row: Callable[[Object, datetime], Row]


def _columns(*names: str) -> tuple[Column, ...]:
    """`Name` as the object's name, `Age` with its text, `*X` for wide only, `#X` for an integer."""
    columns = []
    for name in names:
        wide, integer = "*" in name, "#" in name
        bare = name.strip("*#")
        text = {"Name": metadata_text("name"), "Age": metadata_text("creationTimestamp")}.get(bare, f"{bare}.")
        columns.append(
            Column(
                bare,
                type="integer" if integer else "string",
                format="name" if bare == "Name" else "",
                priority=int(wide),
                description=text,
            )
        )
    return tuple(columns)


def _dig(obj: Any, *path: str) -> Any:
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj


def _list(obj: Any, *path: str) -> list[Any]:
    found = _dig(obj, *path)
    return found if isinstance(found, list) else []


def _map(obj: Any, *path: str) -> Object:
    found = _dig(obj, *path)
    return found if isinstance(found, dict) else {}


def _name(obj: Object) -> str:
    return str(_dig(obj, "metadata", "name") or "")


def _age(obj: Object, now: datetime) -> str:
    return human_age(_dig(obj, "metadata", "creationTimestamp"), now)


def _labels(labels: Object) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or NONE


def _selector(selector: Object) -> str:
    """A LabelSelector in the syntax of `-l`."""
    parts = [f"{key}={value}" for key, value in sorted(_map(selector, "matchLabels").items())]
    for item in _list(selector, "matchExpressions"):
        values = ",".join(sorted(_list(item, "values")))
        key = item.get("key", "")
        sign = item.get("operator")
        if sign in ("In", "NotIn"):
            parts.append(f"{key} {sign.lower()} ({values})")
        else:
            parts.append(key if sign == "Exists" else f"!{key}")
    return ",".join(parts) or NONE


def _containers(spec: Object) -> tuple[str, str]:
    containers = _list(spec, "containers")
    names = ",".join(str(item.get("name", "")) for item in containers)
    return names, ",".join(str(item.get("image", "")) for item in containers)


# --- core ---------------------------------------------------------------------------------------------------------


def _pod(obj: Object, now: datetime) -> Row:
    status, spec = _map(obj, "status"), _map(obj, "spec")
    statuses = [item for item in _list(status, "containerStatuses") if isinstance(item, dict)]
    sidecars = {item.get("name") for item in _list(spec, "initContainers") if item.get("restartPolicy") == "Always"}
    side_statuses = [item for item in _list(status, "initContainerStatuses") if item.get("name") in sidecars]
    counted = [*side_statuses, *statuses]
    ready = sum(bool(item.get("ready")) for item in counted)
    total = len(_list(spec, "containers")) + len(sidecars)
    ips = [item.get("ip") for item in _list(status, "podIPs")] or [status.get("podIP")]
    gates = _list(spec, "readinessGates")
    cells = [
        _name(obj),
        f"{ready}/{total}",
        _pod_reason(obj),
        _restarts(counted, now),
        _age(obj, now),
        ips[0] or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(gates, _list(status, "conditions")),
    ]
    verdict = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}.get(
        status.get("phase", "")
    )
    if verdict is None:
        return Row(cells)
    condition = {"type": "Completed", "status": "True", "reason": status["phase"], "message": verdict}
    return Row(cells, [condition])


def _gates(gates: list[Any], conditions: list[Any]) -> str:
    if not gates:
        return NONE
    true = {item.get("type") for item in conditions if item.get("status") == "True"}
    return f"{sum(gate.get('conditionType') in true for gate in gates)}/{len(gates)}"


def _restarts(statuses: list[Any], now: datetime) -> str:
    count = sum(int(item.get("restartCount") or 0) for item in statuses)
    ends = [_dig(item, "lastState", "terminated", "finishedAt") for item in statuses]
    last = max((end for end in ends if end), default=None)
    return f"{count} ({human_age(last, now)} ago)" if count and last else str(count)


def _pod_reason(obj: Object) -> str:
    """The word in the STATUS column: the most telling of phase, reasons of containers, and deletion."""
    status, spec = _map(obj, "status"), _map(obj, "spec")
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    for item in _list(status, "conditions"):
        if item.get("type") == "PodScheduled" and item.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    initializing = False
    inits = _list(spec, "initContainers")
    sidecars = {item.get("name") for item in inits if item.get("restartPolicy") == "Always"}
    for index, item in enumerate(_list(status, "initContainerStatuses")):
        state = _map(item, "state")
        ended = state.get("terminated")
        if (ended and not ended.get("exitCode")) or (item.get("name") in sidecars and item.get("started")):
            continue
        waiting = _dig(state, "waiting", "reason")
        if ended:
            reason = f"Init:{_ended(ended)}"
        elif waiting and waiting != "PodInitializing":
            reason = f"Init:{waiting}"
        else:
            reason = f"Init:{index}/{len(inits)}"
        initializing = True
        break
    if not initializing or _is_true(status, "Initialized"):
        running = False
        for item in reversed(_list(status, "containerStatuses")):
            state = _map(item, "state")
            if _dig(state, "waiting", "reason"):
                reason = str(state["waiting"]["reason"])
            elif state.get("terminated"):
                reason = _ended(state["terminated"])
            elif item.get("ready") and "running" in state:
                running = True
        if reason == "Completed" and running:
            reason = "Running" if _is_true(status, "Ready") else "NotReady"
    if _dig(obj, "metadata", "deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Failed", "Succeeded"):
            return "Terminating"
    return reason


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _is_true(status: Object, kind: str) -> bool:
    return any(item.get("type") == kind and item.get("status") == "True" for item in _list(status, "conditions"))


def _node(obj: Object, now: datetime) -> Row:
    conditions = {item.get("type"): item.get("status") for item in _list(obj, "status", "conditions")}
    words = ["Ready" if conditions["Ready"] == "True" else "NotReady"] if "Ready" in conditions else ["Unknown"]
    if _dig(obj, "spec", "unschedulable"):
        words.append("SchedulingDisabled")
    info = _map(obj, "status", "nodeInfo")
    addresses = _list(obj, "status", "addresses")

    def address(kind: str) -> str:
        return next((str(item.get("address")) for item in addresses if item.get("type") == kind), NONE)

    return Row(
        [
            _name(obj),
            ",".join(words),
            _roles(_map(obj, "metadata", "labels")),
            _age(obj, now),
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
    return Row([_name(obj), _dig(obj, "status", "phase") or "", _age(obj, now)])


def _service(obj: Object, now: datetime) -> Row:
    spec = _map(obj, "spec")
    kind = spec.get("type", "ClusterIP")
    cluster_ips = _list(spec, "clusterIPs")
    ip = (cluster_ips[0] if cluster_ips else spec.get("clusterIP")) or NONE
    external = ",".join(_list(spec, "externalIPs"))
    if kind == "ExternalName":
        external = spec.get("externalName") or ""
    elif kind == "LoadBalancer":
        ingress = [item.get("ip") or item.get("hostname") for item in _list(obj, "status", "loadBalancer", "ingress")]
        external = ",".join([*filter(None, ingress), *filter(None, [external])]) or "<pending>"
    ports = []
    for port in _list(spec, "ports"):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    selector = _labels(_map(spec, "selector"))
    return Row([_name(obj), kind, ip, external or NONE, ",".join(ports) or NONE, _age(obj, now), selector])


def _endpoints(obj: Object, now: datetime) -> Row:
    shown = []
    for subset in _list(obj, "subsets"):
        for address in _list(subset, "addresses"):
            for port in _list(subset, "ports") or [{}]:
                suffix = f":{port['port']}" if port else ""
                shown.append(f"{address.get('ip')}{suffix}")
    return Row([_name(obj), _first_three(shown), _age(obj, now)])


def _first_three(items: list[str]) -> str:
    if len(items) > 3:
        return f"{','.join(items[:3])} + {len(items) - 3} more..."
    return ",".join(items) or NONE


def _config_map(obj: Object, now: datetime) -> Row:
    return Row([_name(obj), len(_map(obj, "data")) + len(_map(obj, "binaryData")), _age(obj, now)])


def _secret(obj: Object, now: datetime) -> Row:
    return Row([_name(obj), obj.get("type", ""), len(_map(obj, "data")), _age(obj, now)])


def _service_account(obj: Object, now: datetime) -> Row:
    return Row([_name(obj), len(_list(obj, "secrets")), _age(obj, now)])


def _claim(obj: Object, now: datetime) -> Row:
    spec, status = _map(obj, "spec"), _map(obj, "status")
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    bound = bool(spec.get("volumeName"))
    modes = [short[mode] for mode in short if mode in _list(status, "accessModes")]
    phase = "Terminating" if _dig(obj, "metadata", "deletionTimestamp") else status.get("phase", "")
    return Row(
        [
            _name(obj),
            phase,
            spec.get("volumeName", ""),
            str(_map(status, "capacity").get("storage", "")) if bound else "",
            ",".join(modes) if bound else "",
            spec.get("storageClassName", ""),
            spec.get("volumeAttributesClassName") or UNSET,
            _age(obj, now),
            spec.get("volumeMode") or UNSET,
        ]
    )


def _event(obj: Object, now: datetime) -> Row:
    involved = _map(obj, "involvedObject") or _map(obj, "regarding")
    series = _map(obj, "series")
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    count = series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1
    source = _map(obj, "source") or _map(obj, "deprecatedSource")
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
            _name(obj),
        ]
    )


# --- other groups -------------------------------------------------------------------------------------------------


def _lease(obj: Object, now: datetime) -> Row:
    return Row([_name(obj), _dig(obj, "spec", "holderIdentity") or "", _age(obj, now)])


def _endpoint_slice(obj: Object, now: datetime) -> Row:
    ports = [str(port["port"]) if port.get("port") is not None else "*" for port in _list(obj, "ports")]
    addresses = [address for item in _list(obj, "endpoints") for address in _list(item, "addresses")]
    kind = obj.get("addressType", "")
    return Row([_name(obj), kind, _first_three(ports) if ports else UNSET, _unset_or(addresses), _age(obj, now)])


def _unset_or(items: list[str]) -> str:
    return _first_three(items) if items else UNSET


def _daemon_set(obj: Object, now: datetime) -> Row:
    status, spec = _map(obj, "status"), _map(obj, "spec")
    names, images = _containers(_map(spec, "template", "spec"))
    numbers = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    return Row(
        [
            _name(obj),
            *(int(status.get(number) or 0) for number in numbers),
            _labels(_map(spec, "template", "spec", "nodeSelector")),
            _age(obj, now),
            names,
            images,
            _selector(_map(spec, "selector")),
        ]
    )


def _deployment(obj: Object, now: datetime) -> Row:
    status, spec = _map(obj, "status"), _map(obj, "spec")
    names, images = _containers(_map(spec, "template", "spec"))
    return Row(
        [
            _name(obj),
            f"{int(status.get('readyReplicas') or 0)}/{int(spec.get('replicas') or 0)}",
            int(status.get("updatedReplicas") or 0),
            int(status.get("availableReplicas") or 0),
            _age(obj, now),
            names,
            images,
            _selector(_map(spec, "selector")),
        ]
    )


def _role(obj: Object, now: datetime) -> Row:
    return Row([_name(obj), _dig(obj, "metadata", "creationTimestamp") or ""])


def _role_binding(obj: Object, now: datetime) -> Row:
    subjects = _list(obj, "subjects")

    def names(kind: str) -> str:
        chosen = [item for item in subjects if item.get("kind") == kind]
        prefix = kind == "ServiceAccount"
        return ", ".join(f"{item.get('namespace')}/{item['name']}" if prefix else item["name"] for item in chosen)

    role = f"{_dig(obj, 'roleRef', 'kind')}/{_dig(obj, 'roleRef', 'name')}"
    return Row([_name(obj), role, _age(obj, now), names("User"), names("Group"), names("ServiceAccount")])


def _policy(obj: Object, now: datetime) -> Row:
    kind = _map(obj, "spec", "paramKind")
    shown = f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET
    return Row([_name(obj), len(_list(obj, "spec", "validations")), shown, _age(obj, now)])


def _policy_binding(obj: Object, now: datetime) -> Row:
    ref = _map(obj, "spec", "paramRef")
    name = ref.get("name") or ("*" if ref.get("selector") else "")
    shown = "/".join(part for part in (ref.get("namespace"), name) if part) or UNSET
    return Row([_name(obj), _dig(obj, "spec", "policyName") or "", shown, _age(obj, now)])


_EVENTS = BuiltinTable(
    _columns(
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
_BINDINGS = BuiltinTable(_columns("Name", "Role", "Age", "*Users", "*Groups", "*ServiceAccounts"), _role_binding)
_ROLES = BuiltinTable((_columns("Name")[0], Column("Created At", type="date")), _role)
_RBAC, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"

BUILTIN_TABLES: dict[tuple[str, str], BuiltinTable] = {
    ("", "ConfigMap"): BuiltinTable(_columns("Name", "Data", "Age"), _config_map),
    ("", "Endpoints"): BuiltinTable(_columns("Name", "Endpoints", "Age"), _endpoints),
    ("", "Event"): _EVENTS,
    ("", "Namespace"): BuiltinTable(_columns("Name", "Status", "Age"), _namespace),
    ("", "Node"): BuiltinTable(
        _columns(
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
    ("", "PersistentVolumeClaim"): BuiltinTable(
        _columns(
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
        _columns("Name", "Ready", "Status", "Restarts", "Age", "*IP", "*Node", "*Nominated Node", "*Readiness Gates"),
        _pod,
    ),
    ("", "Secret"): BuiltinTable(_columns("Name", "Type", "#Data", "Age"), _secret),
    ("", "Service"): BuiltinTable(
        _columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "*Selector"), _service
    ),
    ("", "ServiceAccount"): BuiltinTable(_columns("Name", "#Secrets", "Age"), _service_account),
    (_ADMISSION, "ValidatingAdmissionPolicy"): BuiltinTable(
        _columns("Name", "#Validations", "ParamKind", "Age"), _policy
    ),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): BuiltinTable(
        _columns("Name", "PolicyName", "ParamRef", "Age"), _policy_binding
    ),
    ("apps", "DaemonSet"): BuiltinTable(
        _columns(
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
        _columns("Name", "Ready", "#Up-to-date", "#Available", "Age", "*Containers", "*Images", "*Selector"),
        _deployment,
    ),
    ("coordination.k8s.io", "Lease"): BuiltinTable(_columns("Name", "Holder", "Age"), _lease),
    ("discovery.k8s.io", "EndpointSlice"): BuiltinTable(
        _columns("Name", "AddressType", "Ports", "Endpoints", "Age"), _endpoint_slice
    ),
    ("events.k8s.io", "Event"): _EVENTS,
    (_RBAC, "ClusterRole"): _ROLES,
    (_RBAC, "ClusterRoleBinding"): _BINDINGS,
    (_RBAC, "Role"): _ROLES,
    (_RBAC, "RoleBinding"): _BINDINGS,
}
