"""What a security reviewer looks for in the rendered manifests: containers, volumes, exceptions."""

from typing import Any

import pytest

from tests.support.manifests import find, pod_templates, render

SHAPES = ["", "overlays/directories", "overlays/openshift", "overlays/nvme-pools"]


NOT_WINDOWS = {"key": "kubernetes.io/os", "operator": "NotIn", "values": ["windows"]}
API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def containers(shape: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod spec and container of every container, init containers included."""
    return [
        (f"{name}/{each['name']}", template["spec"], each)
        for name, template in pod_templates(render(shape))
        for each in [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_container_is_confined(shape: str) -> None:
    found = containers(shape)
    assert len(found) >= 3
    for name, pod, each in found:
        context = each["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"]["drop"] == ["ALL"], name
        assert "privileged" not in context, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        assert not any("hostPort" in port for port in each.get("ports", ())), name
        if not name.endswith("/prepare"):
            assert "add" not in context["capabilities"], name
            assert "runAsUser" not in context, name
            assert "runAsNonRoot" not in context, name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_init_container_is_the_only_exception(shape: str) -> None:
    exceptions = [each for name, _, each in containers(shape) if name.endswith("/prepare")]
    assert exceptions
    for each in exceptions:
        context = dict(each["securityContext"])
        context.pop("seLinuxOptions", None)
        assert context == {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
        }
        assert [mount["name"] for mount in each["volumeMounts"]] == ["cache"]


@pytest.mark.parametrize("shape", SHAPES)
def test_who_runs_as_root_gets_no_token(shape: str) -> None:
    for name, template in pod_templates(render(shape)):
        spec = template["spec"]
        if name == "modelcache-controller":
            continue
        assert spec["automountServiceAccountToken"] is False
        (agent,) = spec["containers"]
        (mount,) = (each for each in agent["volumeMounts"] if each["mountPath"] == API_TOKEN)
        sources = next(each["projected"]["sources"] for each in spec["volumes"] if each["name"] == mount["name"])
        # The files that clients look for, from where Kubernetes takes them itself.
        assert sources[0]["serviceAccountToken"] == {"path": "token", "expirationSeconds": 3607}
        assert sources[1]["configMap"]["name"] == "kube-root-ca.crt"
        assert [item["path"] for item in sources[1]["configMap"]["items"]] == ["ca.crt"]
        assert [item["path"] for item in sources[2]["downwardAPI"]["items"]] == ["namespace"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_container_has_requests_limits_and_probes(shape: str) -> None:
    for name, _, each in containers(shape):
        for amounts in (each["resources"]["requests"], each["resources"]["limits"]):
            assert amounts.keys() == {"cpu", "memory"}, name
        if not name.endswith("/prepare"):
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= each.keys(), name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_controller_is_asked_over_grpc(shape: str) -> None:
    deployment = find(render(shape), "Deployment", "modelcache-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    health = next(port["containerPort"] for port in container["ports"] if port["name"] == "health")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == health


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cache_has_the_same_path_on_both_sides(shape: str) -> None:
    objects = render(shape)
    settings = find(objects, "ConfigMap", "modelcache-agent-settings")["data"]
    roots = []
    for each in objects:
        if each["kind"] != "DaemonSet":
            continue
        spec = each["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        root = volumes["cache"]["hostPath"]["path"]
        for container in [*spec["initContainers"], *spec["containers"]]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            env = {item["name"]: item.get("value") for item in container["env"]}
            assert mounts["cache"] == env["MODELCACHE_ROOT"] == root
        roots.append(root)
    assert set(roots) <= set(settings.values())
    assert len(set(roots)) == len(roots)


@pytest.mark.parametrize("shape", SHAPES)
def test_agents_come_to_tainted_gpu_nodes_and_to_no_others(shape: str) -> None:
    daemons = [each for each in render(shape) if each["kind"] == "DaemonSet"]
    for each in daemons:
        spec = each["spec"]["template"]["spec"]
        assert {"operator": "Exists"} in spec["tolerations"]
        terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        expected = {"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]}
        assert {"matchExpressions": [expected, NOT_WINDOWS]} in terms
        # One term is enough for a node to fit.
        assert all(NOT_WINDOWS in term["matchExpressions"] and len(term["matchExpressions"]) == 2 for term in terms)


def test_applying_warns_of_nothing_whatever_the_cluster_warns_of_by_default() -> None:
    labels = find(render(), "Namespace", "modelcache-system")["metadata"]["labels"]
    modes = ("enforce", "audit", "warn")
    assert [labels[f"pod-security.kubernetes.io/{mode}"] for mode in modes] == ["privileged"] * 3


def test_openshift_labels_files_for_all_pods() -> None:
    objects = render("overlays/openshift")
    spec = find(objects, "DaemonSet", "modelcache-agent")["spec"]["template"]["spec"]
    assert spec["securityContext"]["seLinuxOptions"]["level"] == "s0"
    controller = find(objects, "Deployment", "modelcache-controller")["spec"]["template"]["spec"]
    assert "runAsUser" not in controller["securityContext"]
    constraints = find(objects, "SecurityContextConstraints", "modelcache-agent")
    assert constraints["allowPrivilegedContainer"] is False
    assert constraints["allowedCapabilities"] == ["CHOWN"]
    assert constraints["users"] == ["system:serviceaccount:modelcache-system:modelcache-agent"]


@pytest.mark.parametrize("shape", SHAPES)
def test_two_controllers_on_two_nodes_survive_a_drain(shape: str) -> None:
    objects = render(shape)
    deployment = find(objects, "Deployment", "modelcache-controller")
    assert deployment["spec"]["replicas"] == 2
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    # A tainted node is no place where a replica is missing.
    assert all(each["nodeTaintsPolicy"] == "Honor" for each in spread)
    terms = deployment["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {"matchExpressions": [NOT_WINDOWS]}
    ]
    budget = find(objects, "PodDisruptionBudget", "modelcache-controller")
    assert budget["spec"]["maxUnavailable"] == 1
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("shape", SHAPES)
def test_network_policies_deny_first_and_name_ports_that_exist(shape: str) -> None:
    objects = render(shape)
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    deny = find(objects, "NetworkPolicy", "modelcache-deny-all")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ports: dict[str, set[str]] = {}
    for _, template in pod_templates(objects):
        names = {port["name"] for each in template["spec"]["containers"] for port in each["ports"]}
        ports.setdefault(template["metadata"]["labels"]["app.kubernetes.io/name"], set()).update(names)
    for each in policies:
        spec = each["spec"]
        if spec["podSelector"]:
            subject = spec["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            for rule in spec.get("ingress", ()):
                assert {port["port"] for port in rule["ports"]} <= ports[subject]
        for rule in spec.get("egress", ()):
            for peer in rule.get("to", ()):
                name = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/name")
                if name:
                    assert {port["port"] for port in rule["ports"]} <= ports[name]
