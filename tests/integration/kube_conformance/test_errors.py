"""Refusals: every one is a `Status` object with a code, a reason and a message that names what is wrong."""

import pytest

from tests.integration.kube_conformance.objects import configmap, pod, widget
from tests.support.api import JSON_PATCH, STRATEGIC_PATCH, Api, Json

pytestmark = pytest.mark.conformance


def refused(found: Json, code: int, reason: str) -> Json:
    assert (found["apiVersion"], found["kind"], found["status"]) == ("v1", "Status", "Failure")
    assert (found["code"], found["reason"]) == (code, reason)
    return found


def test_not_found(api: Api, configmaps: str, widgets: str) -> None:
    status = refused(api.get(f"{configmaps}/absent").expect(404), 404, "NotFound")
    assert status["message"] == 'configmaps "absent" not found'
    assert status["details"] == {"name": "absent", "kind": "configmaps"}
    status = refused(api.get(f"{widgets}/absent").expect(404), 404, "NotFound")
    assert status["message"] == 'widgets.conformance.example.com "absent" not found'
    assert status["details"] == {"name": "absent", "group": "conformance.example.com", "kind": "widgets"}


def test_already_exists(api: Api, configmaps: str, widgets: str) -> None:
    api.post(configmaps, configmap("a")).expect(201)
    status = refused(api.post(configmaps, configmap("a")).expect(409), 409, "AlreadyExists")
    assert status["message"] == 'configmaps "a" already exists'
    assert status["details"] == {"name": "a", "kind": "configmaps"}
    api.post(widgets, widget("a")).expect(201)
    status = refused(api.post(widgets, widget("a")).expect(409), 409, "AlreadyExists")
    assert status["message"] == 'widgets.conformance.example.com "a" already exists'


def test_namespace_must_exist(api: Api) -> None:
    response = api.post("/api/v1/namespaces/absent/configmaps", configmap("a"))
    status = refused(response.expect(404), 404, "NotFound")
    assert status["message"] == 'namespaces "absent" not found'
    assert status["details"] == {"name": "absent", "kind": "namespaces"}


def test_body_and_url_must_agree(api: Api, configmaps: str) -> None:
    status = refused(api.post(configmaps, configmap("a", namespace="other")).expect(400), 400, "BadRequest")
    assert "namespace of the provided object does not match the namespace sent on the request" in status["message"]
    api.post(configmaps, configmap("a")).expect(201)
    status = refused(api.put(f"{configmaps}/a", configmap("b")).expect(400), 400, "BadRequest")
    assert status["message"] == "the name of the object (b) does not match the name on the URL (a)"


def test_malformed_bodies(api: Api, configmaps: str, widgets: str) -> None:
    for path in (configmaps, widgets):
        refused(api.post(path, "{").expect(400), 400, "BadRequest")
    refused(api.post(configmaps, widget("a")).expect(400), 400, "BadRequest")
    refused(api.post(widgets, configmap("a")).expect(400), 400, "BadRequest")
    refused(api.post(configmaps, {**configmap("a"), "data": {"k": 5}}).expect(400), 400, "BadRequest")
    refused(api.post(configmaps, configmap("a", labels={"k": 5})).expect(400), 400, "BadRequest")


def test_unsupported_media_types(api: Api, configmaps: str, widgets: str) -> None:
    response = api.request("POST", configmaps, configmap("a"), content_type="text/plain")
    status = refused(response.expect(415), 415, "UnsupportedMediaType")
    assert "the body of the request was in an unknown format - accepted media types include:" in status["message"]
    assert "application/json" in status["message"]
    api.post(configmaps, configmap("a")).expect(201)
    status = refused(api.patch(f"{configmaps}/a", {}, "application/json").expect(415), 415, "UnsupportedMediaType")
    assert "application/merge-patch+json" in status["message"]
    # Custom resources have no strategic merge patch: their schema does not say how lists merge on the client's side.
    api.post(widgets, widget("a")).expect(201)
    status = refused(api.patch(f"{widgets}/a", {}, STRATEGIC_PATCH).expect(415), 415, "UnsupportedMediaType")
    assert "application/merge-patch+json" in status["message"]
    assert STRATEGIC_PATCH not in status["message"]


def test_unacceptable_answers(api: Api, configmaps: str) -> None:
    response = api.request("GET", configmaps, accept="text/csv")
    assert response.status == 406


