"""What both daemons have in common: paths of the API as labels, and labels that cannot grow without end."""

import pytest
from prometheus_client import CollectorRegistry

from modelcache.kube.session import Call
from modelcache.metrics import ApiRequests, Bounded, resource_of


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/nodes", "nodes"),
        ("/api/v1/nodes/node-1", "nodes"),
        ("/api/v1/namespaces/team/secrets/token", "secrets"),
        ("/apis/nvidia.com/v1alpha1/dynamomodels", "dynamomodels"),
        ("/apis/nvidia.com/v1alpha1/namespaces/a/dynamomodels/b/status", "dynamomodels/status"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
        ("/apis", "discovery"),
        ("/version", "discovery"),
    ],
)
def test_the_resource_of_a_path_names_no_object(path: str, resource: str) -> None:
    assert resource_of(path) == resource


def test_a_bounded_label_keeps_what_it_knows() -> None:
    label = Bounded(2)
    assert [label(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_requests_are_counted_by_what_they_ask() -> None:
    registry = CollectorRegistry()
    call = Call("PATCH", "/api/v1/nodes/node-1", {}, None, "", 1.0, "patch", "Node node-1")
    ApiRequests(registry).observe(call, "409", 0.3)
    labels = {"verb": "patch", "resource": "nodes", "code": "409"}
    assert registry.get_sample_value("modelcache_api_requests_total", labels) == 1
