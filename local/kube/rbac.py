"""What a user may do, by the Roles and bindings that are stored: as the RBAC authorizer of a real server decides.

In force for requests (`authorization`), and told to whoever asks for himself or for somebody else (`reviews`). Rules of
aggregated ClusterRoles are what is written in them; there is no controller that fills them in.

What a real server gives everybody, it stores as ClusterRoles when it starts. Here those are DEFAULTS and no objects.
"""

from collections.abc import Collection, Iterator
from typing import Any

from local.kube.store import Object, Store

_GROUP = "rbac.authorization.k8s.io"
_MASTERS = "system:masters"
_ACCOUNT = "system:serviceaccount:"
_ALL = "*"

_EVERYTHING: tuple[Object, ...] = (
    {"verbs": [_ALL], "apiGroups": [_ALL], "resources": [_ALL]},
    {"verbs": [_ALL], "nonResourceURLs": [_ALL]},
)

_PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_DISCOVERY = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *_PUBLIC]
_KEYS = ["/.well-known/openid-configuration", "/openid/v1/jwks"]
_AUTHENTICATED, _ACCOUNTS = "system:authenticated", "system:serviceaccounts"

DEFAULTS: tuple[tuple[str, str, Object], ...] = (
    (
        "system:basic-user",
        _AUTHENTICATED,
        {
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        },
    ),
    (
        "system:basic-user",
        _AUTHENTICATED,
        {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
    ),
    ("system:discovery", _AUTHENTICATED, {"verbs": ["get"], "nonResourceURLs": _DISCOVERY}),
    ("system:public-info-viewer", _AUTHENTICATED, {"verbs": ["get"], "nonResourceURLs": _PUBLIC}),
    (
        "system:service-account-issuer-discovery",
        _ACCOUNTS,
        {"verbs": ["get"], "nonResourceURLs": [*_KEYS, *(f"{path}/" for path in _KEYS)]},
    ),
)
"""ClusterRole, the group that it is bound to, and a rule of it: what every user of a cluster has.

From k8s.io/kubernetes, plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go."""


def reason(store: Store, spec: Object, namespace: str = "") -> str:
    """Why the `spec` of a SubjectAccessReview is allowed, as for people; empty when it is not.

    `namespace` is put in the place of the one in `spec`, unless it is empty.
    """
    wanted = mapping(spec.get("resourceAttributes"))
    where = namespace or str(wanted.get("namespace") or "")
    granted = _granted(store, spec.get("user"), sequence(spec.get("groups")), where)
    return next((why for why, rule in granted if _covers(rule, spec)), "")


def rules(store: Store, user: object, groups: Collection[Any], namespace: str) -> list[Object]:
    """The rules that count for a user in a namespace, as they are written, each once."""
    found: list[Object] = []
    for _, rule in _granted(store, user, groups, namespace):
        if rule not in found:
            found.append(rule)
    return found


def mapping(value: object) -> Object:
    """A part of a document that should be an object; empty where it is none."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """A part of a document that should be a list; empty where it is none."""
    return value if isinstance(value, list) else []


def _granted(store: Store, user: object, groups: Collection[Any], namespace: str) -> Iterator[tuple[str, Object]]:
    """Why, and which rule."""
    if _MASTERS in groups:
        yield from ((f"the group {_MASTERS} may do everything", rule) for rule in _EVERYTHING)
    for name, group, rule in DEFAULTS:
        if group in groups:
            yield f"RBAC: allowed by ClusterRoleBinding {name!r}", rule
    for binding in _bindings(store, namespace):
        subjects = map(mapping, sequence(binding.get("subjects")))
        if any(_is_subject(subject, user, groups, binding) for subject in subjects):
            why = f"RBAC: allowed by {binding['kind']} {binding['metadata']['name']!r}"
            yield from ((why, mapping(rule)) for rule in _rules(store, binding))


def _bindings(store: Store, namespace: str) -> Iterator[Object]:
    for stored in store.items(f"clusterrolebindings.{_GROUP}"):
        yield stored.object
    if namespace:
        for stored in store.items(f"rolebindings.{_GROUP}", namespace):
            yield stored.object


def _is_subject(subject: Object, user: object, groups: Collection[Any], binding: Object) -> bool:
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
