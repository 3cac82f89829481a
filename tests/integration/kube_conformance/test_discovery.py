"""What a client asks first: version, health, groups, resources and schemas."""

import pytest

from tests.integration.kube_conformance.objects import WIDGET_API, WIDGET_GROUP, WIDGET_VERSION
from tests.support.api import Api, Json
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_until

pytestmark = pytest.mark.conformance

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
READ_WRITE = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}


def resources(api: Api, path: str) -> dict[str, Json]:
    found = api.get(path).expect(200)
    assert found["kind"] == "APIResourceList"
    return {resource["name"]: resource for resource in found["resources"]}


def test_version_is_a_kubernetes_release(api: Api) -> None:
    version = api.get("/version").expect(200)
    assert version["major"] == "1"
    assert int(version["minor"].rstrip("+")) >= 32
    assert version["gitVersion"].startswith(f"v1.{version['minor'].rstrip('+')}.")


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health(api: Api, path: str) -> None:
    response = api.get(path)
    assert (response.status, response.body) == (200, b"ok")


def test_groups(api: Api) -> None:
    core = api.get("/api").expect(200)
    assert (core["kind"], core["versions"]) == ("APIVersions", ["v1"])
    listed = api.get("/apis").expect(200)
    assert listed["kind"] == "APIGroupList"
    groups = {group["name"]: group for group in listed["groups"]}
    for name in ("apiextensions.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io"):
        assert groups[name]["preferredVersion"] == {"groupVersion": f"{name}/v1", "version": "v1"}
        assert {"groupVersion": f"{name}/v1", "version": "v1"} in groups[name]["versions"]
    one = api.get("/apis/coordination.k8s.io").expect(200)
    assert (one["kind"], one["name"]) == ("APIGroup", "coordination.k8s.io")


def test_core_resources(api: Api) -> None:
    found = resources(api, "/api/v1")
    configmaps = found["configmaps"]
    assert configmaps["namespaced"] is True
    assert (configmaps["kind"], configmaps["singularName"], configmaps["shortNames"]) == (
        "ConfigMap",
        "configmap",
        ["cm"],
    )
    assert set(configmaps["verbs"]) == READ_WRITE
    assert (found["nodes"]["namespaced"], found["nodes"]["shortNames"]) == (False, ["no"])
    assert set(found["nodes/status"]["verbs"]) == {"get", "patch", "update"}
    assert found["pods"]["categories"] == ["all"]
    # Namespaces cannot be deleted as a collection.
    assert set(found["namespaces"]["verbs"]) == READ_WRITE - {"deletecollection"}


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/apis/coordination.k8s.io/v1", "leases", "Lease"),
        ("/apis/discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
        ("/apis/events.k8s.io/v1", "events", "Event"),
        ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition"),
        ("/apis/apps/v1", "daemonsets", "DaemonSet"),
    ],
)
def test_grouped_resources(api: Api, path: str, name: str, kind: str) -> None:
    resource = resources(api, path)[name]
    assert resource["kind"] == kind
    assert set(resource["verbs"]) == READ_WRITE


@pytest.mark.usefixtures("widget_crd")
def test_custom_resources(api: Api) -> None:
    found = resources(api, f"/apis/{WIDGET_API}")
    assert set(found) == {"widgets", "widgets/status"}
    assert found["widgets"]["namespaced"] is True
    assert (found["widgets"]["kind"], found["widgets"]["singularName"], found["widgets"]["shortNames"]) == (
        "Widget",
        "widget",
        ["wg"],
    )
    assert set(found["widgets"]["verbs"]) == READ_WRITE
    assert set(found["widgets/status"]["verbs"]) == {"get", "patch", "update"}


