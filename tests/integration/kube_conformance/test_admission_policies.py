"""ValidatingAdmissionPolicies in force: who and what they concern, with which words they refuse, and what lifts them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.api import Api, Response
from tests.support.waiting import wait_until

GROUP = "/apis/admissionregistration.k8s.io/v1"
SPEC: dict[str, Any] = {
    "failurePolicy": "Fail",
    "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
    "matchConstraints": {
        "resourceRules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
                "resources": ["configmaps"],
            }
        ]
    },
    "matchConditions": [
        {"name": "not-the-parameters", "expression": "!request.name.startsWith('params')"},
    ],
    "variables": [{"name": "subject", "expression": "request.operation == 'DELETE' ? oldObject : object"}],
    "validations": [
        {
            "expression": "variables.subject.metadata.name.startsWith(params.data.prefix)",
            "reason": "Forbidden",
            "messageExpression": "request.userInfo.username + ' has to begin with ' + params.data.prefix",
        },
        {"expression": "request.operation == 'DELETE' || size(object.data) < 3", "message": "too much"},
        {"expression": "request.operation != 'UPDATE' || object.data.fixed == oldObject.data.fixed"},
    ],
}


@pytest.fixture
def policy(api: Api, namespace: str) -> Iterator[str]:
    """SPEC in force in the test's namespace; its name, which is that of its binding as well."""
    name = f"test-{secrets.token_hex(4)}"
    meta = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    places = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": places,
               "paramRef": {"name": "params", "namespace": namespace, "parameterNotFoundAction": "Deny"}}  # fmt: skip
    params = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "params"}, "data": {"prefix": "good-"}}
    api.post(f"/api/v1/namespaces/{namespace}/configmaps", params).expect(201)
    api.post(f"{GROUP}/validatingadmissionpolicies", {**meta, "kind": "ValidatingAdmissionPolicy", "spec": SPEC})
    api.post(
        f"{GROUP}/validatingadmissionpolicybindings",
        {**meta, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    ).expect(201)
    yield name
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        api.delete(f"{GROUP}/{kind}/{name}")


def test_a_policy_refuses_what_it_concerns_and_nothing_else(api: Api, namespace: str, policy: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def create(name: str, data: dict[str, str], **query: object) -> Response:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        return api.post(path, body, **query)

    def refused(answer: Callable[[], Response], code: int, reason: str, name: str, words: str) -> None:
        # A real server needs a moment until a policy, or its parameters, are known.
        status = wait_until(lambda: found if (found := answer()).status == code else None).json()
        assert (status["reason"], status["details"]["name"], status["details"]["kind"]) == (reason, name, "configmaps")
        said = f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: "
        assert status["message"] == f'configmaps "{name}" is forbidden: {said}{words}'

    refused(
        lambda: create("bad", {}, dryRun="All"), 403, "Forbidden", "bad",
        f"{_whoami(api)} has to begin with good-",
    )  # fmt: skip
    create("good-1", {"fixed": "1"}).expect(201)
    refused(lambda: create("good-2", dict.fromkeys("abc", "x")), 422, "Invalid", "good-2", "too much")
    failed = "failed expression: request.operation != 'UPDATE' || object.data.fixed == oldObject.data.fixed"
    refused(lambda: api.patch(f"{path}/good-1", {"data": {"fixed": "2"}}), 422, "Invalid", "good-1", failed)
    api.patch(f"{path}/good-1", {"data": {"other": "2"}}).expect(200)
    # What cannot be evaluated speaks against it.
    answer = api.patch(f"{path}/good-1", {"data": {"fixed": None}})
    assert (answer.status, answer.json()["reason"]) == (422, "Invalid")
    assert "no such key: fixed" in answer.json()["message"]

    api.patch(f"{path}/params", {"data": {"prefix": "other-"}}).expect(200)
    refused(
        lambda: api.delete(f"{path}/good-1", dryRun="All"), 403, "Forbidden", "good-1",
        f"{_whoami(api)} has to begin with other-",
    )  # fmt: skip
    api.delete(f"{path}/params").expect(200)
    none = "no params found for policy binding with `Deny` parameterNotFoundAction"
    wait_until(lambda: none in str(create("other-1", {}, dryRun="All").json().get("message")), what="nothing without")
    api.post(
        "/api/v1/namespaces/default/configmaps",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"bad-{policy}"}}, dryRun="All",
    ).expect(201)  # fmt: skip
    api.delete(f"{GROUP}/validatingadmissionpolicybindings/{policy}").expect(200)
    wait_until(lambda: create("bad", {}, dryRun="All").status == 201, what="without a binding, a policy does nothing")


def _whoami(api: Api) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", body).expect(201)
    return str(answer["status"]["userInfo"]["username"])
