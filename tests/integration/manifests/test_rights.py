"""What `kubectl auth can-i --list` says of our ServiceAccounts is what docs/security.md says, no more and no less."""

import pytest
import yaml

from tests.support.kubectl import Kubectl
from tests.support.manifests import render
from tests.support.rbac import Listed, documented, documented_for_everybody, listed

NAMESPACE = "modelcache-system"
KINDS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


@pytest.fixture(scope="module")
def applied(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(e for e in render() if e["kind"] in KINDS))


def stated(who: str, namespace: str) -> set[Listed]:
    """What the table says of a ServiceAccount in a namespace; several rows may be about one resource."""
    found: dict[tuple[str, str], set[str]] = {}
    for grant in documented():
        if grant.who == who and (grant.where == "cluster" or namespace == NAMESPACE):
            found.setdefault((grant.resource, grant.names), set()).update(grant.verbs)
    return {(resource, name, tuple(sorted(verbs))) for (resource, name), verbs in found.items()}


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("namespace", [NAMESPACE, "default"])
@pytest.mark.parametrize("who", ["controller", "agent"])
def test_an_account_may_what_is_stated_and_nothing_else(kubectl: Kubectl, who: str, namespace: str) -> None:
    assert stated(who, namespace), "the table says something about it"
    user = f"system:serviceaccount:{NAMESPACE}:modelcache-{who}"
    assert listed(kubectl, namespace, user) == stated(who, namespace) | documented_for_everybody()


@pytest.mark.usefixtures("applied")
def test_other_accounts_of_the_namespace_may_nothing(kubectl: Kubectl) -> None:
    assert listed(kubectl, NAMESPACE, f"system:serviceaccount:{NAMESPACE}:default") == documented_for_everybody()
