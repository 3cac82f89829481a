"""Tokens for certificates, certificates for everything else, and what those get who have neither."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio

from agent.channel import open_channel
from agent.enrolment import EnrolmentError
from controller.authority import new_authority
from local.ports import free_port
from modelcache.rpc import modelcache_pb2 as pb
from modelcache.rpc.address import parse_address
from modelcache.rpc.modelcache_pb2_grpc import EnrolmentServiceStub, ModelCacheServiceStub
from modelcache.tls.credentials import Credentials
from modelcache.tls.identity import CONTROLLER, Identity
from tests.integration.controller.conftest import World
from tests.support.certificates import HOUR, credentials
from tests.support.enrolling import Cluster
from tests.support.fake_agent import FakeAgent
from tests.support.waiting import PATIENCE

SYNC = "/modelcache.v1.ModelCacheService/Sync"


@pytest.fixture
async def cluster(world: World) -> AsyncIterator[Cluster]:
    """The controller of `world`, with TLS on, in a namespace of its own."""
    await world.stop()
    made = Cluster(world.api)
    await world.start(
        insecure=False, enrolment_listen=world.enrolment, namespace=made.namespace,
        health_listen=f"127.0.0.1:{free_port()}",
    )  # fmt: skip
    yield made
    made.close()


async def connect(world: World, node: str, held: Credentials) -> FakeAgent:
    """An agent of `node` with these credentials, served or refused for good."""
    agent = FakeAgent(world.address, node, credentials=held)
    world.agents.append(agent)
    await agent.start()
    while not await agent.is_served() and agent.ending and agent.ending[0] is grpc.StatusCode.NOT_FOUND:
        await agent.restart()  # the controller has not yet seen the Node
    return agent


async def test_a_token_makes_an_agent_of_its_node_and_of_no_other(world: World, cluster: Cluster) -> None:
    model, mine, other = world.model(), world.node(), world.node()
    held = await cluster.enrol(world.enrolment, cluster.token(cluster.pod(mine)))
    assert held.presented.identity == Identity(mine)
    agent = await connect(world, mine, held)
    await world.ready(model)
    assert agent.held[world.key(model)].phase == pb.PHASE_READY

    impostor = await connect(world, other, held)
    code, details = await impostor.ended()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert mine in details
    assert other in details
    assert agent.ending is None, "the impostor has not pushed anybody out"


async def test_manifests_go_to_nodes_that_should_hold_them_on_any_connection(world: World, cluster: Cluster) -> None:
    mine, other = world.node(gpu="yes"), world.node()
    model = world.model(storage={"nodeLocal": {"nodeSelector": {"gpu": "yes"}}})
    held, others = [await cluster.enrol(world.enrolment, cluster.token(cluster.pod(node))) for node in (mine, other)]
    agent = await connect(world, mine, held)
    await world.ready(model)
    wanted = agent.desired[world.key(model)]
    request = pb.GetManifestRequest(model=wanted.model, digest=wanted.manifest_digest)

    async def fetch(credentials: Credentials) -> bytes:
        async with open_channel(parse_address(world.address), credentials.channel_credentials()) as channel:
            answer = ModelCacheServiceStub(channel).GetManifest(request, timeout=PATIENCE)
            return b"".join([response.chunk async for response in answer])

    assert await fetch(held) == agent.manifests[wanted.manifest_digest].encode()
    with pytest.raises(aio.AioRpcError) as caught:
        await fetch(others)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_other_tokens_are_worth_nothing(world: World, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    node = world.node()
    cluster.account("somebody")
    gone = cluster.pod(node)
    tokens = [
        ("UNAUTHENTICATED", "a.b.c"),
        ("UNAUTHENTICATED", cluster.token(gone)),
        ("UNAUTHENTICATED", cluster.token(cluster.pod(node), audience="https://kubernetes.default.svc")),
        ("PERMISSION_DENIED", cluster.token(cluster.pod(node, "somebody"), account="somebody")),
        ("PERMISSION_DENIED", cluster.token()),
        ("INVALID_ARGUMENT", ""),
        ("INVALID_ARGUMENT", "x" * 17000),
    ]
    world.api.delete(f"{cluster.path}/pods/{gone}", gracePeriodSeconds=0)
    await world.until(lambda: world.api.get(f"{cluster.path}/pods/{gone}").status == 404, "the pod is gone")
    for code, token in tokens:
        with pytest.raises(EnrolmentError, match=code):
            await cluster.enrol(world.enrolment, token)
        assert not token or token not in caplog.text


async def test_without_a_good_certificate_there_is_no_stream(world: World, cluster: Cluster) -> None:
    node = world.node()
    good = await cluster.enrol(world.enrolment, cluster.token(cluster.pod(node)))
    authority, other = cluster.authority(), new_authority(datetime.now(UTC))
    refused = [
        credentials(other, Identity(node), trust=authority),
        credentials(authority, Identity(node), now=datetime.now(UTC) - 2 * HOUR),
        credentials(authority, CONTROLLER),
    ]
    for held in refused:
        agent = await connect(world, node, held)
        code, _ = await agent.ended()
        assert code is grpc.StatusCode.UNAVAILABLE
    async with open_channel(parse_address(world.address), grpc.ssl_channel_credentials(good.authorities)) as channel:
        stub = EnrolmentServiceStub(channel)
        with pytest.raises(aio.AioRpcError):
            await stub.IssueCertificate(pb.IssueCertificateRequest(), timeout=PATIENCE)
    # The same with TLS but at the other port: the stream is not to be had there at all. Nothing is written into it: gRPC says
    # INTERNAL instead when a write meets the end of the stream.
    async with open_channel(parse_address(world.enrolment), good.channel_credentials()) as channel:
        call = ModelCacheServiceStub(channel).Sync(timeout=PATIENCE)
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await connect(world, node, good)).ending is None


async def test_a_stream_ends_with_its_certificate(world: World, cluster: Cluster) -> None:
    node = world.node()
    await asyncio.to_thread(cluster.bundle)
    held = credentials(cluster.authority(), Identity(node), lifetime=timedelta(seconds=3))
    agent = await connect(world, node, held)
    code, details = await agent.ended()
    assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    assert "expired" in details or code is grpc.StatusCode.UNAVAILABLE


async def test_a_controller_that_is_none_is_not_believed(world: World, cluster: Cluster) -> None:
    """The agent's side: a server with a certificate of a node, or of another authority, gets neither token nor report."""
    await asyncio.to_thread(cluster.bundle)
    authority = cluster.authority()
    seen: list[object] = []

    class Liar:
        async def handle(self, request: bytes, context: object) -> bytes:
            seen.append(request)
            return b""

    fakes = [
        credentials(authority, Identity("controller.modelcache.internal")),
        credentials(new_authority(datetime.now(UTC)), CONTROLLER, trust=authority),
    ]
    for fake in fakes:
        server = aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(Liar().handle)
        service = "modelcache.v1.EnrolmentService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"IssueCertificate": handler}),))
        pair = (fake.key, fake.certificate)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        with pytest.raises(EnrolmentError, match="UNAVAILABLE"):
            await cluster.enrol(f"127.0.0.1:{port}", cluster.token())
        await server.stop(0)
    assert not seen


