"""May a user do something, by the Roles and bindings that are stored: as the RBAC authorizer of a real server decides.

Only asked, never enforced: what reaches this server is one person's, and may do everything. But whoever asks for somebody
else (SubjectAccessReview) gets the answer that he would get from a cluster. Rules of aggregated ClusterRoles are what is
written in them; there is no controller that fills them in.
"""

from collections.abc import Iterator
from typing import Any

from local.kube.store import Object, Store

_GROUP = "rbac.authorization.k8s.io"
_MASTERS = "system:masters"
_ACCOUNT = "system:serviceaccount:"
_ALL = "*"


def reason(store: Store, spec: Object, namespace: str = "") -> str:
    """Why the `spec` of a SubjectAccessReview is allowed, as for people; empty when it is not.

    `namespace` is put in the place of the one in `spec`, unless it is empty.
    """
    user, groups = spec.get("user"), sequence(spec.get("groups"))
    if _MASTERS in groups:
        return f"the group {_MASTERS} may do everything"
    wanted = mapping(spec.get("resourceAttributes"))
    for binding in _bindings(store, namespace or str(wanted.get("namespace") or "")):
        subjects = map(mapping, sequence(binding.get("subjects")))
        if not any(_is_subject(subject, user, groups, binding) for subject in subjects):
            continue
        if any(_covers(mapping(rule), spec) for rule in _rules(store, binding)):
            return f"RBAC: allowed by {binding['kind']} {binding['metadata']['name']!r}"
    return ""


def mapping(value: object) -> Object:
    """A part of a document that should be an object; empty where it is none."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """A part of a document that should be a list; empty where it is none."""
    return value if isinstance(value, list) else []


def _bindings(store: Store, namespace: str) -> Iterator[Object]:
    for stored in store.items(f"clusterrolebindings.{_GROUP}"):
        yield stored.object
    if namespace:
        for stored in store.items(f"rolebindings.{_GROUP}", namespace):
            yield stored.object


def _is_subject(subject: Object, user: object, groups: list[Any], binding: Object) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        namespace = subject.get("namespace") or binding["metadata"].get("namespace") or ""
        return user == f"{_ACCOUNT}{namespace}:{name}"
    return user == name if kind == "User" else kind == "Group" and name in groups


def _rules(store: Store, binding: Object) -> list[Any]:
    """Those of the role that a binding names; none when there is no such role."""
    reference = mapping(binding.get("roleRef"))
    is_cluster = reference.get("kind") == "ClusterRole"
    storage, namespace = ("clusterroles", "") if is_cluster else ("roles", binding["metadata"].get("namespace") or "")
    stored = store.get(f"{storage}.{_GROUP}", namespace, str(reference.get("name") or ""))
    return sequence(stored.object.get("rules")) if stored is not None else []


def _covers(rule: Object, spec: Object) -> bool:
    path = mapping(spec.get("nonResourceAttributes"))
    if path:
        here = str(path.get("path") or "")
        urls = [str(url) for url in sequence(rule.get("nonResourceURLs"))]
        fits = any(url in (_ALL, here) or (url.endswith(_ALL) and here.startswith(url[:-1])) for url in urls)
        return fits and _has(rule, "verbs", path.get("verb"))
    wanted = mapping(spec.get("resourceAttributes"))
    resource, sub, names = wanted.get("resource"), wanted.get("subresource"), sequence(rule.get("resourceNames"))
    forms = (_ALL, f"{resource}/{sub}", f"*/{sub}") if sub else (_ALL, resource)
    return (
        _has(rule, "verbs", wanted.get("verb"))
        and _has(rule, "apiGroups", wanted.get("group"))
        and any(form in sequence(rule.get("resources")) for form in forms)
        and (not names or wanted.get("name") in names)
    )


def _has(rule: Object, field: str, value: object) -> bool:
    allowed = sequence(rule.get(field))
    return _ALL in allowed or (value or "") in allowed
