"""Questions that are answered and not stored: who is this, and may they.

Everybody may do everything here: the server listens on loopback only, and its callers are one person's processes.
"""

import base64
import binascii
from datetime import datetime
from typing import Any

import msgspec

from local.kube.documents import Body, check_kind, kind_of, read_object
from local.kube.resources import Resource
from local.kube.store import Object

_ADMIN = {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]}


def review(resource: Resource, body: Body, now: datetime) -> Object:
    """The review with its status filled in. Raises ApiError 400."""
    expected = kind_of(resource)
    document = read_object(body, expected)
    check_kind(document, expected, custom=False)
    document.setdefault("metadata", {})
    spec = document.get("spec") if isinstance(document.get("spec"), dict) else {}
    assert isinstance(spec, dict)
    if resource.kind == "TokenReview":
        document["status"] = _token_status(spec, now)
    elif resource.kind == "SelfSubjectReview":
        document["status"] = {"userInfo": _ADMIN}
    elif resource.kind == "SelfSubjectRulesReview":
        document["status"] = {
            "incomplete": False,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }
    else:
        document["status"] = {"allowed": True}
    return document


def _token_status(spec: dict[str, Any], now: datetime) -> Object:
    token = spec.get("token")
    claims = _claims(token) if isinstance(token, str) else None
    if claims is None:
        return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
    if claims.exp <= now.timestamp():
        return {"authenticated": False, "user": {}, "error": "token has expired"}
    asked = spec.get("audiences") or claims.aud
    audiences = [audience for audience in claims.aud if audience in asked]
    if not audiences:
        return {"authenticated": False, "user": {}, "error": "token audiences do not match"}
    _, _, namespace, _ = claims.sub.split(":", 3)
    extra = {
        f"authentication.kubernetes.io/{kind}-{key}": [value]
        for kind in ("pod", "node")
        for key, value in (claims.kubernetes.get(kind) or {}).items()
        if isinstance(value, str)
    }
    user: Object = {
        "username": claims.sub,
        "uid": claims.kubernetes["serviceaccount"]["uid"],
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
    }
    if extra:
        user["extra"] = extra
    return {"authenticated": True, "user": user, "audiences": audiences}


class _Claims(msgspec.Struct):
    aud: list[str]
    exp: int
    sub: str
    kubernetes: dict[str, Any] = msgspec.field(name="kubernetes.io")


def _claims(token: str) -> _Claims | None:
    """The claims of a token that this server made; None for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(raw, type=_Claims)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    account = claims.kubernetes.get("serviceaccount")
    known = claims.sub.count(":") == 3 and isinstance(account, dict) and isinstance(account.get("uid"), str)
    return claims if known else None
