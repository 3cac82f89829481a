"""The admission policies: their types, what they let pass, and what they refuse."""

import copy
from typing import Any

import pytest

from controller.manifests import config_map_body
from controller.services import service_body
from controller.trust import NAME as AUTHORITY
from modelcache.api.labels import model_labels
from modelcache.api.model import DynamoModel
from modelcache.api.spec import Spec
from modelcache.kube.objects import ObjectMeta
from tests.support.admission import Policy
from tests.support.manifests import find, pod_templates, render

AGENT = "system:serviceaccount:modelcache-system:modelcache-agent"
CONTROLLER = "system:serviceaccount:modelcache-system:modelcache-controller"
CLAIM = "authentication.kubernetes.io/node-name"


def policy(name: str, kind: str) -> Policy:
    return Policy(find(render(), "ValidatingAdmissionPolicy", name), kind)


NODES = policy("modelcache-node-labels", "Node")
PODS = policy("modelcache-pods", "Pod")
CONFIG_MAPS = policy("modelcache-config-maps", "ConfigMap")
SERVICES = policy("modelcache-services", "Service")
POLICIES = {
    "modelcache-node-labels": NODES,
    "modelcache-pods": PODS,
    "modelcache-config-maps": CONFIG_MAPS,
    "modelcache-services": SERVICES,
}


def node(name: str = "node-1", **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": {},
    }


def request(user: str = AGENT, node_name: str | None = "node-1") -> dict[str, Any]:
    extra = {CLAIM: [node_name]} if node_name is not None else {}
    info: dict[str, Any] = {"username": user, "groups": ["system:authenticated"]}
    return {"userInfo": {**info, "extra": extra} if extra else info, "operation": "UPDATE"}


def changed(before: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    after = copy.deepcopy(before)
    place = after
    for part in path[:-1]:
        place = place.setdefault(part, {})
    place[path[-1]] = value
    return after


def test_these_are_all_policies() -> None:
    assert {each["metadata"]["name"] for each in render() if each["kind"] == "ValidatingAdmissionPolicy"} == set(
        POLICIES
    )


@pytest.mark.parametrize("name", POLICIES)
def test_every_expression_is_well_typed(name: str) -> None:
    assert POLICIES[name].problems() == []


@pytest.mark.parametrize("name", POLICIES)
def test_the_server_checks_the_types(name: str) -> None:
    """It does not where a version or a resource is a wildcard, and says nothing about it."""
    for rule in find(render(), "ValidatingAdmissionPolicy", name)["spec"]["matchConstraints"]["resourceRules"]:
        assert "*" not in "".join([*rule["apiGroups"], *rule["apiVersions"], *rule["resources"]])


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_in_force_and_fail_closed(name: str) -> None:
    objects = render()
    assert find(objects, "ValidatingAdmissionPolicy", name)["spec"]["failurePolicy"] == "Fail"
    binding = find(objects, "ValidatingAdmissionPolicyBinding", name)["spec"]
    assert binding["policyName"] == name
    assert "Deny" in binding["validationActions"]


# --- labels of nodes ------------------------------------------------------------------------------------------


def test_an_agent_may_announce_and_withdraw_models_on_its_own_node() -> None:
    before, ours = node(), model_labels("team", "llama", "a" * 40)
    after = node(**ours)
    assert NODES.refusals(request(), after, before) == []
    assert NODES.refusals(request(), before, after) == []
    bare = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {}}
    labelled = changed(bare, ("metadata", "labels"), ours)
    assert NODES.refusals(request(), labelled, bare) == []


@pytest.mark.parametrize("node_name", ["node-2", None, ""])
def test_an_agent_may_not_touch_another_node(node_name: str | None) -> None:
    after = node(**model_labels("team", "llama", "a" * 40))
    (message,) = NODES.refusals(request(node_name=node_name), after, node())
    assert "its token is bound to" in message


