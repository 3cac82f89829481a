"""What somebody may do, asked by himself or as `kubectl --as`: how an administrator compares a cluster with a stated table."""

import secrets
from collections.abc import Iterator

import pytest
import yaml

from tests.support.api import Api, Json, Response
from tests.support.kubectl import Kubectl
from tests.support.rbac import listed
from tests.support.waiting import wait_until

pytestmark = pytest.mark.conformance

RBAC = "rbac.authorization.k8s.io"
AUTHENTICATION, AUTHORIZATION = "/apis/authentication.k8s.io/v1", "/apis/authorization.k8s.io/v1"


@pytest.fixture
def somebody(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """A user who may read two Secrets in the test's namespace and ConfigMaps everywhere."""
    user = f"somebody-{secrets.token_hex(4)}"
    subjects = [{"kind": "User", "name": user, "apiGroup": RBAC}]
    kinds = {
        "Role": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one", "two"], "verbs": ["get", "list"]}
        ],
        "ClusterRole": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "get"]}],
    }
    objects: list[Json] = []
    for kind, rules in kinds.items():
        metadata = {"name": user, **({"namespace": namespace} if kind == "Role" else {})}
        head = {"apiVersion": f"{RBAC}/v1", "metadata": metadata}
        reference = {"kind": kind, "name": user, "apiGroup": RBAC}
        objects += [
            {**head, "kind": kind, "rules": rules},
            {**head, "kind": f"{kind}Binding", "roleRef": reference, "subjects": subjects},
        ]
    text = yaml.safe_dump_all(objects)
    kubectl("apply", "-f", "-", input=text)
    # The authorizer of a real server learns of a binding a moment later.
    wait_until(
        lambda: len(listed(kubectl, namespace, user) - listed(kubectl, namespace, "nobody")) == 3, what="it counts"
    )
    yield user
    kubectl("delete", "-f", "-", input=text)


def test_a_user_is_told_what_he_may_in_a_namespace(kubectl: Kubectl, namespace: str, somebody: str) -> None:
    nobody = listed(kubectl, namespace, "nobody")
    everywhere = {("configmaps", "", ("get", "list"))}
    here = {("secrets", name, ("get", "list")) for name in ("one", "two")}
    assert listed(kubectl, namespace, somebody) - nobody == everywhere | here
    assert listed(kubectl, "default", somebody) - nobody == everywhere
    # What everybody may, and nobody may miss.
    assert ("selfsubjectaccessreviews.authorization.k8s.io", "", ("create",)) in nobody
    assert ("/version", "", ("get",)) in nobody


def test_single_questions_have_the_same_answers(kubectl: Kubectl, namespace: str, somebody: str) -> None:
    def can(*question: str, where: str = namespace) -> str:
        return kubectl("auth", "can-i", *question, "-n", where, "--as", somebody, check=False).stdout.strip()

    assert can("get", "secrets/one") == "yes"
    assert can("get", "secrets/three") == can("get", "secrets") == can("delete", "secrets/one") == "no"
    assert can("get", "secrets/one", where="default") == "no"
    assert can("list", "configmaps", where="default") == "yes"
    assert can("get", "/version") == "yes"
    assert can("get", "/metrics") == "no"


def test_requests_are_answered_as_the_questions_about_them(api: Api, namespace: str, somebody: str) -> None:
    def ask(method: str, path: str, body: object = None, **query: str) -> Response:
        return api.request(method, path, body, query=query, headers={"Impersonate-User": somebody})

    core, configmap = "/api/v1", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}
    secrets_here = f"{core}/namespaces/{namespace}/secrets"
    assert ask("GET", f"{secrets_here}/one").expect(404)["reason"] == "NotFound"
    assert ask("GET", f"{secrets_here}/three").expect(403)["message"] == (
        f'secrets "three" is forbidden: User "{somebody}" cannot get resource "secrets" in API group "" in the namespace '
        f'"{namespace}"'
    )
    ask("GET", secrets_here).expect(403)
    ask("GET", secrets_here, fieldSelector="metadata.name=one").expect(200)
    ask("GET", secrets_here, fieldSelector="metadata.name=one", watch="true").expect(403)
    ask("GET", f"{core}/namespaces/default/secrets/one").expect(403)
    assert ask("GET", f"{core}/configmaps").expect(200)["kind"] == "ConfigMapList"
    for method, path, body in (
        ("POST", "configmaps", configmap), ("PUT", "configmaps/one", configmap), ("PATCH", "configmaps/one", {}),
        ("DELETE", "configmaps/one", None), ("DELETE", "configmaps", None),
    ):  # fmt: skip
        assert ask(method, f"{core}/namespaces/{namespace}/{path}", body).expect(403)["reason"] == "Forbidden"
    assert ask("GET", f"{core}/nodes").expect(403)["message"] == (
        f'nodes is forbidden: User "{somebody}" cannot list resource "nodes" in API group "" at the cluster scope'
    )
    ask("GET", "/api").expect(200)


def test_who_is_impersonated_is_who_asks(kubectl: Kubectl, namespace: str) -> None:
    account = f"system:serviceaccount:{namespace}:agent"
    found = kubectl("auth", "whoami", "-o", "json", "--as", account).json()["status"]["userInfo"]
    assert found["username"] == account
    assert set(found["groups"]) == {
        "system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated",
    }  # fmt: skip
    found = kubectl("auth", "whoami", "-o", "json", "--as", "a", "--as-group", "g", "--as-uid", "7").json()
    assert found["status"]["userInfo"] == {"username": "a", "uid": "7", "groups": ["g", "system:authenticated"]}


def test_only_who_may_speaks_for_others(api: Api, kubectl: Kubectl, namespace: str) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    api.post(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "one"}}).expect(201)
    # kubectl sends no token without TLS.
    authorization = {"Authorization": f"Bearer {kubectl('create', 'token', 'one', '-n', namespace).stdout.strip()}"}
    one, other = (f"system:serviceaccount:{namespace}:{name}" for name in ("one", "other"))

    def as_one(**impersonated: str) -> Response:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        headers = {f"Impersonate-{what}": value for what, value in impersonated.items()}
        return api.request("POST", f"{AUTHENTICATION}/selfsubjectreviews", body, headers=authorization | headers)

    assert as_one().expect(201)["status"]["userInfo"]["username"] == one
    refusal = (
        f'User "{one}" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "{namespace}"'
    )
    assert refusal in as_one(User=other).expect(403)["message"]
    role = ("role", "speaker", "--verb=impersonate", "--resource=serviceaccounts", "--resource-name=other")
    kubectl("create", *role, "-n", namespace)
    kubectl("create", "rolebinding", "speaker", "--role=speaker", f"--serviceaccount={namespace}:one", "-n", namespace)
    wait_until(lambda: as_one(User=other).status == 201, what="the binding counts")
    assert as_one(User=other).expect(201)["status"]["userInfo"]["username"] == other
    as_one(User=f"{other}-2").expect(403)
    as_one(User=other, Group="system:masters").expect(403)
    as_one(User=other, Uid="7").expect(403)
    as_one(User=other, **{"Extra-scopes": "all"}).expect(403)
    as_one(Group="system:masters").expect(500)


def test_questions_that_cannot_be_answered(api: Api) -> None:
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {}}
    answer = api.post(f"{AUTHORIZATION}/selfsubjectrulesreviews", body).expect(400)
    assert answer["message"] == "no namespace on request"
