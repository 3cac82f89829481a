"""Where controllers may be, and asking one of them for a certificate.

There are several replicas of which one leads, and nobody tells which. So every one is tried: a setting may name several
addresses, and a name may stand for several (a headless Service gives one for each replica). In random order, so that a
thousand agents do not come to the same one at the same time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import grpc
from grpc import aio

from agent.channel import open_channel
from agent.enrolment import EnrolmentError
from modelcache.kube.errors import printable
from modelcache.rpc.address import Address
from modelcache.rpc.modelcache_pb2 import IssueCertificateRequest
from modelcache.rpc.modelcache_pb2_grpc import EnrolmentServiceStub

ENROLMENT_SECONDS = 15.0
"""For one question, the controller's question to the API server included."""
MAX_CONTROLLERS = 16
"""Of one setting, after its names were looked up."""
_QUOTED = 300

Find = Callable[[], Awaitable[Sequence[Address]]]


def finder(addresses: Sequence[Address], rng: Random) -> Find:
    """A function that looks up `addresses` anew each time. Names that stand for nothing now are left out."""

    async def find() -> Sequence[Address]:
        found = [address for given in addresses for address in await _look_up(given)]
        unique = list(dict.fromkeys(found))[:MAX_CONTROLLERS]
        rng.shuffle(unique)
        return unique

    return find


async def _look_up(address: Address) -> Sequence[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return [Address(str(place[0]), address.port) for *_, place in found]


class Registrar:
    """Asks controllers for certificates: `ask` is what `agent.enrolment.Enrolment` wants."""

    def __init__(self, find: Find) -> None:
        self._find = find

    async def ask(self, authorities: bytes, request: bytes, token: str) -> bytes:
        """A certificate from the first controller that issues one. Raises EnrolmentError."""
        problem = "the controller's name stands for no address; check --enrolment"
        for address in await self._find():
            try:
                return await _ask(address, authorities, request, token)
            except aio.AioRpcError as error:
                details = printable(error.details() or "no details", _QUOTED).replace(token, "***")
                problem = f"the controller at {address} answers {error.code().name}: {details}"
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                    break  # the others would ask the same API server
        raise EnrolmentError(problem)


async def _ask(address: Address, authorities: bytes, request: bytes, token: str) -> bytes:
    """Raises AioRpcError."""
    async with open_channel(address, grpc.ssl_channel_credentials(authorities)) as channel:
        message = IssueCertificateRequest(signing_request=request, token=token)
        answer = await EnrolmentServiceStub(channel).IssueCertificate(message, timeout=ENROLMENT_SECONDS)
        return answer.certificate