def test_a_claim_with_two_nodes_is_no_claim() -> None:
    forged = request()
    forged["userInfo"]["extra"][CLAIM] = ["node-1", "node-2"]
    assert len(NODES.refusals(forged, node(**model_labels("a", "b", "c")), node())) == 1


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("metadata", "labels", "nvidia.com/gpu.present"), "true", "nvidia.com/gpu.present"),
        (("metadata", "labels", "node-role.kubernetes.io/control-plane"), "", "control-plane"),
        (("metadata", "labels", "xmodelcache.nvidia.com/a"), "Ready", "xmodelcache.nvidia.com/a"),
        (("metadata", "labels", "modelcache.nvidia.com"), "Ready", "modelcache.nvidia.com"),
        (("metadata", "labels", "kubernetes.io/hostname"), "other", "kubernetes.io/hostname"),
        (("metadata", "labels"), {}, "kubernetes.io/hostname"),
        (("metadata", "annotations"), {"a": "b"}, "annotations"),
        (("metadata", "finalizers"), ["example.com/hold"], "finalizers"),
        (("metadata", "ownerReferences"), [{"name": "x", "uid": "1"}], "owners"),
        (("spec", "unschedulable"), True, "spec"),
        (("spec", "taints"), [{"key": "a", "effect": "NoExecute"}], "spec"),
    ],
)
@pytest.mark.parametrize("user", [AGENT, CONTROLLER])
def test_nothing_but_our_labels_may_be_changed(user: str, path: tuple[str, ...], value: Any, word: str) -> None:
    refusals = NODES.refusals(request(user), changed(node(), path, value), node())
    assert len(refusals) == 1
    assert word in refusals[0]


def test_the_controller_may_withdraw_labels_of_any_node() -> None:
    labelled = node("node-7", **model_labels("team", "llama", "a" * 40))
    assert NODES.refusals(request(CONTROLLER, None), node("node-7"), labelled) == []


def test_others_are_none_of_its_business() -> None:
    after = changed(node(), ("spec", "unschedulable"), True)
    assert NODES.refusals(request("system:node:node-1", None), after, node()) == []


# --- pods of the namespace --------------------------------------------------------------------------------------

TEMPLATES = dict(pod_templates(render()))
PARAMS = find(render(), "ConfigMap", "modelcache-agent-settings")


def pod(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(TEMPLATES[name])}


def judge(each: dict[str, Any], params: dict[str, Any] = PARAMS) -> list[str]:
    return PODS.refusals({"userInfo": {"username": "system:serviceaccount:kube-system:x"}}, each, None, params)


@pytest.mark.parametrize("shape", ["", "overlays/directories", "overlays/openshift", "overlays/nvme-pools"])
def test_our_own_pods_are_admitted(shape: str) -> None:
    objects = render(shape)
    params = find(objects, "ConfigMap", "modelcache-agent-settings")
    for name, template in pod_templates(objects):
        assert judge({"apiVersion": "v1", "kind": "Pod", **template}, params) == [], name


def test_the_agent_may_mount_no_other_directory_of_the_host() -> None:
    agent = pod("modelcache-agent")
    for volume in agent["spec"]["volumes"]:
        if "hostPath" in volume:
            volume["hostPath"]["path"] = "/etc"
    (message,) = judge(agent)
    assert "hostPath" in message


