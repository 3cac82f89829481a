"""Questions to the API server about somebody else: whose token is this, and may he do that.

Whoever reaches one of our ports can make us ask, so the questions under way and those that wait are bounded. A token never
gets into a log line, not even quoted by somebody's error message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

import grpc
import msgspec

from modelcache.kube.client import KubeClient
from modelcache.kube.errors import KubeError

_log = logging.getLogger(__name__)

MAX_TOKEN = 16 * 1024
"""Characters. Tokens of the API server have about a thousand."""
REVIEWS = 8
"""Under way at the API server; each takes some ten milliseconds."""
MAX_WAITING = 2000
"""Requests that wait for their review: all agents of a large cluster at once. A request is a few kilobytes."""
REVIEW_SECONDS = 10.0

TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class User(msgspec.Struct, frozen=True):
    """Whose a token is (authentication.k8s.io/v1, UserInfo)."""

    username: str = ""
    uid: str = ""
    groups: Sequence[str] | None = None
    extra: Mapping[str, Sequence[str]] | None = None


class TokenStatus(msgspec.Struct, frozen=True):
    """What the API server says about a token (authentication.k8s.io/v1, TokenReviewStatus)."""

    authenticated: bool = False
    audiences: Sequence[str] | None = None
    user: User = User()


class _AccessStatus(msgspec.Struct, frozen=True):
    """authorization.k8s.io/v1, SubjectAccessReviewStatus."""

    allowed: bool = False
    denied: bool = False


class _TokenReview(msgspec.Struct, frozen=True):
    status: TokenStatus


class _AccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus


class Permission(msgspec.Struct, frozen=True):
    """To do `verb` with a resource. Empty `namespace` or `name`: all of them."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        place = f" in namespace {self.namespace}" if self.namespace else " in all namespaces"
        slash = f"/{self.subresource}" if self.subresource else ""
        return f"{self.verb} {self.resource}.{self.group}{slash}{place}"


class Refused(Exception):
    """Somebody gets nothing. `message` goes to whoever asked, and says nothing that he does not know."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


T = TypeVar("T")


class Reviews:
    """Asks the API server, a few questions at a time. Raises Refused where there is no answer."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(REVIEWS)
        self._waiting = 0

    async def of_token(self, token: str, audience: str) -> TokenStatus:
        """What a token is worth for an audience. Raises Refused for what cannot be one."""
        if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "there is no token in the request, or it cannot be one")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        return (await self._ask(TOKENS, body, "tokenreviews", _TokenReview, secret=token)).status

    async def allows(self, user: User, permission: Permission) -> bool:
        """Whether a user has a permission."""
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": permission.resource,
            "subresource": permission.subresource,
            "namespace": permission.namespace,
            "name": permission.name,
        }
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": list(user.groups or ()),
            "extra": {key: list(values) for key, values in (user.extra or {}).items()},
            "resourceAttributes": {key: value for key, value in attributes.items() if value},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = (await self._ask(ACCESS, body, "subjectaccessreviews", _AccessReview)).status
        return status.allowed and not status.denied

    async def _ask(self, path: str, body: object, subject: str, kind: type[T], secret: str = "") -> T:
        if self._waiting >= MAX_WAITING:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests at a time; try again")
        self._waiting += 1
        try:
            async with self._slots:
                answer = await self._client.request(
                    "POST", path, body=body, timeout=REVIEW_SECONDS, verb="create", subject=subject
                )
            return msgspec.json.decode(answer, type=kind)
        except (KubeError, msgspec.MsgspecError) as error:
            # An answer may quote what it was asked.
            text = str(error).replace(secret, "***") if secret else str(error)
            _log.error("the API server could not be asked (%s): %s", subject, text)
            text = "the API server cannot be asked about the caller now; the log of the controller says why"
            raise Refused(grpc.StatusCode.UNAVAILABLE, text) from None
        finally:
            self._waiting -= 1
