"""Names, ports and settings in the manifests are those of the program: nothing would say so before a cluster is at hand."""

from typing import Any

import pytest
from typer.main import get_command

from cli.main import app
from controller.main import LEASE
from controller.settings import Settings
from controller.trust import NAME as AUTHORITY
from modelcache.paths import PROJECTED
from modelcache.rpc.address import parse_address
from modelcache.rpc.commands import AUDIENCE
from tests.support.manifests import find, render
from tests.support.rbac import grants

NAMESPACE = "modelcache-system"
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # a group: there are several commands
AGENT = find(render(), "DaemonSet", "modelcache-agent")["spec"]["template"]["spec"]
CONTROLLER = find(render(), "Deployment", "modelcache-controller")["spec"]["template"]["spec"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


@pytest.mark.parametrize("shape", ["", "overlays/directories", "overlays/nvme-pools", "overlays/openshift"])
def test_every_setting_is_one_of_the_command(shape: str) -> None:
    # Read by the sources themselves, in whichever process (modelcache.sources.file).
    known_elsewhere = {"MODELCACHE_FILE_ROOTS", "MODELCACHE_CLAIMS"}
    # Read by commands that are given in the pod.
    known_elsewhere |= {parameter.envvar for parameter in COMMANDS["du"].params}
    for each in render(shape):
        if each["kind"] not in ("DaemonSet", "Deployment"):
            continue
        spec = each["spec"]["template"]["spec"]
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            command = COMMANDS[container["args"][0]]
            known = {parameter.envvar for parameter in command.params} | known_elsewhere
            assert {name for name in environment(container) if name.startswith("MODELCACHE_")} <= known


def test_what_is_listened_at_is_a_port_of_the_container() -> None:
    for spec, names in (
        (
            CONTROLLER,
            {
                "LISTEN": "agents",
                "ENROLMENT_LISTEN": "enrolment",
                "COMMANDS_LISTEN": "commands",
                "METRICS_LISTEN": "metrics",
                "HEALTH_LISTEN": "health",
            },
        ),
        (AGENT, {"PEER_LISTEN": "peers", "METRICS_LISTEN": "metrics"}),
    ):
        (container,) = spec["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports.keys() == set(names.values())
        for setting, name in names.items():
            text = environment(container)[f"MODELCACHE_{setting}"].replace("$(POD_IP)", "fd00::1")
            assert parse_address(text).port == ports[name]


def test_agents_look_for_the_controller_where_it_is() -> None:
    service = find(render(), "Service", "modelcache-controller")
    assert service["spec"]["clusterIP"] == "None"
    labels = find(render(), "Deployment", "modelcache-controller")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    (agent,) = AGENT["containers"]
    for setting, name in (("MODELCACHE_CONTROLLER", "agents"), ("MODELCACHE_ENROLMENT", "enrolment")):
        address = parse_address(environment(agent)[setting])
        assert address == (f"{service['metadata']['name']}.{NAMESPACE}.svc", ports[name])


def test_token_and_authorities_are_where_the_agent_looks() -> None:
    (agent,) = AGENT["containers"]
    mounts = {mount["name"]: mount for mount in agent["volumeMounts"]}
    assert mounts["identity"]["mountPath"] == str(PROJECTED)
    token, authorities = next(each for each in AGENT["volumes"] if each["name"] == "identity")["projected"]["sources"]
    assert token["serviceAccountToken"] == {"path": "token", "audience": "modelcache", "expirationSeconds": 3600}
    assert authorities["configMap"]["name"] == AUTHORITY
    assert authorities["configMap"]["optional"] is True
    assert [item["path"] for item in authorities["configMap"]["items"]] == ["ca.crt"]
    assert f"system:serviceaccount:{NAMESPACE}:{AGENT['serviceAccountName']}" == Settings().agent_user


def test_commands_in_the_pod_of_a_controller_find_the_one_that_leads() -> None:
    (controller,) = CONTROLLER["containers"]
    service = find(render(), "Service", "modelcache-controller")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    address = environment(controller)["MODELCACHE_COMMANDS_CONTROLLER"]
    assert parse_address(address) == (f"{service['metadata']['name']}.$(MODELCACHE_NAMESPACE).svc", ports["commands"])
    mounts = {mount["name"]: mount for mount in controller["volumeMounts"]}
    assert mounts["identity"]["mountPath"] == str(PROJECTED)
    token, authorities = next(each for each in CONTROLLER["volumes"] if each["name"] == "identity")["projected"][
        "sources"
    ]
    assert (token["serviceAccountToken"]["path"], token["serviceAccountToken"]["audience"]) == ("token", AUDIENCE)
    assert authorities["configMap"]["name"] == AUTHORITY
    for name in ("du", "gc", "evict", "verify"):
        known = {parameter.envvar for parameter in COMMANDS[name].params}
        assert "MODELCACHE_COMMANDS_CONTROLLER" in known


def test_the_named_grants_are_for_what_the_controller_names() -> None:
    named = {(grant.resource, grant.names) for grant in grants(render()) if grant.names}
    assert named == {
        ("customresourcedefinitions.apiextensions.k8s.io", "dynamomodels.nvidia.com"),
        ("leases.coordination.k8s.io", LEASE),
        ("secrets", AUTHORITY),
        ("configmaps", AUTHORITY),
    }
    assert Settings().namespace == NAMESPACE


def test_probes_ask_where_somebody_answers() -> None:
    (agent,) = AGENT["containers"]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert agent[probe]["httpGet"] == {"path": path, "port": "metrics"}
