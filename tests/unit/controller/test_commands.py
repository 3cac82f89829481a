"""Who may give which command."""

from __future__ import annotations

import grpc
import pytest

from controller.commands import bearer_token, needed, user_of
from controller.reviews import Permission, Refused, TokenStatus, User
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.commands import AUDIENCE

MODEL = pb.ModelKey(namespace="team", name="llama")


@pytest.mark.parametrize(
    ("request_", "verb", "namespace", "name"),
    [
        (pb.RunRequest(disk_usage=pb.DiskUsage()), "get", "", ""),
        (pb.RunRequest(collect=pb.Collect(dry_run=True)), "get", "", ""),
        (pb.RunRequest(collect=pb.Collect()), "delete", "", ""),
        (pb.RunRequest(evict=pb.Evict(model=MODEL)), "delete", "team", "llama"),
        (pb.RunRequest(verify=pb.Verify()), "update", "", ""),
        (pb.RunRequest(verify=pb.Verify(model=MODEL)), "update", "team", "llama"),
    ],
)
def test_what_a_command_needs(request_: pb.RunRequest, verb: str, namespace: str, name: str) -> None:
    assert needed(request_) == Permission(verb, "nvidia.com", "dynamomodels", "cache", namespace, name)


def test_a_command_of_a_newer_client_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        needed(pb.RunRequest())
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_whose_token_it_is() -> None:
    admin = User(username="admin", groups=["ops"])
    assert user_of(TokenStatus(True, [AUDIENCE], admin)) == admin
    for status in (
        TokenStatus(False, [AUDIENCE], admin),
        TokenStatus(True, ["modelcache"], admin),
        TokenStatus(True, None, admin),
        TokenStatus(True, [AUDIENCE], User()),
    ):
        with pytest.raises(Refused) as refused:
            user_of(status)
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


def test_the_token_in_the_metadata() -> None:
    assert bearer_token([("user-agent", "grpc"), ("authorization", "bearer  abc ")]) == "abc"
    assert bearer_token([("authorization", "Basic abc"), ("x", b"Bearer abc")]) == ""
