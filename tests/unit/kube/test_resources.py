"""Addresses of objects: paths that cannot be escaped from."""

from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube.errors import Invalid
from modelcache.kube.resources import CRDS, DYNAMO_MODELS, LEASES, NODES, PODS, SECRETS, ObjectKey, ResourceType


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (NODES, (), "/api/v1/nodes"),
        (NODES, ("worker-1",), "/api/v1/nodes/worker-1"),
        (PODS, (), "/api/v1/pods"),
        (PODS, ("", "team-a"), "/api/v1/namespaces/team-a/pods"),
        (PODS, ("web-0", "team-a", "status"), "/api/v1/namespaces/team-a/pods/web-0/status"),
        (DYNAMO_MODELS, ("m", "a"), "/apis/nvidia.com/v1alpha1/namespaces/a/dynamomodels/m"),
        (LEASES, ("x", "y"), "/apis/coordination.k8s.io/v1/namespaces/y/leases/x"),
        (NODES, ("system:node:ä b?c#d",), "/api/v1/nodes/system%3Anode%3A%C3%A4%20b%3Fc%23d"),
    ],
)
def test_paths(resource: ResourceType, arguments: tuple[str, ...], path: str) -> None:
    assert resource.path(*arguments) == path


@pytest.mark.parametrize(
    ("resource", "name", "namespace"),
    [
        (SECRETS, "../../nodes/x", "team-a"),
        (SECRETS, "..", "team-a"),
        (SECRETS, ".", "team-a"),
        (SECRETS, "a%2Fb", "team-a"),
        (SECRETS, "token", "team-a/secrets/other"),
        (SECRETS, "half\ud83d", "team-a"),
        (SECRETS, "token", ".."),
        (SECRETS, "token", ""),
        (NODES, "worker-1", "team-a"),
    ],
)
def test_what_is_no_address_is_refused(resource: ResourceType, name: str, namespace: str) -> None:
    with pytest.raises(Invalid):
        resource.path(name, namespace)


ANY = st.text(st.characters(), min_size=1, max_size=40)


@settings(deadline=None)
@given(name=ANY, namespace=ANY)
def test_every_name_is_one_segment_or_refused(name: str, namespace: str) -> None:
    try:
        path = SECRETS.path(name, namespace)
    except Invalid:
        return
    segments = path.split("/")
    assert len(segments) == 7
    assert [unquote(segments[4]), segments[5], unquote(segments[6])] == [namespace, "secrets", name]


def test_names_for_people() -> None:
    assert CRDS.qualified == "customresourcedefinitions.apiextensions.k8s.io"
    assert PODS.api_version == "v1"
    assert DYNAMO_MODELS.api_version == "nvidia.com/v1alpha1"
    assert DYNAMO_MODELS.describe("llama", "team-a", "status") == 'dynamomodels.nvidia.com/status "team-a/llama"'
    assert PODS.describe("", "team-a") == 'pods in namespace "team-a"'
    assert NODES.describe() == "nodes"
    assert PODS.describe("a\nb\x1b[31m", "x") == 'pods "x/a b [31m"'
    assert str(ObjectKey("", "worker-1")) == "worker-1"
    assert sorted([ObjectKey("b", "a"), ObjectKey("a", "z")])[0] == ObjectKey("a", "z")
