"""Questions that are answered and not stored: who is this, and may they.

Who calls may do everything here: the server listens on loopback only, and its callers are one person's processes. Who shows a
token of a ServiceAccount is that one to admission policies all the same. What somebody else may do, who is named in the
question, the stored Roles say (`rbac`).
"""

from local.kube import rbac
from local.kube.documents import Body, check_kind, kind_of, read_object
from local.kube.resources import Resource
from local.kube.store import Object, Store
from local.kube.tokens import Tokens

ADMIN = {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]}


def review(resource: Resource, body: Body, tokens: Tokens, store: Store, namespace: str) -> Object:
    """The review with its status filled in. Raises ApiError 400."""
    expected = kind_of(resource)
    document = read_object(body, expected)
    check_kind(document, expected, custom=False)
    document.setdefault("metadata", {})
    if resource.kind == "TokenReview":
        document["status"] = tokens.review(document)
    elif resource.kind == "SelfSubjectReview":
        document["status"] = {"userInfo": ADMIN}
    elif resource.kind == "SelfSubjectRulesReview":
        document["status"] = {
            "incomplete": False,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }
    elif resource.kind == "SelfSubjectAccessReview":
        document["status"] = {"allowed": True}
    else:
        # A LocalSubjectAccessReview is about its namespace, whatever it says.
        reason = rbac.reason(store, rbac.mapping(document.get("spec")), namespace)
        document["status"] = {"allowed": bool(reason), **({"reason": reason} if reason else {})}
    return document