def test_nobody_else_may_mount_the_cache() -> None:
    agent = pod("modelcache-agent")
    agent["spec"]["serviceAccountName"] = "default"
    messages = judge(agent)
    assert any("hostPath" in message for message in messages)
    assert any("CHOWN" in message for message in messages)
    assert any("root" in message for message in messages)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("privileged", True, "privileged"),
        ("allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
        ("readOnlyRootFilesystem", False, "readOnlyRootFilesystem"),
        ("capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "capabilities"),
        ("capabilities", {}, "capabilities"),
        ("runAsUser", 0, "root"),
        ("runAsNonRoot", False, "root"),
        ("seccompProfile", {"type": "Unconfined"}, "seccomp"),
        ("seLinuxOptions", {"type": "spc_t"}, "SELinux"),
        ("seLinuxOptions", {"user": "sysadm_u"}, "SELinux"),
        ("seLinuxOptions", {"role": "sysadm_r"}, "SELinux"),
        ("appArmorProfile", {"type": "Unconfined"}, "AppArmor"),
        ("procMount", "Unmasked", "/proc"),
        ("windowsOptions", {"hostProcess": True}, "processes of the host"),
    ],
)
@pytest.mark.parametrize("name", ["modelcache-agent", "modelcache-controller"])
def test_no_container_is_less_confined(name: str, key: str, value: Any, word: str) -> None:
    each = pod(name)
    each["spec"]["containers"][0]["securityContext"][key] = value
    (message,) = judge(each)
    assert word in message


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("hostNetwork", True, "namespaces of the host"),
        ("hostPID", True, "namespaces of the host"),
        ("hostIPC", True, "namespaces of the host"),
        ("ephemeralContainers", [{"name": "debug"}], "ephemeral"),
    ],
)
def test_no_pod_looks_into_the_host(key: str, value: Any, word: str) -> None:
    each = pod("modelcache-agent")
    each["spec"][key] = value
    (message,) = judge(each)
    assert word in message


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("runAsUser", 0, "root"),
        ("seLinuxOptions", {"type": "spc_t"}, "SELinux"),
        ("seLinuxOptions", {"user": "sysadm_u"}, "SELinux"),
        ("appArmorProfile", {"type": "Unconfined"}, "AppArmor"),
        ("sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctls"),
        ("windowsOptions", {"hostProcess": True}, "processes of the host"),
    ],
)
@pytest.mark.parametrize("name", ["modelcache-agent", "modelcache-controller"])
def test_no_pod_is_less_confined(name: str, key: str, value: Any, word: str) -> None:
    each = pod(name)
    each["spec"]["securityContext"][key] = value
    (message,) = judge(each)
    assert word in message


def test_apparmor_is_not_left_by_annotation() -> None:
    each = pod("modelcache-agent")
    place = "container.apparmor.security.beta.kubernetes.io/agent"
    each["metadata"].setdefault("annotations", {})[place] = "unconfined"
    (message,) = judge(each)
    assert "AppArmor" in message
    each["metadata"]["annotations"][place] = "runtime/default"
    assert judge(each) == []


