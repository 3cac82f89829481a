"""Issues certificates to agents that prove their node by a token of the API server.

The agent's pod has a projected ServiceAccount token for AUDIENCE. Such a token is bound to its pod, and the API server puts
the pod's node into it and takes it back with the pod. A TokenReview tells whether it is good and whose it is; the node
comes from there and from nowhere else. What the agent says about itself is not even transmitted.

Whoever reaches the port can ask, so everything is bounded: the size of a request, the connections (`controller.server`),
the reviews under way at the API server and the requests that wait for one (`controller.reviews`). Refusals are logged, but
not each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from controller.reviews import Refused, Reviews, TokenStatus
from controller.trust import NotReady
from modelcache.kube.clock import Clock
from modelcache.loglimit import LogLimit
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.modelcache_pb2_grpc import EnrolmentServiceServicer
from modelcache.tls.certificates import CertificateError, requested_key
from modelcache.tls.identity import is_node_name

_log = logging.getLogger(__name__)

AUDIENCE = "modelcache"
NODE_CLAIM = "authentication.kubernetes.io/node-name"
"""Of `user.extra`, for tokens that are bound to a pod (Kubernetes 1.32, ServiceAccountTokenPodNodeInfo, KEP-4193)."""

Context = aio.ServicerContext[pb.IssueCertificateRequest, pb.IssueCertificateResponse]


def node_of(review: TokenStatus, account: str) -> str:
    """The node whose agent has shown a token with this review. `account` is the only user name that agents have.

    Raises Refused.
    """
    if not review.authenticated:
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the API server does not accept the token")
    if AUDIENCE not in (review.audiences or ()):
        # A server that does not know audiences answers without them, and would accept a token for anybody.
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, f"the token is not meant for the audience {AUDIENCE!r}")
    if review.user.username != account:
        message = f"the token is that of {review.user.username[:200]!r}, and only {account} may be an agent"
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, message)
    names = (review.user.extra or {}).get(NODE_CLAIM) or ()
    if len(names) != 1 or not is_node_name(names[0]):
        message = "the token names no node; it has to be the projected token of a pod (Kubernetes 1.32 or later)"
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, message)
    return names[0]


class Issuer(Protocol):
    """Signs."""

    def issue(self, key: ec.EllipticCurvePublicKey, node: str) -> bytes:
        """A certificate in DER. Raises NotReady."""


class EnrolmentService(EnrolmentServiceServicer):
    """Answers agents that have no certificate yet."""

    def __init__(
        self,
        reviews: Reviews,
        issuer: Issuer,
        account: str,
        clock: Clock,
        on_answer: Callable[[str], None] = lambda refusal: None,
    ) -> None:
        """`account` is the user name of the agents' ServiceAccount: `system:serviceaccount:<namespace>:<name>`.

        `on_answer` is told about each answer: the code of a refusal, empty for a certificate.
        """
        self._on_answer = on_answer
        self._reviews = reviews
        self._issuer = issuer
        self._account = account
        self._quietly = LogLimit(_log, clock.now)
        self.on_call: Callable[[str], None] = lambda peer: None
        """Told the address behind each call, as the first thing."""

    # As in `controller.stream`: the generated base class describes two kinds of servers in one signature.
    async def IssueCertificate(
        self, request: pb.IssueCertificateRequest, context: Context
    ) -> pb.IssueCertificateResponse:
        """A certificate for the node that the token names."""
        self.on_call(context.peer())
        try:
            certificate = await self._issue(request)
        except Refused as error:
            self._on_answer(error.code.name)
            self._quietly.warning(error.code.name, "refused a certificate to %s: %s", context.peer(), error.message)
            await context.abort(error.code, error.message)
        self._on_answer("")
        return pb.IssueCertificateResponse(certificate=certificate)

    async def _issue(self, request: pb.IssueCertificateRequest) -> bytes:
        try:
            key = requested_key(request.signing_request)
        except CertificateError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        node = node_of(await self._reviews.of_token(request.token, AUDIENCE), self._account)
        try:
            certificate = self._issuer.issue(key, node)
        except NotReady as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
        _log.info("issued a certificate for node %s", node)
        return certificate
