"""Who somebody is, by the tokens of ServiceAccounts: how an agent proves its node to the controller."""

import base64
import json
import secrets

import pytest

from tests.integration.kube_conformance.objects import pod
from tests.support.api import Api, Json
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_until

pytestmark = pytest.mark.conformance

AUDIENCE = "modelcache"
CLAIM = "authentication.kubernetes.io"


def request_token(api: Api, namespace: str, account: str, **spec: object) -> str:
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": 3600, **spec},
    }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    found = api.post(path, body).expect(201)
    assert found["status"]["expirationTimestamp"]
    token = found["status"]["token"]
    assert isinstance(token, str)
    return token


def review(api: Api, token: str, audience: str = AUDIENCE) -> Json:
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    status = api.post("/apis/authentication.k8s.io/v1/tokenreviews", body).expect(201)["status"]
    assert isinstance(status, dict)
    return status


@pytest.fixture
def account(api: Api, namespace: str) -> str:
    """Name of a ServiceAccount in the test's namespace."""
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}}
    api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", body).expect(201)
    return "agent"


def test_a_token_says_who_it_is_for(api: Api, namespace: str, account: str) -> None:
    token = request_token(api, namespace, account)
    _, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["aud"] == [AUDIENCE]
    assert claims["sub"] == f"system:serviceaccount:{namespace}:{account}"
    status = review(api, token)
    assert status["authenticated"] is True
    assert status["audiences"] == [AUDIENCE]
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:{account}"
    assert {"system:serviceaccounts", f"system:serviceaccounts:{namespace}"} <= set(status["user"]["groups"])


def test_a_token_of_a_pod_names_pod_and_node(api: Api, namespace: str, account: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    node = f"node-{secrets.token_hex(4)}"
    bound = api.post(path, pod("agent-1", nodeName=node, serviceAccountName=account)).expect(201)["metadata"]
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "agent-1", "uid": bound["uid"]}
    token = request_token(api, namespace, account, boundObjectRef=reference)
    extra = review(api, token)["user"]["extra"]
    assert extra[f"{CLAIM}/pod-name"] == ["agent-1"]
    assert extra[f"{CLAIM}/pod-uid"] == [bound["uid"]]
    assert extra[f"{CLAIM}/node-name"] == [node]
    # A token ends with its pod.
    api.delete(f"{path}/agent-1", gracePeriodSeconds=0).expect(200)
    wait_until(lambda: not review(api, token).get("authenticated"), what="the token of the deleted pod is refused")


def test_tokens_that_are_not_good(api: Api, namespace: str, account: str) -> None:
    token = request_token(api, namespace, account)
    assert not review(api, token, "another-audience").get("authenticated")
    assert not review(api, "no-token").get("authenticated")
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["sub"] = f"system:serviceaccount:{namespace}:admin"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert not review(api, f"{header}.{forged}.{signature}").get("authenticated")


def test_a_token_for_nobody(api: Api, namespace: str) -> None:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [AUDIENCE]}}
    response = api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/absent/token", body)
    assert response.expect(404)["message"] == 'serviceaccounts "absent" not found'


@pytest.mark.usefixtures("widget_crd")
def test_what_a_user_may_the_roles_say(api: Api, namespace: str, account: str) -> None:
    user = f"system:serviceaccount:{namespace}:{account}"
    name = f"{namespace}-viewer"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": ["nvidia.com"], "resources": ["dynamomodels/cache"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["*"]},
    ]
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}

    def allowed(verb: str, resource: str, where: str, *, who: str = user, sub: str = "", named: str = "") -> bool:
        group = "nvidia.com" if resource == "dynamomodels" else ""
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": sub,
            "namespace": where,
            "name": named,
        }
        spec = {"user": who, "resourceAttributes": attributes}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body).expect(201)
        return bool(answer["status"]["allowed"])

    assert not allowed("get", "dynamomodels", namespace, sub="cache")
    api.post(f"{rbac}/clusterroles", {**kind, "kind": "ClusterRole", "rules": rules}).expect(201)
    binding = {**kind, "roleRef": reference, "subjects": [subject]}
    try:
        api.post(f"{rbac}/namespaces/{namespace}/rolebindings", {**binding, "kind": "RoleBinding"}).expect(201)
        wait_until(lambda: allowed("get", "dynamomodels", namespace, sub="cache"), what="the binding counts")
        assert not allowed("get", "dynamomodels", "default", sub="cache")
        assert not allowed("get", "dynamomodels", namespace)
        assert not allowed("delete", "dynamomodels", namespace, sub="cache")
        assert not allowed("get", "dynamomodels", namespace, sub="cache", who=f"{user}-2")
        assert allowed("delete", "secrets", namespace, named="mine")
        assert not allowed("delete", "secrets", namespace, named="other")
        api.post(f"{rbac}/clusterrolebindings", {**binding, "kind": "ClusterRoleBinding"}).expect(201)
        wait_until(lambda: allowed("get", "dynamomodels", "", sub="cache"), what="the other binding counts")
        assert allowed("get", "dynamomodels", "default", sub="cache")
    finally:
        api.delete(f"{rbac}/clusterrolebindings/{name}")
        api.delete(f"{rbac}/clusterroles/{name}")


def test_the_administrator_may_do_everything(kc: Kubectl) -> None:
    assert kc("auth", "can-i", "create", "widgets").stdout.strip() == "yes"
    assert kc("auth", "can-i", "delete", "nodes").stdout.strip() == "yes"
