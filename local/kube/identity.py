"""Who makes a request: whoever's token it shows, the one who runs the server, or somebody whom those speak for.

Impersonation (`kubectl --as`) is how an administrator asks what somebody else may do. As on a real server
(k8s.io/apiserver/pkg/endpoints/filters/impersonation), who has no right to speak for the other one is refused, a
ServiceAccount is in the groups of ServiceAccounts without being told so, and everybody is in `system:authenticated`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from multidict import CIMultiDictProxy

from local.kube import errors, rbac
from local.kube.errors import ApiError
from local.kube.store import Object, Store
from local.kube.tokens import ISSUER, Tokens, groups_of_account

User = Mapping[str, Any]
"""`username`, `groups`, `uid`, `extra`: authentication.k8s.io/v1, UserInfo."""

Headers = CIMultiDictProxy[str]

ADMIN: User = {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]}

_USER, _GROUP, _UID, _EXTRA = "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-"
_AUTHENTICATED, _UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
_ANONYMOUS = "system:anonymous"
_ACCOUNT = "system:serviceaccount:"


def caller(headers: Headers, tokens: Tokens, store: Store) -> User:
    """Who is meant by a request with these headers. Raises ApiError 401, 403 and 500."""
    user = _authenticated(headers, tokens)
    groups, extra = headers.getall(_GROUP, []), _extra(headers)
    name, uid = headers.get(_USER, ""), headers.get(_UID, "")
    if not name:
        if groups or extra or uid:
            raise errors.internal("groups, a uid or extra fields were to be impersonated, but no user was named")
        return user
    for wanted in _wanted(name, groups, uid, extra):
        if not rbac.reason(store, {**wanted, "user": user["username"], "groups": user["groups"]}):
            raise _may_not(user, wanted["resourceAttributes"])
    return _complete(name, groups, uid, extra)


def _authenticated(headers: Headers, tokens: Tokens) -> User:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        return ADMIN
    status = tokens.review({"spec": {"token": token.strip(), "audiences": [ISSUER]}})
    if not status["authenticated"]:
        raise errors.unauthorized()
    user: User = status["user"]
    return user


def _extra(headers: Headers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for header, value in headers.items():
        if header.lower().startswith(_EXTRA.lower()):
            found.setdefault(unquote(header[len(_EXTRA) :].lower()), []).append(value)
    return found


def _wanted(name: str, groups: list[str], uid: str, extra: Mapping[str, list[str]]) -> Iterator[Object]:
    """What has to be allowed, as parts of SubjectAccessReviews."""
    account = _account(name)
    if account:
        yield _impersonate("serviceaccounts", account[1], namespace=account[0])
    else:
        yield _impersonate("users", name)
    yield from (_impersonate("groups", group) for group in groups)
    if uid:
        yield _impersonate("uids", uid, group="authentication.k8s.io")
    for key, values in extra.items():
        yield from (_impersonate("userextras", value, group="authentication.k8s.io", sub=key) for value in values)


def _impersonate(resource: str, name: str, *, namespace: str = "", group: str = "", sub: str = "") -> Object:
    attributes = {
        "verb": "impersonate", "group": group, "resource": resource, "subresource": sub, "name": name,
        "namespace": namespace,
    }  # fmt: skip
    return {"resourceAttributes": attributes}


def _account(name: str) -> tuple[str, str] | None:
    """Namespace and name of a ServiceAccount."""
    namespace, colon, account = name.removeprefix(_ACCOUNT).partition(":")
    fits = name.startswith(_ACCOUNT) and colon and namespace and account and ":" not in account
    return (namespace, account) if fits else None


def _complete(name: str, groups: list[str], uid: str, extra: Mapping[str, list[str]]) -> User:
    account = _account(name)
    found = list(groups) or (groups_of_account(account[0]) if account else [])
    if name == _ANONYMOUS:
        found += [] if _UNAUTHENTICATED in found else [_UNAUTHENTICATED]
    elif _AUTHENTICATED not in found and _UNAUTHENTICATED not in found:
        found.append(_AUTHENTICATED)
    return {"username": name, "groups": found, **({"uid": uid} if uid else {}), **({"extra": extra} if extra else {})}


def _may_not(user: User, attributes: Object) -> ApiError:
    resource, group, namespace = attributes["resource"], attributes["group"], attributes["namespace"]
    kind = f"{resource}.{group}" if group else resource
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f'{kind} "{attributes["name"]}" is forbidden: User "{user["username"]}" cannot impersonate resource "{resource}" '
        f'in API group "{group}" {where}'
    )
    details = {"name": attributes["name"], **({"group": group} if group else {}), "kind": resource}
    return ApiError(403, "Forbidden", message, details=details)