@pytest.mark.usefixtures("widget_crd")
def test_aggregated_discovery_of_groups(api: Api) -> None:
    def widget_group() -> Json | None:
        response = api.request("GET", "/apis", accept=AGGREGATED)
        found = response.expect(200)
        assert "apidiscovery.k8s.io" in response.headers["content-type"]
        assert (found["kind"], found["apiVersion"]) == ("APIGroupDiscoveryList", "apidiscovery.k8s.io/v2")
        return next((item for item in found["items"] if item["metadata"]["name"] == WIDGET_GROUP), None)

    version = wait_until(widget_group)["versions"][0]
    assert version["version"] == WIDGET_VERSION
    (resource,) = version["resources"]
    assert (resource["resource"], resource["singularResource"], resource["scope"]) == (
        "widgets",
        "widget",
        "Namespaced",
    )
    assert resource["responseKind"] == {"group": WIDGET_GROUP, "version": WIDGET_VERSION, "kind": "Widget"}
    assert resource["shortNames"] == ["wg"]
    assert set(resource["verbs"]) == READ_WRITE
    assert [sub["subresource"] for sub in resource["subresources"]] == ["status"]


def test_aggregated_discovery_of_the_core(api: Api) -> None:
    (core,) = api.request("GET", "/api", accept=AGGREGATED).expect(200)["items"]
    assert core["metadata"].get("name", "") == ""
    found = {resource["resource"]: resource for resource in core["versions"][0]["resources"]}
    assert found["nodes"]["scope"] == "Cluster"
    assert found["configmaps"]["responseKind"]["kind"] == "ConfigMap"


@pytest.mark.parametrize(
    "path",
    ["/apis/absent.example.com/v1", "/api/v1/namespaces/default/absents", "/apis/coordination.k8s.io/v1/absents"],
)
def test_unknown_paths(api: Api, path: str) -> None:
    assert api.get(path).status == 404


@pytest.mark.usefixtures("widget_crd")
def test_openapi_documents(api: Api) -> None:
    paths = api.get("/openapi/v3").expect(200)["paths"]

    def schemas(group_version: str) -> dict[str, Json]:
        url = paths[group_version]["serverRelativeURL"]
        found: dict[str, Json] = api.get(url).expect(200)["components"]["schemas"]
        return found

    def of_kind(found: dict[str, Json], kind: str) -> Json:
        return next(
            schema
            for schema in found.values()
            if any(gvk["kind"] == kind for gvk in schema.get("x-kubernetes-group-version-kind", []))
        )

    assert "data" in of_kind(schemas("api/v1"), "ConfigMap")["properties"]
    documented = of_kind(schemas(f"apis/{WIDGET_API}"), "Widget")
    spec = documented["properties"]["spec"]["properties"]
    assert spec["color"]["enum"] == ["red", "green", "blue"]
    assert spec["ports"]["x-kubernetes-list-map-keys"] == ["name"]
    assert spec["size"]["description"] == "Edge length in millimetres."


@pytest.mark.usefixtures("widget_crd")
def test_kubectl_lists_resources(kubectl: Kubectl) -> None:
    assert ["widgets", "wg", WIDGET_API, "true", "Widget"] in kubectl("api-resources").table()
    cluster_wide = kubectl("api-resources", "--namespaced=false", "-o", "name").lines()
    assert {"nodes", "namespaces", "customresourcedefinitions.apiextensions.k8s.io"} <= set(cluster_wide)
    assert "configmaps" not in cluster_wide
    only = kubectl("api-resources", f"--api-group={WIDGET_GROUP}", "-o", "name").lines()
    assert only == [f"widgets.{WIDGET_GROUP}"]
    assert {"v1", "coordination.k8s.io/v1", WIDGET_API} <= set(kubectl("api-versions").lines())


def test_kubectl_names_an_unknown_type(kubectl: Kubectl) -> None:
    result = kubectl("get", "absents", check=False)
    assert result.code == 1
    assert 'the server doesn\'t have a resource type "absents"' in result.stderr


@pytest.mark.usefixtures("widget_crd")
def test_kubectl_version(kubectl: Kubectl) -> None:
    assert kubectl("version", "-o", "json").json()["serverVersion"]["major"] == "1"
