"""Tokens of ServiceAccounts: what TokenRequest hands out, and what TokenReview believes of them.

The claims are those of the real server, so that whoever reads them finds account, pod and node. The signature is an HMAC
with a key of this server alone, since nobody else has to verify it: clients ask TokenReview. As on the real server a token
is worth something only as long as the objects that it names exist: deleting the account or the pod ends it at once.

Source of the claims: k8s.io/kubernetes, pkg/serviceaccount/claims.go; of the checks when a token is bound:
pkg/registry/core/serviceaccount/storage/token.go.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from local.kube import causes, errors
from local.kube.metadata import timestamp
from local.kube.registry import Registry
from local.kube.store import Object, Store

# Issuer and default audience of a cluster that was set up by kubeadm.
ISSUER = "https://kubernetes.default.svc.cluster.local"

DEFAULT_SECONDS = 3600
MIN_SECONDS, MAX_SECONDS = 600, 2**32
"""pkg/apis/authentication/validation: 10 minutes; not more than 2**32 seconds."""

# kind that a token can be bound to -> its storage and whether it is in a namespace
_BOUND = {"Pod": ("pods", True), "Secret": ("secrets", True), "Node": ("nodes", False)}

_EXTRA = "authentication.kubernetes.io"


class _Reference(msgspec.Struct):
    kind: str = ""
    name: str = ""
    uid: str = ""


class _RequestSpec(msgspec.Struct):
    audiences: list[str] | None = None
    expirationSeconds: int | None = None
    boundObjectRef: _Reference | None = None


class _ReviewSpec(msgspec.Struct):
    token: str = ""
    audiences: list[str] | None = None


class _Named(msgspec.Struct, omit_defaults=True):
    name: str
    uid: str = ""


class _Kubernetes(msgspec.Struct, omit_defaults=True):
    namespace: str
    serviceaccount: _Named
    pod: _Named | None = None
    node: _Named | None = None
    secret: _Named | None = None


class _Claims(msgspec.Struct):
    aud: list[str]
    exp: int
    iat: int
    nbf: int
    iss: str
    jti: str
    sub: str
    kubernetes: _Kubernetes = msgspec.field(name="kubernetes.io")


def _segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


_HEADER = _segment(b'{"alg":"HS256","kid":"local"}')


def groups_of_account(namespace: str) -> list[str]:
    """The groups that a ServiceAccount of `namespace` is in because it is one."""
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]


class Tokens:
    """Makes and judges tokens."""

    def __init__(self, store: Store, registry: Registry, key: bytes, clock: Callable[[], datetime]) -> None:
        """`key` signs: keep it, and tokens outlive a restart."""
        self._store = store
        self._registry = registry
        self._key = key
        self._clock = clock

    def issue(self, account: Object, request: Object) -> Object:
        """The answer to a TokenRequest for a ServiceAccount. Raises ApiError 400, 404, 409 or 422."""
        spec = _read(request, _RequestSpec, "TokenRequest")
        meta, now = account["metadata"], self._clock()
        seconds = spec.expirationSeconds or DEFAULT_SECONDS
        _check_seconds(seconds)
        audiences = spec.audiences or [ISSUER]
        expires = now + timedelta(seconds=seconds)
        kubernetes = _Kubernetes(meta["namespace"], _Named(meta["name"], meta["uid"]))
        if spec.boundObjectRef:
            self._bind(kubernetes, spec.boundObjectRef)
        claims = _Claims(
            aud=audiences,
            exp=int(expires.timestamp()),
            iat=int(now.timestamp()),
            nbf=int(now.timestamp()),
            iss=ISSUER,
            jti=secrets.token_hex(16),
            sub=f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
            kubernetes=kubernetes,
        )
        signed = f"{_HEADER}.{_segment(msgspec.json.encode(claims))}"
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {key: meta[key] for key in ("name", "namespace")},
            "spec": {**(request.get("spec") or {}), "audiences": audiences, "expirationSeconds": seconds},
            "status": {"token": f"{signed}.{self._signature(signed)}", "expirationTimestamp": timestamp(expires)},
        }

    def review(self, review: Object) -> Object:
        """The status of a TokenReview. Raises ApiError 400."""
        spec = _read(review, _ReviewSpec, "TokenReview")
        claims = self._claims(spec.token)
        if claims is None:
            return _refused("invalid bearer token")
        if claims.exp <= self._clock().timestamp():
            return _refused("token has expired")
        asked = spec.audiences or claims.aud
        audiences = [audience for audience in claims.aud if audience in asked]
        if not audiences:
            return _refused("token audiences do not match the audiences of the review")
        ended = self._ended(claims.kubernetes)
        if ended:
            return _refused(ended)
        namespace = claims.kubernetes.namespace
        extra = {f"{_EXTRA}/credential-id": [f"JTI={claims.jti}"]}
        for kind, named in (("pod", claims.kubernetes.pod), ("node", claims.kubernetes.node)):
            if named:
                extra[f"{_EXTRA}/{kind}-name"] = [named.name]
            if named and named.uid:
                extra[f"{_EXTRA}/{kind}-uid"] = [named.uid]
        user = {
            "username": claims.sub,
            "uid": claims.kubernetes.serviceaccount.uid,
            "groups": [*groups_of_account(namespace), "system:authenticated"],
            "extra": extra,
        }
        return {"authenticated": True, "user": user, "audiences": audiences}

    def _bind(self, kubernetes: _Kubernetes, reference: _Reference) -> None:
        """Note the object that the token ends with, once it is sure that it exists. Raises ApiError."""
        kind, name, uid = reference.kind, reference.name, reference.uid
        if kind not in _BOUND:
            raise errors.bad_request(f'cannot bind token to object of kind "{kind}": use Pod, Secret or Node')
        storage, namespaced = _BOUND[kind]
        resource = self._registry.storage(storage)
        assert resource is not None, "core kinds are always served"
        stored = self._store.get(storage, kubernetes.namespace if namespaced else "", name)
        if stored is None:
            raise errors.not_found(resource, name)
        found = stored.object
        if uid and uid != found["metadata"]["uid"]:
            raise errors.conflict(
                resource,
                name,
                f"the UID in the bound object reference ({uid}) does not match the UID in record. "
                "The object might have been deleted and then recreated",
            )
        named = _Named(name, found["metadata"]["uid"])
        if kind == "Secret":
            kubernetes.secret = named
        elif kind == "Node":
            kubernetes.node = named
        else:
            account = kubernetes.serviceaccount.name
            if found["spec"].get("serviceAccountName", "") != account:
                raise errors.bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
                )
            kubernetes.pod = named
            kubernetes.node = self._node_of(found)

    def _node_of(self, pod: Object) -> _Named | None:
        """The pod's node, with its uid if it is known to exist."""
        name = pod["spec"].get("nodeName")
        if not name:
            return None
        node = self._store.get("nodes", "", name)
        return _Named(name, node.object["metadata"]["uid"] if node else "")

    def _ended(self, kubernetes: _Kubernetes) -> str:
        """Why the token is no longer good, or the empty string."""
        namespace = kubernetes.namespace
        named = [("serviceaccounts", namespace, kubernetes.serviceaccount)]
        if kubernetes.secret:
            named.append(("secrets", namespace, kubernetes.secret))
        if kubernetes.pod:
            named.append(("pods", namespace, kubernetes.pod))
        elif kubernetes.node:
            # Beside a pod the node only says where the pod was.
            named.append(("nodes", "", kubernetes.node))
        for storage, where, wanted in named:
            stored = self._store.get(storage, where, wanted.name)
            if stored is None or stored.object["metadata"]["uid"] != wanted.uid:
                return f'the token has been invalidated: {storage} "{wanted.name}" is gone'
        return ""

    def _signature(self, signed: str) -> str:
        return _segment(hmac.digest(self._key, signed.encode(), hashlib.sha256))

    def _claims(self, token: str) -> _Claims | None:
        """The claims of a token that this server made; None for anything else."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(signed).encode(), signature.encode()):
            return None
        payload = signed.rpartition(".")[2]
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            return None


T = TypeVar("T")


def _read(document: Object, kind: type[T], name: str) -> T:
    """The spec of a request. Raises ApiError 400 when it has the wrong form."""
    try:
        return msgspec.convert(document.get("spec") or {}, kind)
    except msgspec.ValidationError as error:
        raise errors.bad_request(f'{name} in version "v1" cannot be handled as a {name}: json: spec: {error}') from None


def _check_seconds(seconds: int) -> None:
    if MIN_SECONDS <= seconds <= MAX_SECONDS:
        return
    limit = "less than 10 minutes" if seconds < MIN_SECONDS else "larger than 2^32 seconds"
    problem = causes.invalid("spec.expirationSeconds", seconds, f"may not specify a duration {limit}")
    raise errors.invalid_options("TokenRequest", [problem], "authentication.k8s.io")


def _refused(why: str) -> Object:
    return {"authenticated": False, "user": {}, "error": why}