def test_unsupported_methods(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a")).expect(201)
    refused(api.post(f"{configmaps}/a", configmap("a")).expect(405), 405, "MethodNotAllowed")
    refused(api.put(configmaps, configmap("a")).expect(405), 405, "MethodNotAllowed")


def test_unreadable_patches(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a", {"k": "v"})).expect(201)
    refused(api.patch(f"{configmaps}/a", "{").expect(400), 400, "BadRequest")
    refused(api.patch(f"{configmaps}/a", {"op": "remove"}, JSON_PATCH).expect(400), 400, "BadRequest")
    assert api.patch(f"{configmaps}/a", {"data": {"k": 5}}).status in (400, 422)
    assert api.get(f"{configmaps}/a").expect(200)["data"] == {"k": "v"}


def test_unknown_fields(api: Api, configmaps: str, widgets: str) -> None:
    bogus_map = {**configmap("a"), "datum": {"k": "v"}}
    bogus_widget = widget("a", bogus=1, nested={"also": 1})
    for path, body, field in ((configmaps, bogus_map, "datum"), (widgets, bogus_widget, "spec.bogus")):
        status = refused(api.post(path, body, fieldValidation="Strict").expect(400), 400, "BadRequest")
        assert "strict decoding error: " in status["message"]
        assert f'unknown field "{field}"' in status["message"]
    status = api.post(widgets, bogus_widget, fieldValidation="Strict").expect(400)
    assert 'unknown field "spec.nested.also"' in status["message"]
    # A warning is the default; the fields are dropped.
    response = api.post(widgets, bogus_widget)
    assert response.expect(201)["spec"].get("bogus") is None
    assert "unknown field" in response.headers["warning"]
    assert "spec.bogus" in response.headers["warning"]
    silent = api.post(widgets, {**bogus_widget, "metadata": {"name": "b"}}, fieldValidation="Ignore")
    silent.expect(201)
    assert "warning" not in silent.headers


def test_repeated_fields(api: Api, configmaps: str) -> None:
    body = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1","k":"2"}}'
    response = api.request("POST", configmaps, body, query={"fieldValidation": "Strict"})
    assert "duplicate field" in refused(response.expect(400), 400, "BadRequest")["message"]


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash", "dash-", "a..b", "ü", "a b", "a" * 254])
def test_names_are_dns_subdomains(api: Api, configmaps: str, widgets: str, name: str) -> None:
    wrong = "must be no more than 253" if len(name) > 253 else "a lowercase RFC 1123 subdomain must consist of"
    for path, body in ((configmaps, configmap(name)), (widgets, widget(name))):
        status = refused(api.post(path, body).expect(422), 422, "Invalid")
        assert f'metadata.name: Invalid value: "{name}": {wrong}' in status["message"]
        (cause,) = status["details"]["causes"]
        assert (cause["reason"], cause["field"]) == ("FieldValueInvalid", "metadata.name")


def test_message_of_a_bad_name(api: Api, configmaps: str) -> None:
    assert api.post(configmaps, configmap("Bad_Name")).expect(422)["message"] == (
        'ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must '
        "consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
        "character (e.g. 'example.com', regex used for validation is "
        r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"k": "no blanks"}, 'metadata.labels: Invalid value: "no blanks": a valid label must be an empty string or'),
        ({"k": "-x"}, 'metadata.labels: Invalid value: "-x": a valid label must be an empty string or consist of'),
        ({"k": "x" * 64}, "must be no more than 63"),
        ({"a b": "v"}, 'metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters'),
        ({"example.com/": "v"}, 'metadata.labels: Invalid value: "example.com/": name part must be non-empty'),
        ({"Example.com/a": "v"}, 'metadata.labels: Invalid value: "Example.com/a": prefix part a lowercase RFC 1123'),
        ({"example.com/" + "x" * 64: "v"}, "name part must be no more than 63"),
    ],
)
def test_labels(api: Api, configmaps: str, widgets: str, labels: dict[str, str], message: str) -> None:
    for path, body in ((configmaps, configmap("a", labels=labels)), (widgets, widget("a", {"labels": labels}))):
        assert message in refused(api.post(path, body).expect(422), 422, "Invalid")["message"]


def test_annotations(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("a", annotations={"example.com/any": "text\nof ünlimited kind"})).expect(201)
    status = refused(api.post(configmaps, configmap("b", annotations={"a b": ""})).expect(422), 422, "Invalid")
    assert 'metadata.annotations: Invalid value: "a b": name part must consist of' in status["message"]
    too_long = configmap("c", annotations={"k": "x" * (256 * 1024)})
    status = refused(api.post(configmaps, too_long).expect(422), 422, "Invalid")
    assert "metadata.annotations: Too long" in status["message"]


def test_configmap_limits(api: Api, configmaps: str) -> None:
    status = refused(api.post(configmaps, configmap("a", {"bad key": ""})).expect(422), 422, "Invalid")
    assert 'data[bad key]: Invalid value: "bad key": a valid config key must consist of' in status["message"]
    refused(api.post(configmaps, configmap("a", {"k": "x" * (1024 * 1024 + 1)})).expect(422), 422, "Invalid")
    response = api.post(configmaps, configmap("a", {"k": "x" * (3 * 1024 * 1024 + 1)}))
    assert response.status == 413


def test_built_in_kinds_are_validated(api: Api, namespace: str) -> None:
    bare = pod("a")
    del bare["spec"]["containers"]
    response = api.post(f"/api/v1/namespaces/{namespace}/pods", bare)
    assert "spec.containers: Required value" in refused(response.expect(422), 422, "Invalid")["message"]
    bad_namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "under_score"}}
    status = refused(api.post("/api/v1/namespaces", bad_namespace).expect(422), 422, "Invalid")
    assert (
        'metadata.name: Invalid value: "under_score": a lowercase RFC 1123 label must consist of' in status["message"]
    )


def test_owner_references_need_all_their_fields(api: Api, configmaps: str) -> None:
    owned = configmap("a", ownerReferences=[{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": ""}])
    status = refused(api.post(configmaps, owned).expect(422), 422, "Invalid")
    assert "metadata.ownerReferences" in status["message"]
    assert "must not be empty" in status["message"]