@pytest.mark.parametrize(
    ("place", "handler"),
    [
        ("livenessProbe", {"httpGet": {"host": "169.254.169.254", "port": 80}}),
        ("readinessProbe", {"tcpSocket": {"host": "10.0.0.1", "port": 22}}),
        ("startupProbe", {"httpGet": {"host": "10.0.0.1", "port": 80}}),
        ("lifecycle", {"postStart": {"httpGet": {"host": "10.0.0.1", "port": 80}}}),
        ("lifecycle", {"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}}),
    ],
)
def test_kubelets_are_sent_to_no_other_host(place: str, handler: dict[str, Any]) -> None:
    each = pod("modelcache-agent")
    each["spec"]["containers"][0][place] = handler
    (message,) = judge(each)
    assert "no other host" in message


def test_prepare_has_another_selinux_type_only_where_the_config_map_says_so() -> None:
    openshift = render("overlays/openshift")
    agent = {"apiVersion": "v1", "kind": "Pod", **dict(pod_templates(openshift))["modelcache-agent"]}
    assert judge(agent, find(openshift, "ConfigMap", "modelcache-agent-settings")) == []
    (message,) = judge(agent, PARAMS)
    assert "SELinux" in message


def test_what_the_config_map_says_besides_is_no_directory() -> None:
    agent = pod("modelcache-agent")
    for volume in agent["spec"]["volumes"]:
        if "hostPath" in volume:
            volume["hostPath"]["path"] = "spc_t"
    params = {**PARAMS, "data": {**PARAMS["data"], "prepareSELinuxType": "spc_t"}}
    (message,) = judge(agent, params)
    assert "hostPath" in message


def test_a_container_that_says_nothing_is_refused() -> None:
    bare = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    assert len(judge(bare)) == 4


# --- what the controller writes beside DynamoModels ---------------------------------------------------------------

MODEL = DynamoModel(
    metadata=ObjectMeta(name="llama", namespace="team", uid="0f8fad5b-d9cb-469f-a165-70867728950e"),
    spec=Spec(model_name="m"),
)


def by_controller(operation: str, namespace: str = "team") -> dict[str, Any]:
    return {"userInfo": {"username": CONTROLLER}, "operation": operation, "namespace": namespace}


def manifest() -> dict[str, Any]:
    return copy.deepcopy(config_map_body(MODEL, "ab" * 32, "key", 0, 1, b"x"))


def service() -> dict[str, Any]:
    return copy.deepcopy(service_body([MODEL], "Qwen/Qwen3-0.6B"))


def test_manifests_are_made_and_removed() -> None:
    assert CONFIG_MAPS.refusals(by_controller("CREATE"), manifest()) == []
    assert CONFIG_MAPS.refusals(by_controller("DELETE"), {}, manifest()) == []


def test_what_was_planted_under_the_name_of_a_manifest_may_be_removed() -> None:
    planted = changed(manifest(), ("metadata", "ownerReferences"), [])
    assert CONFIG_MAPS.refusals(by_controller("DELETE"), {}, planted) == []


def test_no_other_config_map_is_touched() -> None:
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "coredns", "namespace": "kube-system"}}
    assert len(CONFIG_MAPS.refusals(by_controller("DELETE", "kube-system"), {}, foreign)) == 1
    assert len(CONFIG_MAPS.refusals(by_controller("CREATE", "kube-system"), foreign)) == 2
    assert len(CONFIG_MAPS.refusals(by_controller("UPDATE", "kube-system"), foreign, foreign)) == 3
    assert len(CONFIG_MAPS.refusals(by_controller("UPDATE"), manifest(), manifest())) == 1
    unowned = changed(manifest(), ("metadata", "ownerReferences"), [])
    assert len(CONFIG_MAPS.refusals(by_controller("CREATE"), unowned)) == 1
    assert CONFIG_MAPS.refusals({**by_controller("DELETE"), "userInfo": {"username": "admin"}}, {}, foreign) == []


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
def test_the_authority_is_published_in_its_own_namespace_only(operation: str) -> None:
    bundle = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUTHORITY}}
    assert CONFIG_MAPS.refusals(by_controller(operation, "modelcache-system"), bundle, bundle) == []
    assert CONFIG_MAPS.refusals(by_controller(operation, "team"), bundle, bundle) != []


def test_services_of_workers_are_made_shared_and_removed() -> None:
    assert SERVICES.refusals(by_controller("CREATE"), service()) == []
    shared = changed(service(), ("metadata", "ownerReferences"), [{"kind": "DynamoModel"}, {"kind": "DynamoModel"}])
    assert SERVICES.refusals(by_controller("UPDATE"), shared, service()) == []
    assert SERVICES.refusals(by_controller("DELETE"), {}, service()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata", "name"), "kubernetes"),
        (("spec", "type"), "LoadBalancer"),
        (("spec", "type"), "ExternalName"),
        (("spec", "clusterIP"), "10.0.0.7"),
        (("spec", "externalIPs"), ["192.0.2.1"]),
        (("spec", "selector"), {"app": "bank"}),
        (("spec", "selector"), {}),
        (("metadata", "labels"), {}),
    ],
)
def test_no_other_service_is_made(path: tuple[str, ...], value: Any) -> None:
    assert len(SERVICES.refusals(by_controller("CREATE"), changed(service(), path, value))) == 1


def test_services_of_others_are_left_alone() -> None:
    foreign = changed(service(), ("metadata", "labels"), {"app.kubernetes.io/managed-by": "dynamo-operator"})
    assert len(SERVICES.refusals(by_controller("UPDATE"), service(), foreign)) == 1
    assert len(SERVICES.refusals(by_controller("DELETE"), {}, foreign)) == 1
