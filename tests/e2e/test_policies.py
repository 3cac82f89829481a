"""The whole way of a model with what `manifests/` allows and no more: ServiceAccounts instead of administrators, admission
policies in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelcache.api.labels import ready_label
from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of, write_repository
from tests.support.kubectl import Kubectl
from tests.support.manifests import render
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap",
         "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")  # fmt: skip


@pytest.fixture(autouse=True)
def repository(repositories: Path) -> Path:
    write_repository(repositories, "org/name", {"config.json": b"{}", "model.safetensors": b"weights" * 1000})
    return repositories / "org" / "name"


def installation(namespace: str) -> list[dict[str, Any]]:
    """What `manifests/` says about who may do what, for this namespace, under names of its own where there is none."""
    text = json.dumps([each for each in render() if each["kind"] in KINDS])
    objects: list[dict[str, Any]] = json.loads(text.replace("modelcache-system", namespace))
    for each in objects:
        if "namespace" not in each["metadata"]:
            each["metadata"]["name"] += f"-{namespace}"
        if each.get("roleRef", {}).get("kind") == "ClusterRole":
            each["roleRef"]["name"] += f"-{namespace}"
        if "policyName" in each.get("spec", {}):
            each["spec"]["policyName"] += f"-{namespace}"
    return objects


def as_account(api: Api, kubeconfig: Path, path: Path, account: str, pod: str = "") -> Path:
    """A kubeconfig with a token of a ServiceAccount (its address), bound to a pod if one is named."""
    spec: dict[str, Any] = {}
    if pod:
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    config = yaml.safe_load(kubeconfig.read_text())
    token = api.post(f"{account}/token", body).expect(201)["status"]["token"]
    config["users"] = [{"name": "account", "user": {"token": token}}]
    for context in config["contexts"]:
        context["context"]["user"] = "account"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def restricted(
    installed: None, api: Api, kubectl: Kubectl, kubeconfig: Path, tmp_path: Path, hub: HubProcess,
    request: pytest.FixtureRequest,
) -> Iterator[CacheCluster]:  # fmt: skip
    """Two nodes and a controller, each with the identity that it has in a cluster."""
    cluster = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub, nodes=2)
    objects = yaml.safe_dump_all(installation(cluster.namespace))
    try:
        cluster.project(*cluster.nodes)
        kubectl("apply", "--server-side", "-f", "-", input=objects)
        accounts = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts"
        of = {"controller": ("controller", "")} | {
            node: ("agent", f"modelcache-agent-{node}") for node in cluster.nodes
        }
        for name, (account, pod) in of.items():
            path = f"{accounts}/modelcache-{account}"
            cluster.identities[name] = as_account(api, kubeconfig, tmp_path / f"{name}.yaml", path, pod)
        cluster.start_controller()
        for node in cluster.nodes:
            cluster.start_agent(node)
        cluster.wait_connected()
        yield cluster
    finally:
        request.node.add_report_section("teardown", "cluster logs", cluster.all_logs()[-40000:])
        cluster.close()
        kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=objects)


def test_a_model_comes_and_goes_and_nobody_may_do_more_than_that(
    restricted: CacheCluster, api: Api, namespace: str, repository: Path
) -> None:
    model = Model(api, namespace, "one")
    model.create("hf://org/name")
    model.wait_ready()
    assert restricted.ready_nodes(namespace, "one") == restricted.nodes
    for node in restricted.nodes:
        assert tree_of(restricted.paths(node).current(namespace, "one")) == tree_of(repository)

    mine, other = restricted.nodes
    agent, controller = Api(restricted.identities[mine]), Api(restricted.identities["controller"])

    def label(who: Api, node: str, name: str) -> tuple[int, str]:
        answer = who.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {name: "Ready"}}}, dryRun="All")
        return answer.status, answer.json().get("message", "")

    own = ready_label("team", "model")
    assert label(agent, mine, own)[0] == 200
    for who, node, name, words in (
        (agent, other, own, "an agent may change the Node that its token is bound to, and no other"),
        (agent, mine, "node-role.kubernetes.io/control-plane", "not node-role.kubernetes.io/control-plane"),
        (controller, mine, "nvidia.com/gpu.present", "not nvidia.com/gpu.present"),
    ):
        status, message = label(who, node, name)
        assert (status, message.endswith(words)) == (403, True), message
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stranger"}}
    assert "denied request: the controller writes ConfigMaps with" in controller.post(maps, stranger).json()["message"]
    manifest = api.get(maps).expect(200)["items"][0]["metadata"]["name"]
    assert controller.patch(f"{maps}/{manifest}", {"metadata": {"labels": {"x": "y"}}}).status == 403

    model.delete()
    wait_until(model.gone, what="gone")
    assert all(restricted.labels(node) == {} for node in restricted.nodes)
    assert "denied request" not in restricted.all_logs(), "daemons ask for nothing that they are not allowed"
