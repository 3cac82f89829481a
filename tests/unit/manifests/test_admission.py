"""The two admission policies: their types, what they let pass, and what they refuse."""

import copy
from typing import Any

import pytest

from modelcache.api.labels import model_labels
from tests.support.admission import Policy
from tests.support.manifests import find, pod_templates, render

AGENT = "system:serviceaccount:modelcache-system:modelcache-agent"
CONTROLLER = "system:serviceaccount:modelcache-system:modelcache-controller"
CLAIM = "authentication.kubernetes.io/node-name"


def policy(name: str, kind: str) -> Policy:
    return Policy(find(render(), "ValidatingAdmissionPolicy", name), kind)


NODES = policy("modelcache-node-labels", "Node")
PODS = policy("modelcache-pods", "Pod")


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


@pytest.mark.parametrize("each", [NODES, PODS], ids=["node-labels", "pods"])
def test_every_expression_is_well_typed(each: Policy) -> None:
    assert each.problems() == []


@pytest.mark.parametrize("name", ["modelcache-node-labels", "modelcache-pods"])
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


def test_a_container_that_says_nothing_is_refused() -> None:
    bare = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    assert len(judge(bare)) == 4