async def test_nonsense_and_floods_are_survived(
    world: World, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    node = world.node()
    held = await cluster.enrol(world.enrolment, cluster.token(cluster.pod(node)))
    caplog.clear()
    flood = []
    for address in (world.address, world.enrolment):
        host, port = parse_address(address)
        for number in range(100):
            connection = socket.create_connection((host, port), timeout=PATIENCE)
            flood.append(connection)
            if number % 2:
                connection.sendall(os.urandom(2000))  # no TLS
    async with open_channel(parse_address(world.enrolment), grpc.ssl_channel_credentials(held.authorities)) as channel:
        stub = EnrolmentServiceStub(channel)
        for request, code in [
            (pb.IssueCertificateRequest(signing_request=os.urandom(3000), token="a.b.c"), "INVALID_ARGUMENT"),
            (pb.IssueCertificateRequest(signing_request=os.urandom(5000), token="a.b.c"), "INVALID_ARGUMENT"),
            (pb.IssueCertificateRequest(token="a" * 10_000_000), "RESOURCE_EXHAUSTED"),
        ]:
            for _ in range(20):
                with pytest.raises(aio.AioRpcError) as caught:
                    await stub.IssueCertificate(request, timeout=PATIENCE)
                assert caught.value.code().name == code
    async with open_channel(parse_address(world.address), held.channel_credentials()) as channel:
        for garbage in (b"\xff" * 1000, b"\x0a" * 70_000_000):
            method: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SYNC)
            call = method(iter([garbage]), timeout=PATIENCE)
            with pytest.raises(aio.AioRpcError):
                await call.read()
    assert (await connect(world, node, held)).ending is None
    again = await cluster.enrol(world.enrolment, cluster.token(cluster.pod(node)))
    assert again.presented.identity == Identity(node)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([text for text in said if "certificate" in text]) <= 1, said
    for connection in flood:
        connection.close()
