"""Whose token is good enough for a certificate."""

from __future__ import annotations

from typing import Any

import grpc
import msgspec
import pytest

from controller.enrolment import NODE_CLAIM, node_of
from controller.reviews import Refused, TokenStatus

ACCOUNT = "system:serviceaccount:modelcache-system:modelcache-agent"


def review(**changes: Any) -> TokenStatus:
    user = {"username": ACCOUNT, "extra": {NODE_CLAIM: ["node-a"]}, **changes.pop("user", {})}
    status = {"authenticated": True, "audiences": ["modelcache"], "user": user, **changes}
    return msgspec.convert(status, TokenStatus)


def test_the_node_is_the_one_that_the_api_server_names() -> None:
    assert node_of(review(), ACCOUNT) == "node-a"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"authenticated": False}, grpc.StatusCode.UNAUTHENTICATED),
        ({"audiences": None}, grpc.StatusCode.UNAUTHENTICATED),
        ({"audiences": ["https://kubernetes.default.svc"]}, grpc.StatusCode.UNAUTHENTICATED),
        ({"user": {"username": "system:serviceaccount:default:modelcache-agent"}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"username": "system:serviceaccount:modelcache-system:default"}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"username": "admin"}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"username": ""}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"extra": None}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"extra": {NODE_CLAIM: []}}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"extra": {NODE_CLAIM: ["node-a", "node-b"]}}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"extra": {NODE_CLAIM: ["../node"]}}}, grpc.StatusCode.PERMISSION_DENIED),
        ({"user": {"extra": {"node-name": ["node-a"]}}}, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_everybody_else_is_refused(changes: dict[str, Any], code: grpc.StatusCode) -> None:
    with pytest.raises(Refused) as caught:
        node_of(review(**changes), ACCOUNT)
    assert caught.value.code is code


def test_an_answer_without_anything_is_no_yes() -> None:
    with pytest.raises(Refused):
        node_of(msgspec.json.decode(b"{}", type=TokenStatus), ACCOUNT)
