"""What the server fills into built-in objects when the value depends on other fields, and so fits no schema.

`complete` runs after `apply_defaults` on creates and updates and is idempotent. The rules are those of
pkg/apis/*/v1/defaults.go and of the create strategies of the real server.
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"


def complete(group: str, kind: str, obj: Object) -> None:
    """Fill in the dependent defaults of a built-in object, in place; other kinds are left alone."""
    rule = _RULES.get((group, kind))
    if rule is not None:
        rule(obj)


def _namespace(obj: Object) -> None:
    name = obj.get("metadata", {}).get("name")
    if name:
        # The server puts this label on every namespace, so that selectors can name them.
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": name}
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _pod(obj: Object) -> None:
    spec = obj.get("spec", {})
    _pod_spec(spec)
    status = obj.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _qos_class(spec))


def _workload(obj: Object) -> None:
    _pod_spec(obj.get("spec", {}).get("template", {}).get("spec", {}))


def _pod_spec(spec: Object) -> None:
    for container in _containers(spec):
        if "image" in container:
            container.setdefault("imagePullPolicy", _pull_policy(container["image"]))
        resources = container.get("resources", {})
        for amounts in (resources.get("limits"), resources.get("requests")):
            _stringify(amounts)
        for name, amount in (resources.get("limits") or {}).items():
            resources.setdefault("requests", {}).setdefault(name, amount)
        if spec.get("hostNetwork"):
            for port in container.get("ports", ()):
                port.setdefault("hostPort", port.get("containerPort"))
    for volume in spec.get("volumes", ()):
        if set(volume) == {"name"}:
            volume["emptyDir"] = {}
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]  # the deprecated name of the same field


def _containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _pull_policy(image: str) -> str:
    name = image.rsplit("/", 1)[-1]
    moving = "@" not in name and (":" not in name or name.endswith(":latest"))
    return "Always" if moving else "IfNotPresent"


def _qos_class(spec: Object) -> str:
    """Guaranteed when every container limits cpu and memory to what it requests, BestEffort when none asks anything."""
    guaranteed, asked = True, False
    for container in _containers(spec):
        resources = container.get("resources", {})
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            asked = asked or name in limits or name in requests
            guaranteed = guaranteed and name in limits and requests.get(name) == limits[name]
    if not asked:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _stringify(amounts: Object | None) -> None:
    """Quantities may be written as numbers; the server answers with strings."""
    for name, amount in (amounts or {}).items():
        if isinstance(amount, (int, float)) and not isinstance(amount, bool) and amounts is not None:
            amounts[name] = f"{amount:g}" if isinstance(amount, float) else str(amount)


def _node(obj: Object) -> None:
    for field in ("allocatable", "capacity"):
        _stringify(obj.get("status", {}).get(field))


def _claim(obj: Object) -> None:
    resources = obj.get("spec", {}).get("resources", {})
    _stringify(resources.get("requests"))
    _stringify(resources.get("limits"))
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _volume(obj: Object) -> None:
    _stringify(obj.get("spec", {}).get("capacity"))
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for port in spec.get("ports", ()):
        if spec.get("type") != "ExternalName":
            port.setdefault("targetPort", port.get("port"))
    if spec.get("type") == "ExternalName":
        spec.pop("internalTrafficPolicy", None)
    if spec.get("sessionAffinity") == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec.get("type") == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def _secret(obj: Object) -> None:
    # `stringData` is write-only: it goes into `data`, base64-encoded, and wins over it.
    for key, text in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()


def _binding(obj: Object) -> None:
    for subject in obj.get("subjects", ()):
        subject.setdefault("apiGroup", "" if subject.get("kind") == "ServiceAccount" else _RBAC)
        if not subject["apiGroup"]:
            del subject["apiGroup"]  # written with omitempty


def _network_policy(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("policyTypes", ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


_RULES: dict[tuple[str, str], Callable[[Object], None]] = {
    ("", "Namespace"): _namespace,
    ("", "Node"): _node,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "PersistentVolume"): _volume,
    ("", "Pod"): _pod,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("apps", "DaemonSet"): _workload,
    ("apps", "Deployment"): _workload,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    (_RBAC, "ClusterRoleBinding"): _binding,
    (_RBAC, "RoleBinding"): _binding,
}
