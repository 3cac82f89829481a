"""Who may do what: the manifests are what docs/security.md says, line by line."""

from tests.support.manifests import render
from tests.support.rbac import documented, grants


def test_the_roles_are_those_of_the_documentation() -> None:
    assert grants(render()) == documented()


def test_no_role_has_a_wildcard_or_is_bound_to_others() -> None:
    for each in render():
        for rule in each.get("rules", ()) if each["kind"] in ("Role", "ClusterRole") else ():
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        if each["kind"].endswith("RoleBinding"):
            (subject,) = each["subjects"]
            assert subject["kind"] == "ServiceAccount"
            assert subject["namespace"] == "modelcache-system"
            assert subject["name"] == each["metadata"]["name"] == each["roleRef"]["name"]


def test_every_overlay_grants_the_same() -> None:
    assert grants(render("overlays/openshift")) == grants(render("overlays/nvme-pools")) == grants(render())
