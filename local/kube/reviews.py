"""Questions that are answered and not stored: who is this, and may they.

What somebody may do, the stored Roles say (`rbac`), for himself as for somebody else who is named in the question.
"""

from collections.abc import Iterator

from local.kube import errors, rbac
from local.kube.documents import Body, check_kind, kind_of, read_object
from local.kube.identity import User
from local.kube.resources import Resource
from local.kube.store import Object, Store
from local.kube.tokens import Tokens


def review(resource: Resource, body: Body, user: User, tokens: Tokens, store: Store, namespace: str) -> Object:
    """The review with its status filled in. `user` is who asks. Raises ApiError 400."""
    expected = kind_of(resource)
    document = read_object(body, expected)
    check_kind(document, expected, custom=False)
    document.setdefault("metadata", {})
    spec = rbac.mapping(document.get("spec"))
    if resource.kind == "TokenReview":
        document["status"] = tokens.review(document)
    elif resource.kind == "SelfSubjectReview":
        document["status"] = {"userInfo": dict(user)}
    elif resource.kind == "SelfSubjectRulesReview":
        document["status"] = _rules(store, user, spec.get("namespace"))
    else:
        if resource.kind == "SelfSubjectAccessReview":
            spec = {**spec, "user": user["username"], "groups": user["groups"]}
        # A LocalSubjectAccessReview is about its namespace, whatever it says.
        reason = rbac.reason(store, spec, namespace)
        document["status"] = {"allowed": bool(reason), **({"reason": reason} if reason else {})}
    return document


def _rules(store: Store, user: User, namespace: object) -> Object:
    """The status of a SelfSubjectRulesReview. Raises ApiError 400."""
    if not namespace or not isinstance(namespace, str):
        raise errors.bad_request("no namespace on request")
    found = rbac.rules(store, user["username"], user["groups"], namespace)
    return {
        "resourceRules": list(_parts(found, "resources", ("verbs", "apiGroups", "resources", "resourceNames"))),
        "nonResourceRules": list(_parts(found, "nonResourceURLs", ("verbs", "nonResourceURLs"))),
        "incomplete": False,
    }


def _parts(rules: list[Object], about: str, fields: tuple[str, ...]) -> Iterator[Object]:
    for rule in rules:
        if rule.get(about):
            yield {field: rule[field] for field in fields if rule.get(field)}
